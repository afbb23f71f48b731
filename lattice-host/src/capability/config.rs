//! `wasi:config/store` in its two drafts: the named values that the operator gave the actor.

use crate::runtime::bindings::host::wasi::{config0_2_0_draft, config0_2_0_rc_1};
use crate::runtime::state::State;

fn get(state: &State, key: &str) -> Option<String> {
    state.around.config.get(key).cloned()
}

fn all(state: &State) -> Vec<(String, String)> {
    state.around.config.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

impl config0_2_0_draft::store::Host for State {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, config0_2_0_draft::store::Error>> {
        Ok(Ok(get(self, &key)))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, config0_2_0_draft::store::Error>> {
        Ok(Ok(all(self)))
    }
}

impl config0_2_0_rc_1::store::Host for State {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, config0_2_0_rc_1::store::Error>> {
        Ok(Ok(get(self, &key)))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, config0_2_0_rc_1::store::Error>> {
        Ok(Ok(all(self)))
    }
}
