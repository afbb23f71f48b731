//! What an actor may call: built from its links, nothing else.
//!
//! **Invariant:** an interface that no link covers is not in the linker, so a component that imports it cannot be
//! instantiated. Nothing is filtered afterwards, except which bucket, subject or operation a link covers.

use std::collections::BTreeSet;

use lattice_core::contract::Contract;
use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker};
use wasmtime_wasi_http::{WasiHttp, WasiHttpView as _};

use super::bindings::host::{lattice, wasi, wasmcloud};
use super::state::State;
use crate::capability::logging;

type Own = HasSelf<State>;

/// The linker of an actor that has links of these contracts.
///
/// Everybody has: WASI 0.2 core with nothing behind it (see [`State`]), the types of wasi:http and of messaging, logging,
/// and both drafts of wasi:config.
pub(crate) fn linker(engine: &Engine, contracts: &BTreeSet<Contract>) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    let l = &mut linker;
    wasmtime_wasi::p2::add_to_linker_async(l)?;
    wasmtime_wasi_http::p2::bindings::http::types::add_to_linker::<_, WasiHttp>(
        l,
        &wasmtime_wasi_http::p2::bindings::LinkOptions::default().into(),
        State::http,
    )?;
    wasi::logging::logging::add_to_linker::<_, Own>(l, itself)?;
    logging::add_unversioned(l)?;
    wasi::config0_2_0_draft::store::add_to_linker::<_, Own>(l, itself)?;
    wasi::config0_2_0_rc_1::store::add_to_linker::<_, Own>(l, itself)?;
    wasmcloud::messaging::types::add_to_linker::<_, Own>(l, itself)?;
    for contract in contracts {
        match contract {
            Contract::KeyValue => {
                wasi::keyvalue::store::add_to_linker::<_, Own>(l, itself)?;
                wasi::keyvalue::atomics::add_to_linker::<_, Own>(l, itself)?;
                wasi::keyvalue::batch::add_to_linker::<_, Own>(l, itself)?;
            }
            Contract::Messaging => wasmcloud::messaging::consumer::add_to_linker::<_, Own>(l, itself)?,
            Contract::Store => lattice::actor::store::add_to_linker::<_, Own>(l, itself)?,
            Contract::HttpClient => {
                wasmtime_wasi_http::p2::bindings::http::outgoing_handler::add_to_linker::<_, WasiHttp>(l, State::sending)?
            }
            // An export of actors.
            Contract::HttpServer => {}
        }
    }
    Ok(linker)
}

fn itself(state: &mut State) -> &mut State {
    state
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::engine::{Purpose, engine};

    /// Functions of the host by the contract whose link brings them; `None`: everybody has them. WASI has the version that
    /// wasmtime defines it with; components may ask for another 0.2.
    const ENTRIES: [(Option<Contract>, &str, &[&str]); 18] = [
        (None, "wasi:cli/environment@0.2.12", &["get-environment", "get-arguments", "initial-cwd"]),
        (None, "wasi:cli/exit@0.2.12", &["exit"]),
        (None, "wasi:clocks/monotonic-clock@0.2.12", &["now", "resolution", "subscribe-instant", "subscribe-duration"]),
        (None, "wasi:filesystem/preopens@0.2.12", &["get-directories"]),
        (None, "wasi:io/poll@0.2.12", &["poll", "[method]pollable.ready", "[method]pollable.block"]),
        (None, "wasi:random/random@0.2.12", &["get-random-bytes", "get-random-u64"]),
        (None, "wasi:sockets/tcp-create-socket@0.2.12", &["create-tcp-socket"]),
        (None, "wasi:http/types@0.2.12", &["[static]response-outparam.set", "[method]incoming-request.consume"]),
        (None, "wasi:logging/logging@0.1.0-draft", &["log"]),
        (None, "wasi:logging/logging", &["log"]),
        (None, "wasi:config/store@0.2.0-draft", &["get", "get-all"]),
        (None, "wasi:config/store@0.2.0-rc.1", &["get", "get-all"]),
        (
            Some(Contract::KeyValue),
            "wasi:keyvalue/store@0.2.0-draft",
            &[
                "open",
                "[method]bucket.get",
                "[method]bucket.set",
                "[method]bucket.delete",
                "[method]bucket.exists",
                "[method]bucket.list-keys",
            ],
        ),
        (Some(Contract::KeyValue), "wasi:keyvalue/atomics@0.2.0-draft", &["increment"]),
        (Some(Contract::KeyValue), "wasi:keyvalue/batch@0.2.0-draft", &["get-many", "set-many", "delete-many"]),
        (Some(Contract::Messaging), "wasmcloud:messaging/consumer@0.2.0", &["request", "publish"]),
        (Some(Contract::Store), "lattice:actor/store@0.1.0", &["get", "list", "create", "update", "commit", "info"]),
        (Some(Contract::HttpClient), "wasi:http/outgoing-handler@0.2.12", &["handle"]),
    ];

    /// A linker does not tell what is in it, but refuses to define a name twice.
    fn holds(linker: &mut Linker<State>, interface: &str, function: &str) -> bool {
        let mut instance = linker.instance(interface).unwrap();
        instance.func_wrap(function, |_, (): ()| Ok(())).is_err()
    }

    #[test]
    fn only_links_bring_entries() {
        let engine = engine(Purpose::Compile).unwrap();
        let mut sets = vec![BTreeSet::new(), Contract::ALL.into()];
        sets.extend(Contract::ALL.map(|contract| BTreeSet::from([contract])));
        for contracts in sets {
            let mut linker = linker(&engine, &contracts).unwrap();
            for (needed, interface, functions) in ENTRIES {
                let served = needed.is_none_or(|contract| contracts.contains(&contract));
                for function in functions {
                    assert_eq!(holds(&mut linker, interface, function), served, "{interface} {function} with links for {contracts:?}");
                }
            }
        }
    }
}
