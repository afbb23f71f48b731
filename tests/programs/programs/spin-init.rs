//! Never finishes its initialisation, so that it can be compiled but not instantiated.

use programs::BrokerMessage;

programs::program!(answer);

fn answer(message: BrokerMessage) -> Result<Vec<u8>, String> {
    Ok(message.body)
}

/// By this name the host runs it as a part of the instantiation.
#[expect(unsafe_code, reason = "an export by name")]
#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    loop {
        std::hint::black_box(());
    }
}
