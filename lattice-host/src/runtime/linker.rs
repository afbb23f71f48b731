//! What an actor may call: built from its links, nothing else.
//!
//! **Invariant:** an interface that no link covers is not in the linker, so a component that imports it cannot be
//! instantiated. Nothing is filtered afterwards, except which bucket, subject or operation a link covers.

use std::collections::BTreeSet;

use lattice_core::contract::Contract;
use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker};
use wasmtime_wasi_http::{WasiHttp, WasiHttpView as _};

use super::bindings::host::{wasi, wasmcloud};
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
    wasmtime_wasi_http::p2::bindings::http::types::add_to_linker::<_, WasiHttp>(l, &wasmtime_wasi_http::p2::bindings::LinkOptions::default().into(), State::http)?;
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
            // The first is an export of actors. The second has no provider yet, and so nobody can have a link for it.
            Contract::HttpServer | Contract::HttpClient => {}
        }
    }
    Ok(linker)
}

fn itself(state: &mut State) -> &mut State {
    state
}
