//! The rules of the house, checked: who may depend on whom, which features wasmtime has, what the actors import, and what
//! stock tools read.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Our crates and which of ours each may use outside of its tests (DESIGN, "Dependency rule"). Crates that are not listed may use none.
const MAY_USE: [(&str, &[&str]); 18] = [
    ("provider-api", &["lattice-core"]),
    ("lattice-nats", &["lattice-core"]),
    ("provider-kv-memory", &["provider-api"]),
    ("provider-kv-nats", &["provider-api", "lattice-core", "lattice-nats"]),
    ("provider-messaging-nats", &["provider-api", "lattice-core", "lattice-nats"]),
    ("provider-http-server", &["provider-api"]),
    ("provider-http-client", &["provider-api"]),
    ("provider-conformance", &["provider-api"]),
    (
        "lattice-host",
        &[
            "lattice-core",
            "lattice-nats",
            "provider-api",
            "provider-kv-memory",
            "provider-kv-nats",
            "provider-messaging-nats",
            "provider-http-server",
            "provider-http-client",
        ],
    ),
    ("lattice-ctl", &["lattice-core", "lattice-nats"]),
    // Measures the runtime in its own process (docs/adr/0003); nothing depends on it.
    ("lattice-bench", &["lattice-core", "lattice-nats", "lattice-host", "provider-api", "provider-kv-memory", "provider-kv-nats"]),
    ("edge-processor", &["lattice-core"]),
    ("scheduler", &["lattice-core"]),
    ("failover", &["lattice-core"]),
    ("sim", &["lattice-core"]),
    ("programs", &["lattice-core"]),
    ("e2e", &["lattice-core", "lattice-nats"]),
    ("chaos", &["lattice-core", "lattice-nats", "e2e"]),
];

/// Outside crates that only some of ours may use.
const ONLY_IN: [(&str, &[&str]); 6] = [
    ("wasmtime", &["lattice-host", "lattice-bench"]),
    ("clap", &["lattice-host", "lattice-ctl", "lattice-bench", "chaos"]),
    ("async-nats", &["lattice-nats", "provider-kv-nats", "provider-messaging-nats", "lattice-host", "lattice-bench", "e2e", "chaos"]),
    ("wit-bindgen", &["edge-processor", "scheduler", "failover", "programs"]),
    ("wasmcloud-component", &["edge-processor", "scheduler", "failover"]),
    ("hyper", &["provider-http-server", "provider-http-client", "lattice-host", "lattice-bench"]),
];

/// What lattice-core may use at most.
const CORE_MAY_USE: [&str; 4] = ["serde", "serde_json", "thiserror", "sha2"];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(e2e::root().join("Cargo.toml"))
        .other_options(["--locked".to_owned()])
        .exec()
        .expect("cargo metadata")
}

/// Names of the packages that each of ours uses outside of tests.
fn uses(metadata: &Metadata) -> BTreeMap<String, BTreeSet<String>> {
    let used = |package: &cargo_metadata::Package| {
        let normal = package.dependencies.iter().filter(|dependency| dependency.kind == DependencyKind::Normal);
        normal.map(|dependency| dependency.name.clone()).collect()
    };
    metadata.workspace_packages().into_iter().map(|package| (package.name.to_string(), used(package))).collect()
}

#[test]
fn each_crate_uses_only_what_it_may() {
    let uses = uses(&metadata());
    let rules: BTreeMap<&str, &[&str]> = MAY_USE.into_iter().collect();
    for (name, used) in &uses {
        let ours: BTreeSet<&str> = used.iter().map(String::as_str).filter(|other| uses.contains_key(*other)).collect();
        let allowed: BTreeSet<&str> = rules.get(name.as_str()).copied().unwrap_or_default().iter().copied().collect();
        assert!(ours.is_subset(&allowed), "{name} uses {ours:?}, it may use {allowed:?}");
    }
    let core = &uses["lattice-core"];
    assert!(core.iter().all(|name| CORE_MAY_USE.contains(&name.as_str())), "lattice-core uses {core:?}");
    for (outside, insiders) in ONLY_IN {
        for (name, _) in uses.iter().filter(|(_, used)| used.contains(outside)) {
            assert!(insiders.contains(&name.as_str()), "{name} uses {outside}, only {insiders:?} may");
        }
    }
}

