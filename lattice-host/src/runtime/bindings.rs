//! Generated from `wit/`: what the host serves beyond WASI, and how it calls a message handler.

/// Imports of actors.
pub(crate) mod host {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "lattice:actor/host",
        imports: {
            "wasi:keyvalue": async | trappable,
            "wasmcloud:messaging": async | trappable,
            "lattice:actor": async | trappable,
            default: trappable,
        },
        with: {
            "wasi:keyvalue/store.bucket": crate::capability::keyvalue::OpenBucket,
        },
    });
}

/// Export of actors that take messages. Strings and bodies are borrowed: a message is copied once, into the guest.
pub(crate) mod guest {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "lattice:actor/messaging-guest",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}
