//! Signing, looking and judging, as people do it: the program, real keys, files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly")]

mod support;

use std::os::unix::fs::PermissionsExt as _;

use lattice_core::claims::sections::{self, CLAIM_SECTION, Carried, TOKEN_SECTION};
use serde_json::json;
use support::{Desk, component};

const FILE: &str = "edge_processor.wasm";

fn desk() -> Desk {
    let desk = Desk::new();
    desk.write(FILE, component("one"));
    desk
}

fn sign(desk: &Desk, more: &[&str]) -> support::Answer {
    let words = ["claim", "sign", FILE, "--issuer", "keys/account.nk", "--subject", "keys/module.nk", "-o", "json"];
    desk.run(&[&words[..], more].concat())
}

fn verify(desk: &Desk, more: &[&str]) -> support::Answer {
    desk.run(&[&["claim", "verify", FILE, "--issuer", "keys/account.nk"], more].concat())
}

#[test]
fn signed_inspected_and_believed() {
    let desk = desk();
    verify(&desk, &[])
        .fails(6, "actor start failed: invalid claim: it is not signed")
        .fails(6, "lattice-ctl claim sign edge_processor.wasm");
    desk.run(&["claim", "inspect", FILE]).fails(4, "is not signed");

    let signed =
        sign(&desk, &["--name", "edge-processor", "--expires", "30d", "--allow", "wasi:keyvalue,wasmcloud:messaging", "--ver", "1.2"])
            .ok()
            .json();
    assert_eq!(signed["claim"]["version"], "1.2.0");
    assert_eq!(signed["claim"]["allow"], json!(["wasmcloud:keyvalue", "wasmcloud:messaging"]));
    let verified = verify(&desk, &["-o", "json"]).ok().json();
    assert_eq!((&verified["claim"], &verified["signature"]), (&signed["claim"], &json!("holds")));
    assert_eq!(verified["claim"]["issuer"], desk.public("account").as_str());
    assert_eq!(verified["claim"]["subject"], desk.public("module").as_str());
    let inspected = desk.run(&["claims", "inspect", FILE, "-o", "json"]).ok().json();
    assert_eq!(inspected["token"]["wascap"]["caps"], json!(["wasmcloud:keyvalue", "wasmcloud:messaging"]));
    assert_eq!(inspected["token"]["exp"], inspected["claim"]["expires"]);
    let validity = inspected["claim"]["expires"].as_u64().unwrap() - inspected["claim"]["issued_at"].as_u64().unwrap();
    assert_eq!(validity, 30 * 86_400);
    assert!(desk.run(&["claim", "inspect", FILE]).ok().out.contains("Allows     wasmcloud:keyvalue, wasmcloud:messaging"));
    // Nothing may be allowed, too.
    assert_eq!(sign(&desk, &["--allow", ""]).ok().json()["claim"]["allow"], json!([]));
    // The code is as it was.
    assert_eq!(sections::strip(&desk.read(FILE)).unwrap(), component("one"));
}

#[test]
fn what_is_not_given_is_taken_from_the_claim_that_is_there() {
    let desk = desk();
    let first = sign(&desk, &["--name", "edge", "--rev", "7", "--lattice", "plant"]).ok().json();
    assert_eq!(first["claim"]["allow"], json!(["wasmcloud:messaging"]), "what it exports");
    let second = sign(&desk, &["--expires", "2y"]).ok().json();
    for field in ["name", "revision", "allow", "subject", "lattice", "digest"] {
        assert_eq!(first["claim"][field], second["claim"][field], "{field}");
    }
    assert_ne!(first["claim"]["expires"], second["claim"]["expires"]);
    let carried = Carried::read(&desk.read(FILE)).unwrap();
    assert!(carried.claim.is_some() && carried.token.is_some(), "one of each, not two");
    // The name of a file that was never signed, somewhere else.
    desk.write("other_file.wasm", component("two"));
    desk.run(&["claim", "sign", "other_file.wasm", "-d", "signed.wasm"]).ok();
    let mode = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(desk.path("signed.wasm"), mode.clone()).unwrap();
    desk.run(&["claim", "sign", "other_file.wasm", "-d", "signed.wasm"]).ok();
    assert_eq!(std::fs::metadata(desk.path("signed.wasm")).unwrap().permissions().mode() & 0o777, mode.mode());
    assert_eq!(desk.read("other_file.wasm"), component("two"));
    let other = desk.run(&["claim", "inspect", "signed.wasm", "-o", "json"]).ok().json();
    assert_eq!((&other["claim"]["name"], &other["claim"]["revision"]), (&json!("other-file"), &json!(0)));
}

#[test]
fn judged_by_issuer_lattice_and_time() {
    let desk = desk();
    desk.run(&["keys", "gen", "account", "--name", "other"]).ok();
    sign(&desk, &["--lattice", "plant"]).ok();
    desk.run(&["claim", "verify", FILE, "--issuer", "keys/other.nk"]).fails(6, "is not trusted here").fails(6, "claim sign");
    desk.run(&["claim", "verify", FILE, "--issuer", &desk.public("account")]).ok();
    verify(&desk, &["--lattice", "default"]).fails(6, "signed for lattice `plant`, not for `default`");
    assert!(desk.run(&["claim", "verify", FILE]).ok().err.contains("taken at its word"));
    sign(&desk, &["--not-before", "1h"]).ok();
    verify(&desk, &[]).fails(6, "not valid before");
    sign(&desk, &["--expires", "0s"]).ok();
    verify(&desk, &[]).fails(6, "invalid claim: expired");
}