#[test]
fn wasmtime_has_no_feature_that_is_not_needed() {
    let metadata = metadata();
    let resolve = metadata.resolve.as_ref().expect("a resolved graph");
    let wasmtime = metadata.packages.iter().find(|package| package.name.as_str() == "wasmtime").expect("wasmtime is used");
    let node = resolve.nodes.iter().find(|node| node.id == wasmtime.id).expect("and resolved");
    let features: BTreeSet<String> = node.features.iter().map(ToString::to_string).collect();
    let forbidden = [
        "winch",
        "gc",
        "gc-drc",
        "gc-null",
        "gc-copying",
        "threads",
        "component-model-async",
        "stack-switching",
        "profiling",
        "cache",
        "wat",
        "debug",
    ];
    for feature in forbidden {
        assert!(!features.contains(feature), "wasmtime is built with {feature}: {features:?}");
    }
    assert_eq!(wasmtime.version.major, 48, "the long-term line");
}

/// Full names of what a component imports.
fn imports(path: &std::path::Path) -> BTreeSet<String> {
    let bytes = std::fs::read(path).expect("the actor is built");
    let mut depth = 0_u32;
    let mut found = BTreeSet::new();
    for payload in wasmparser::Parser::new(0).parse_all(&bytes) {
        match payload.expect("a valid component") {
            wasmparser::Payload::ModuleSection { .. } | wasmparser::Payload::ComponentSection { .. } => depth += 1,
            wasmparser::Payload::End(_) => depth = depth.saturating_sub(1),
            wasmparser::Payload::ComponentImportSection(section) if depth == 0 => {
                found.extend(section.into_iter().map(|import| import.expect("an import").name.name.to_owned()));
            }
            _ => {}
        }
    }
    found
}

#[test]
fn edge_processor_is_small_and_imports_only_what_stock_hosts_serve() {
    for (name, config) in [("edge_processor", "wasi:config/store@0.2.0-draft"), ("edge_processor_rc1", "wasi:config/store@0.2.0-rc.1")] {
        let path = e2e::actor(name);
        let size = std::fs::metadata(&path).expect("it is there").len();
        assert!(size <= 300_000, "{name} has {size} bytes");
        let imports = imports(&path);
        assert!(imports.contains(config), "{name}: {imports:?}");
        for import in &imports {
            assert!(import == config || is_portable(import), "{name} imports {import}");
        }
    }
}

#[test]
fn the_scheduler_imports_what_it_needs_and_nothing_more() {
    let path = e2e::actor("scheduler");
    let size = std::fs::metadata(&path).expect("it is there").len();
    assert!(size <= 1_500_000, "{size} bytes");
    let needed = [
        "lattice:actor/store@0.1.0",
        "wasi:keyvalue/store@0.2.0-draft",
        "wasmcloud:messaging/consumer@0.2.0",
        "wasmcloud:messaging/types@0.2.0",
        "wasi:logging/logging@0.1.0-draft",
    ];
    let imports = imports(&path);
    for needed in needed.iter().filter(|name| !name.ends_with("types@0.2.0")) {
        assert!(imports.contains(*needed), "{needed} not in {imports:?}");
    }
    for import in &imports {
        let is_core =
            ["wasi:cli/", "wasi:clocks/", "wasi:io/", "wasi:random/", "wasi:http/types@"].iter().any(|core| import.starts_with(core));
        assert!(is_core || needed.contains(&import.as_str()), "the scheduler imports {import}");
    }
    let lines = ["lib.rs", "answer.rs", "http.rs"].map(|file| {
        let text = std::fs::read_to_string(e2e::root().join("actors/scheduler/src").join(file)).expect("its source");
        text.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with("//")).count()
    });
    assert!(lines.iter().sum::<usize>() <= 300, "it is glue: {lines:?} lines");
}

