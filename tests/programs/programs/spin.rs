//! Never comes back and calls nobody.

use programs::BrokerMessage;

programs::program!(answer);

fn answer(_message: BrokerMessage) -> Result<Vec<u8>, String> {
    loop {
        std::hint::black_box(());
    }
}
