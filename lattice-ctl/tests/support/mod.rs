//! The program itself, in a folder of its own.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// A folder with keys.
pub(crate) struct Desk {
    folder: TempDir,
}

/// What the program answered.
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Desk {
    /// With an account and a module key.
    pub(crate) fn new() -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        for kind in ["account", "module"] {
            desk.run(&["keys", "gen", kind]).ok();
        }
        desk
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Runs the program in the folder, untouched by the environment of whoever runs the tests.
    pub(crate) fn run(&self, arguments: &[&str]) -> Answer {
        run_in(self.folder.path(), arguments)
    }

    /// The public part of a key.
    pub(crate) fn public(&self, name: &str) -> String {
        let keys = self.run(&["keys", "list", "-o", "json"]).json();
        let key = keys.as_array().unwrap().iter().find(|key| key["name"] == name).unwrap();
        key["public_key"].as_str().unwrap().to_owned()
    }
}

fn run_in(folder: &Path, arguments: &[&str]) -> Answer {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lattice-ctl"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["LATTICE_", "WASMCLOUD_", "WASH_"].iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.env("HOME", folder).env_remove("XDG_CONFIG_HOME");
    let Output { status, stdout, stderr } = command.args(arguments).current_dir(folder).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Answer { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
}

impl Answer {
    /// It worked.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self
    }

    /// It did not, with this code and these words.
    pub(crate) fn fails(self, code: i32, words: &str) -> Self {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        assert!(self.err.contains(words), "{} ~ {words}", self.err);
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }
}

/// A component that exports a message handler and does nothing; another for each `tag`.
pub(crate) fn component(tag: &str) -> Vec<u8> {
    const HANDLER: &str = "wasmcloud:messaging/handler@0.2.0";
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    let mut section = |number: u8, content: &[u8]| {
        bytes.extend([number, u8::try_from(content.len()).unwrap()]);
        bytes.extend(content);
    };
    // A custom section, an instance without exports, and that instance under the handler's name.
    section(0, &[&[3], &b"tag"[..], tag.as_bytes()].concat());
    section(5, &[1, 1, 0]);
    section(11, &[&[1, 0, u8::try_from(HANDLER.len()).unwrap()], HANDLER.as_bytes(), &[5, 0, 0]].concat());
    bytes
}