/// Whether wasmCloud 1.9 and 2.x serve it, too.
fn is_portable(import: &str) -> bool {
    let (path, version) = import.split_once('@').expect("a version");
    let (package, interface) = path.split_once('/').expect("an interface");
    match (package, interface) {
        ("wasi:logging", "logging") => version == "0.1.0-draft",
        ("wasi:keyvalue", "store" | "atomics" | "batch") => version == "0.2.0-draft",
        ("wasmcloud:messaging", "consumer" | "types") => version == "0.2.0",
        ("wasi:cli" | "wasi:clocks" | "wasi:io" | "wasi:random", _) | ("wasi:http", "types") => {
            version.strip_prefix("0.2.").is_some_and(|patch| patch.bytes().all(|byte| byte.is_ascii_digit()))
        }
        _ => false,
    }
}

#[test]
fn the_manifest_has_the_shape_that_stock_wadm_takes() {
    let text = std::fs::read_to_string(e2e::root().join("wadm/edge-processor.yaml")).expect("the manifest");
    let manifest: serde_json::Value = serde_saphyr::from_str(&text).expect("YAML");
    assert_eq!((&manifest["apiVersion"], &manifest["kind"]), (&"core.oam.dev/v1beta1".into(), &"Application".into()));
    let keys = |value: &serde_json::Value| value.as_object().expect("a map").keys().cloned().collect::<BTreeSet<_>>();
    let within = |value: &serde_json::Value, allowed: &[&str]| {
        let keys = keys(value);
        assert!(keys.iter().all(|key| allowed.contains(&key.as_str())), "{keys:?} not in {allowed:?}");
    };
    within(&manifest, &["apiVersion", "kind", "metadata", "spec"]);
    let components = manifest["spec"]["components"].as_array().expect("components");
    for component in components {
        within(component, &["name", "type", "properties", "traits"]);
        within(&component["properties"], &["image", "application", "id", "config", "secrets"]);
        let traits = component["traits"].as_array().cloned().unwrap_or_default();
        for each in &traits {
            within(each, &["type", "properties"]);
            match each["type"].as_str() {
                Some("spreadscaler" | "daemonscaler") => within(&each["properties"], &["instances", "spread"]),
                Some("link") => within(&each["properties"], &["target", "namespace", "package", "interfaces", "source", "name"]),
                other => panic!("{other:?} is no stock trait"),
            }
        }
        let scaled = traits.iter().any(|each| each["type"] != "link");
        assert!(scaled || component["type"] != "component", "stock wadm starts nothing without a scaler: {}", component["name"]);
    }
}

#[test]
fn keys_are_never_committed() {
    let ignored = std::fs::read_to_string(e2e::root().join("keys/.gitignore")).expect("keys/.gitignore");
    assert!(ignored.lines().any(|line| line.trim() == "*"), "{ignored}");
}

/// The names of tests in a document: words in backticks that look like functions, in tables whose head has a column `test`.
fn named_tests(document: &str) -> BTreeSet<String> {
    let mut column = None;
    let mut names = BTreeSet::new();
    for line in document.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        match cells.iter().position(|cell| *cell == "test") {
            Some(position) => column = Some(position),
            None if !line.starts_with('|') => column = None,
            None => {
                let cell = column.and_then(|column| cells.get(column)).copied().unwrap_or_default();
                let words = cell.split('`').skip(1).step_by(2);
                names.extend(words.filter(|word| word.contains('_')).map(str::to_owned));
            }
        }
    }
    names
}

#[test]
fn the_failure_modes_name_tests_that_exist() {
    let names = named_tests(&std::fs::read_to_string(e2e::root().join("docs/FAILURE_MODES.md")).expect("the document"));
    assert!(names.len() > 20, "{names:?}");
    let mut folders: Vec<std::path::PathBuf> = Vec::new();
    for top in ["lattice-core", "lattice-nats", "lattice-host", "lattice-ctl", "providers", "actors", "tests"] {
        folders.push(e2e::root().join(top));
    }
    let mut sources = String::new();
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push_str(&std::fs::read_to_string(path).expect("a source"));
            }
        }
    }
    let missing: Vec<&String> = names.iter().filter(|name| !sources.contains(&format!("fn {name}()"))).collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}