#[test]
fn changed_after_signing() {
    let desk = desk();
    sign(&desk, &[]).ok();
    let signed = desk.read(FILE);
    let carried = Carried::read(&signed).unwrap();
    let rebuilt = |code: &[u8], claim: &str, token: Option<&str>| {
        let mut file = code.to_vec();
        sections::append(&mut file, CLAIM_SECTION, claim.as_bytes());
        if let Some(token) = token {
            sections::append(&mut file, TOKEN_SECTION, token.as_bytes());
        }
        desk.write(FILE, file);
    };
    let (claim, token) = (carried.claim.as_deref().unwrap(), carried.token.as_deref().unwrap());
    let code = component("one");
    rebuilt(&code, claim, Some(token));
    verify(&desk, &[]).ok();
    rebuilt(&component("two"), claim, None);
    verify(&desk, &[]).fails(6, "the code was changed after it was signed");
    assert!(desk.run(&["claim", "inspect", FILE]).ok().out.contains("but the code was changed"));
    rebuilt(&code, &claim.replace("\"revision\":0", "\"revision\":9"), None);
    verify(&desk, &[]).fails(6, "wrong signature");
    rebuilt(&code, claim, Some(&token.replacen('.', "..", 1)));
    verify(&desk, &[]).fails(6, "the wascap token beside the claim");
    // A token without algorithm, as forgers write it.
    let none = "eyJ0eXAiOiJqd3QiLCJhbGciOiJub25lIn0";
    rebuilt(&code, claim, Some(&token.replacen(token.split('.').next().unwrap(), none, 1)));
    verify(&desk, &[]).fails(6, "algorithm `none`");
    // The token of another signature over the same code.
    let (first_claim, first_token) = (claim.to_owned(), token.to_owned());
    rebuilt(&code, &first_claim, Some(&first_token));
    sign(&desk, &["--rev", "1"]).ok();
    let second = Carried::read(&desk.read(FILE)).unwrap();
    rebuilt(&code, second.claim.as_deref().unwrap(), Some(&first_token));
    verify(&desk, &[]).fails(6, "the wascap token beside the claim");
    // Two claims: neither counts.
    let mut twice = signed.clone();
    sections::append(&mut twice, CLAIM_SECTION, claim.as_bytes());
    desk.write(FILE, twice);
    verify(&desk, &[]).fails(6, "more than one section");
    // And what is cut is no component, or not the one that was signed.
    for end in [0, 7, 9, 40, signed.len() / 2, signed.len() - 1] {
        desk.write(FILE, &signed[..end]);
        assert_ne!(verify(&desk, &[]).code, 0, "{end}");
    }
}

#[test]
fn what_cannot_be_signed() {
    let desk = desk();
    for (kind, words) in [("user", "is of kind `user`"), ("operator", "is of kind `operator`"), ("server", "is of kind `server`")] {
        desk.run(&["keys", "gen", kind]).ok();
        desk.run(&["claim", "sign", FILE, "--issuer", &format!("keys/{kind}.nk")]).fails(2, words);
    }
    desk.run(&["claim", "sign", FILE, "--issuer", "keys/none.nk"]).fails(4, "keys gen account");
    desk.run(&["claim", "sign", FILE, "--subject", "keys/account.nk"]).fails(2, "needed is a module key");
    desk.run(&["claim", "sign", FILE, "--allow", "wasmcloud:telepathy"]).fails(2, "unknown contract `wasmcloud:telepathy`");
    desk.run(&["claim", "sign", FILE, "--ver", "1.0.0-rc.1"]).fails(2, "one to three numbers");
    desk.run(&["claim", "sign", FILE, "--expires", "11y"]).fails(2, "more than ten years");
    desk.run(&["claim", "sign", FILE, "--expires", "-1d"]).fails(2, "");
    desk.run(&["claim", "sign", FILE, "--name", "a\nb"]).fails(2, "its name");
    desk.write("module.wasm", b"\0asm\x01\0\0\0");
    desk.run(&["claim", "sign", "module.wasm"]).fails(1, "signing failed: module.wasm: a core WebAssembly module");
    desk.run(&["claim", "sign", "missing.wasm"]).fails(5, "signing failed: missing.wasm");
    assert_eq!(desk.read(FILE), component("one"), "nothing was written");
    desk.run(&["keys", "gen", "account", "--name", "open"]).ok();
    std::fs::set_permissions(desk.path("keys/open.nk"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    desk.run(&["claim", "sign", FILE, "--issuer", "keys/open.nk"]).fails(6, "others may read it").fails(6, "chmod 600");
}

/// Signed by wascap 0.16.2 with a key of its own: what stock tools write is shown, and is not enough.
#[test]
fn a_token_of_stock_tools() {
    let desk = desk();
    desk.write(FILE, include_bytes!("stock.wasm"));
    let inspected = desk.run(&["claim", "inspect", FILE, "-o", "json"]).ok().json();
    assert_eq!((&inspected["token"]["wascap"]["name"], &inspected["token"]["wascap"]["rev"]), (&json!("stock"), &json!(7)));
    assert_eq!(
        inspected["token"]["wascap"]["hash"],
        sections::token_hash(include_bytes!("stock.wasm")).unwrap(),
        "the same hash as wascap's"
    );
    desk.run(&["claim", "verify", FILE]).fails(6, "a wascap token alone");
    sign(&desk, &["--name", "edge"]).ok();
    verify(&desk, &[]).ok();
}
