//! What the guest programs of the tests share: bindings, and the way from a message to its answer.
//!
//! Each file in `programs/` is one component with one behaviour, most of them bad:
//! `cargo build --target wasm32-wasip2 --profile actor -p programs --examples` puts them into
//! `<target>/wasm32-wasip2/actor/examples/`. Each says at its top what it does with a message; payloads are plain text.

pub mod command;
pub mod kernels;
pub mod placing;

/// Bindings of world `program`.
#[allow(unsafe_code, unused_qualifications, unreachable_pub, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "program",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_program",
        default_bindings_module: "programs::bindings",
    });
}

/// Bindings of world `http-guest`.
#[allow(unsafe_code, unused_qualifications, unreachable_pub, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod http {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "http-guest",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_http",
        default_bindings_module: "programs::http",
    });
}

/// Bindings of world `http-user`.
#[allow(unsafe_code, unused_qualifications, unreachable_pub, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod outgoing {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "http-user",
        generate_all,
    });
}

pub use bindings::exports::wasmcloud::messaging::handler::{BrokerMessage, Guest};
use bindings::wasi::logging::logging::{Level, log};
use bindings::wasmcloud::messaging::consumer;

/// Makes a component of `fn(BrokerMessage) -> Result<Vec<u8>, String>`: an answer goes to whoever waits for one, an error
/// is the handler's error.
#[macro_export]
macro_rules! program {
    ($answer:path) => {
        struct Program;

        impl $crate::Guest for Program {
            fn handle_message(message: $crate::BrokerMessage) -> Result<(), String> {
                let reply_to = message.reply_to.clone();
                $crate::reply(reply_to, $answer(message)?)
            }
        }

        $crate::bindings::export_program!(Program);
    };
}

/// Makes a component of `fn(&BrokerMessage) -> Result<(), String>`: it answers nothing and calls nothing for that, so that it
/// runs in a host that serves none of its imports, too.
#[macro_export]
macro_rules! worker {
    ($work:path) => {
        struct Worker;

        impl $crate::Guest for Worker {
            fn handle_message(message: $crate::BrokerMessage) -> Result<(), String> {
                $work(&message)
            }
        }

        $crate::bindings::export_program!(Worker);
    };
}

/// Sends an answer to the reply subject, or to the log if nobody waits for it.
///
/// # Errors
/// The host's reason for refusing to send.
pub fn reply(reply_to: Option<String>, body: Vec<u8>) -> Result<(), String> {
    match reply_to {
        Some(subject) => publish(&subject, body),
        None => {
            log(Level::Info, "answer", &String::from_utf8_lossy(&body));
            Ok(())
        }
    }
}

/// Publishes `body` on `subject`.
///
/// # Errors
/// The host's reason for refusing.
pub fn publish(subject: &str, body: Vec<u8>) -> Result<(), String> {
    consumer::publish(&BrokerMessage { subject: subject.to_owned(), body, reply_to: None })
}

/// The payload as text.
///
/// # Errors
/// It is none.
pub fn text(message: &BrokerMessage) -> Result<&str, String> {
    std::str::from_utf8(&message.body).map(str::trim).map_err(|error| format!("payload: {error}"))
}

/// The payload as a number, `default` if it is empty.
///
/// # Errors
/// It is none.
pub fn number(message: &BrokerMessage, default: u64) -> Result<u64, String> {
    match text(message)? {
        "" => Ok(default),
        text => text.parse().map_err(|error| format!("payload `{text}`: {error}")),
    }
}
