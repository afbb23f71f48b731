//! The two ways to write what a link is about: the article's `wasmcloud:keyvalue default`, and wash's `wasi keyvalue
//! --interface store --link-name default`. A colon tells them apart.

use std::collections::BTreeSet;

use lattice_core::contract::Contract;
use lattice_core::error::Problem;
use lattice_core::id::LinkName;

use crate::problems;

/// Link name that nobody gave.
pub(super) const DEFAULT_NAME: &str = "default";

/// What a link is about and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) contract: Contract,
    pub(super) name: LinkName,
}

/// Reads `first second`, as they stand after the two ends of a link.
///
/// # Errors
/// A usage problem that names the word.
pub(super) fn read(first: &str, second: Option<&str>, interfaces: &[String], flag: Option<&LinkName>) -> Result<Shape, Problem> {
    let invalid = |error: &dyn std::fmt::Display| problems::usage(error.to_string());
    if first.contains(':') {
        let contract = Contract::parse(first).map_err(|error| invalid(&error))?;
        let positional = second.map(LinkName::new).transpose().map_err(|error| problems::name(&error))?;
        if let (Some(positional), Some(flag)) = (&positional, flag)
            && positional != flag
        {
            return Err(problems::usage(format!("the link is named twice: {positional}, and {flag} by --link-name")));
        }
        if interfaces.iter().any(|interface| !belongs(contract, interface)) {
            return Err(problems::usage(format!("--interface {}: {contract} has {}", interfaces.join(","), known(contract))));
        }
        return Ok(Shape { contract, name: positional.or_else(|| flag.cloned()).map_or_else(default_name, Ok)? });
    }
    let Some(package) = second else {
        return Err(problems::usage(format!("`{first}` is no contract"))
            .hint("write wasmcloud:keyvalue default, or wasi keyvalue --interface store"));
    };
    let package = format!("{first}:{package}");
    let mut found = BTreeSet::new();
    for interface in interfaces.iter().filter(|interface| *interface != "types") {
        let contract = Contract::of_interface(&package, interface);
        found.insert(contract.ok_or_else(|| problems::usage(format!("no provider serves {package}/{interface}")))?);
    }
    let contract = match found.into_iter().collect::<Vec<_>>().as_slice() {
        [] => Contract::parse(&package).map_err(|error| invalid(&error))?,
        [contract] => *contract,
        _ => return Err(problems::usage(format!("--interface {}: these need a link each", interfaces.join(",")))),
    };
    Ok(Shape { contract, name: flag.cloned().map_or_else(default_name, Ok)? })
}

pub(super) fn default_name() -> Result<LinkName, Problem> {
    LinkName::new(DEFAULT_NAME).map_err(|error| problems::name(&error))
}

fn belongs(contract: Contract, interface: &str) -> bool {
    interface == "types" || contract.imports().contains(&interface) || contract.exports().contains(&interface)
}

fn known(contract: Contract) -> String {
    [contract.imports(), contract.exports()].concat().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        let check = |first: &str, second: Option<&str>, interfaces: &[&str], flag: Option<&str>, expected: Option<(Contract, &str)>| {
            let interfaces: Vec<String> = interfaces.iter().map(|name| (*name).to_owned()).collect();
            let flag = flag.map(|name| LinkName::new(name).unwrap());
            let found = read(first, second, &interfaces, flag.as_ref());
            match expected {
                Some((contract, name)) => assert_eq!(found.unwrap(), Shape { contract, name: LinkName::new(name).unwrap() }),
                None => assert!(found.is_err(), "{first} {second:?} {interfaces:?}: {found:?}"),
            }
        };
        check("wasmcloud:keyvalue", Some("default"), &[], None, Some((Contract::KeyValue, "default")));
        check("wasmcloud:messaging", Some("cloud-sync"), &[], None, Some((Contract::Messaging, "cloud-sync")));
        check("wasmcloud:httpserver", None, &[], None, Some((Contract::HttpServer, "default")));
        check("wasmcloud:httpserver", None, &[], Some("web"), Some((Contract::HttpServer, "web")));
        check("wasi:keyvalue/store@0.2.0-draft", None, &[], None, Some((Contract::KeyValue, "default")));
        check("wasi", Some("keyvalue"), &["store", "atomics"], Some("default"), Some((Contract::KeyValue, "default")));
        check("wasi", Some("http"), &["incoming-handler"], None, Some((Contract::HttpServer, "default")));
        check("wasi", Some("http"), &["outgoing-handler", "types"], None, Some((Contract::HttpClient, "default")));
        check("wasmcloud", Some("messaging"), &["consumer", "handler", "types"], None, Some((Contract::Messaging, "default")));
        check("wasi", Some("http"), &["incoming-handler", "outgoing-handler"], None, None);
        check("wasi", Some("blobstore"), &[], None, None);
        check("wasi", None, &[], None, None);
        check("keyvalue", None, &[], None, None);
        check("wasmcloud:blobstore", Some("default"), &[], None, None);
        check("wasmcloud:keyvalue", Some("a b"), &[], None, None);
        check("wasmcloud:keyvalue", Some("a"), &[], Some("b"), None);
        check("wasmcloud:keyvalue", Some("a"), &["handler"], None, None);
    }
}
