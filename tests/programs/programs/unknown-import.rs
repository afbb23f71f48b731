//! Takes messages, but needs an interface that no host has ever heard of.

#[allow(unsafe_code, clippy::allow_attributes_without_reason, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({
        inline: "
            package test:unknown-import@0.1.0;
            interface rocket {
                launch: func() -> string;
            }
            world unknown-import {
                import rocket;
            }
        ",
    });
}

use programs::BrokerMessage;

programs::program!(answer);

fn answer(_message: BrokerMessage) -> Result<Vec<u8>, String> {
    Ok(bindings::test::unknown_import::rocket::launch().into_bytes())
}
