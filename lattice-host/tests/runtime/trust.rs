//! Who may run and what may be called: the gate at each way to load code, and policies at each way out of and into an actor.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use lattice_core::claims::sections::Carried;
use lattice_core::claims::{Claim, Refused};
use lattice_core::contract::Contract;
use lattice_core::id::{ConfigName, Digest, LatticeName, LinkName};
use lattice_core::link::KindSettings;
use lattice_core::policy::force::{InForce, Preset};
use lattice_core::policy::rules::Rule;
use lattice_core::policy::scope::Scope;
use lattice_core::policy::{Bundle, SecurityPolicy};
use lattice_core::trust::PublicKey;
use lattice_core::trust::clock::Time;
use lattice_host::runtime::{
    Actor, Backend, BoundLink, Gatekeeper, InvokeError, LoadError, Loaded, NoGate, Prepared, ReplyRoute, Runtime, Shield,
};
use provider_api::messaging::Message;

use crate::world::{World, call, config, link, message, program, settings};

/// Lets everything in, or nothing.
#[derive(Default)]
struct Gate {
    shut: AtomicBool,
}

impl Gate {
    fn ask(&self) -> Result<(), Refused> {
        if self.shut.load(Ordering::SeqCst) { Err(Refused::Unsigned { token_only: false }) } else { Ok(()) }
    }
}

impl Gatekeeper for Gate {
    fn asks(&self) -> bool {
        true
    }

    fn check(&self, _carried: &Carried) -> Result<(), Refused> {
        self.ask()
    }

    fn admit(&self, _carried: &Carried) -> Result<Option<Claim>, Refused> {
        self.ask().map(|()| None)
    }
}

async fn load(runtime: &Runtime, wasm: &Bytes) -> Result<(), String> {
    let fetched = wasm.clone();
    let loaded = runtime.load(&Digest::of(wasm), async { Ok::<_, std::io::Error>(fetched) }).await;
    loaded.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn code_is_judged_before_it_is_compiled_and_at_each_load() {
    let gate = Arc::new(Gate::default());
    let world = World::guarded(gate.clone(), Shield::open());
    let wasm = program("echo");
    let refused = Err("invalid claim: it is not signed".to_owned());
    let cached = || {
        std::fs::read_dir(world.dir.path().join("cache"))
            .unwrap()
            .filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "cwasm"))
            .count()
    };

    gate.shut.store(true, Ordering::SeqCst);
    assert_eq!(load(&world.runtime, &wasm).await, refused, "fetched");
    let prepared = world.runtime.prepare(&Digest::of(&wasm), async { Ok::<_, std::io::Error>(wasm.clone()) }).await;
    assert!(matches!(prepared, Err(LoadError::Claim { .. })), "ahead of need");
    assert_eq!(cached(), 0, "nothing was compiled");

    gate.shut.store(false, Ordering::SeqCst);
    let prepared = world.runtime.prepare(&Digest::of(&wasm), async { Ok::<_, std::io::Error>(wasm.clone()) }).await.unwrap();
    assert_eq!((prepared, cached()), (Prepared::Done, 1));
    gate.shut.store(true, Ordering::SeqCst);
    assert_eq!(load(&world.runtime, &wasm).await, refused, "from the cache");

    gate.shut.store(false, Ordering::SeqCst);
    let held = world.load(wasm.clone()).await.unwrap();
    gate.shut.store(true, Ordering::SeqCst);
    assert_eq!(load(&world.runtime, &wasm).await, refused, "in memory");
    drop(held);

    let second = Runtime::guarded(config(world.dir.path().join("cache")), gate.clone(), Shield::open()).unwrap();
    assert_eq!(load(&second, &wasm).await, refused, "after a restart");
    gate.shut.store(false, Ordering::SeqCst);
    assert_eq!(load(&second, &wasm).await, Ok(()));
}

/// Lets everything be compiled, and so much of it run.
struct Turnstile(AtomicU32);

impl Gatekeeper for Turnstile {
    fn asks(&self) -> bool {
        true
    }

    fn check(&self, _carried: &Carried) -> Result<(), Refused> {
        Ok(())
    }

    fn admit(&self, _carried: &Carried) -> Result<Option<Claim>, Refused> {
        let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map(|_| None).map_err(|_| Refused::Unsigned { token_only: false })
    }
}

#[tokio::test]
async fn code_is_judged_again_after_it_was_compiled_whoever_waited_for_it() {
    let wasm = program("echo");
    let refused = |loaded: Result<Loaded, LoadError>| matches!(loaded, Err(LoadError::Claim { .. }));
    let world = World::guarded(Arc::new(Turnstile(AtomicU32::new(0))), Shield::open());
    assert!(refused(world.load(wasm.clone()).await), "compiled, and not let run");
    let world = World::guarded(Arc::new(Turnstile(AtomicU32::new(1))), Shield::open());
    let (first, second) = tokio::join!(world.load(wasm.clone()), world.load(wasm.clone()));
    assert!(first.is_ok() && refused(second), "what somebody else has loaded meanwhile");
}

/// Remembers what it was asked about.
#[derive(Default)]
struct Witness(std::sync::Mutex<Vec<Carried>>);

impl Gatekeeper for Witness {
    fn asks(&self) -> bool {
        true
    }

    fn check(&self, _carried: &Carried) -> Result<(), Refused> {
        Ok(())
    }

    fn admit(&self, carried: &Carried) -> Result<Option<Claim>, Refused> {
        self.0.lock().unwrap().push(carried.clone());
        Ok(None)
    }
}

#[tokio::test]
async fn what_code_carries_is_kept_with_it() {
    let witness = Arc::new(Witness::default());
    let world = World::guarded(witness.clone(), Shield::open());
    let mut wasm = program("echo").to_vec();
    lattice_core::claims::sections::append(&mut wasm, lattice_core::claims::sections::CLAIM_SECTION, b"{\"not\": \"a claim\"}");
    let wasm = Bytes::from(wasm);
    let held = world.load(wasm.clone()).await.unwrap();
    load(&world.runtime, &wasm).await.unwrap();
    drop(held);
    let second = Runtime::guarded(config(world.dir.path().join("cache")), witness.clone(), Shield::open()).unwrap();
    second.load(&Digest::of(&wasm), async { Err::<Bytes, _>(std::io::Error::other("not again")) }).await.unwrap();
    let expected = Carried::read(&wasm).unwrap();
    assert_eq!(*witness.0.lock().unwrap(), [expected.clone(), expected.clone(), expected]);

    // Whoever changes it beside the machine code has made it a file that is not ours.
    let mut files = std::fs::read_dir(world.dir.path().join("cache")).unwrap().map(|file| file.unwrap().path());
    let cached = files.find(|path| path.extension().is_some_and(|extension| extension == "cwasm")).unwrap();
    let mut file = std::fs::read(&cached).unwrap();
    let at = file.windows(7).rposition(|bytes| bytes == b"a claim").unwrap();
    file[at] = b'b';
    std::fs::write(&cached, file).unwrap();
    let third = Runtime::guarded(config(world.dir.path().join("cache")), witness, Shield::open()).unwrap();
    let loaded = third.load(&Digest::of(&wasm), async { Err::<Bytes, _>(std::io::Error::other("needed again")) }).await;
    assert!(matches!(loaded, Err(LoadError::Fetch { .. })));
}

/// A policy `edge v3`.
pub(crate) fn policy(allowed: &[&str], denied: &[&str], memory_mb: Option<u32>) -> InForce {
    in_force(allowed, denied, memory_mb, &[])
}

/// The same that allows everything, but to internal addresses only.
pub(crate) fn internal_only() -> InForce {
    in_force(&["*"], &[], None, &["internal-only"])
}

fn in_force(allowed: &[&str], denied: &[&str], memory_mb: Option<u32>, network: &[&str]) -> InForce {
    let rules = |texts: &[&str]| texts.iter().map(|text| Rule::new(*text).unwrap()).collect();
    let policy = SecurityPolicy {
        policy_id: ConfigName::new("edge").unwrap(),
        version: 3,
        allowed_contracts: rules(allowed),
        denied_contracts: rules(denied),
        max_actor_memory_mb: memory_mb,
        network_restrictions: network.iter().map(|word| (*word).to_owned()).collect(),
    };
    let bundle = Bundle {
        policy,
        lattice: LatticeName::new("default").unwrap(),
        scope: Scope::All,
        issued_at: 0,
        not_before: 0,
        expires: 10,
        issuer: PublicKey::new(format!("A{}", "A".repeat(55))).unwrap(),
        revoked_keys: BTreeSet::new(),
        allow_older: BTreeSet::new(),
    };
    InForce::of_bundles([&bundle], Preset::Open, Time::exact(1))
}

#[tokio::test]
async fn each_way_out_of_an_actor_is_asked_about() {
    let shield = Shield::open();
    let world = World::guarded(Arc::new(NoGate), shield.clone());
    let actor = world.actor("kv-user", |_| {}).await;
    call(&actor, "set a 1").await.unwrap();
    let check = async |denied: &str, body: &str, why: &str| {
        shield.raise(policy(&["*"], &[denied], None));
        let failed = call(&actor, body).await.unwrap_err();
        assert!(matches!(&failed, InvokeError::Outage(text) if text.contains(why)), "no fault of the message: {denied} {body}: {failed}");
        shield.raise(policy(&["*"], &[], None));
        call(&actor, body).await.unwrap_or_else(|error| panic!("{body} is allowed again: {error}"));
    };
    for body in ["open default", "get a", "set a 1", "exists a", "list", "delete b"] {
        check("wasi:keyvalue/store", body, "access denied").await;
    }
    check("wasi:keyvalue/atomics", "increment n 1", "access denied").await;
    for body in ["get-many a", "set-many v x", "delete-many x"] {
        check("wasi:keyvalue/batch", body, "access denied").await;
    }
    for contract in ["wasmcloud:keyvalue", "wasi:keyvalue", "wasi:keyvalue/*"] {
        check(contract, "get a", "access denied").await;
    }
    let sending = "capability denied: wasmcloud:messaging: policy edge v3 denies it";
    check("wasmcloud:messaging/consumer", "publish edge.result.eu x", sending).await;
    // A reply is published, too.
    check("wasmcloud:messaging/consumer", "get a", sending).await;
    // A request fails by itself, without a reply that would.
    let request = Message { reply_to: None, ..message("request edge.result.eu 1000 x") };
    let ask = async || actor.handle_message(request.clone(), ReplyRoute::None).await.map(drop).map_err(|error| error.to_string());
    shield.raise(policy(&["*"], &["wasmcloud:messaging/consumer"], None));
    assert!(ask().await.unwrap_err().contains(sending));
    shield.raise(policy(&["*"], &[], None));
    assert_eq!(ask().await, Ok(()));
    let denials = world.log.denials.lock().unwrap().join("\n");
    assert!(denials.contains("wasmcloud:keyvalue: policy edge v3 denies it (rule `"), "{denials}");
}

#[tokio::test]
async fn each_way_into_an_actor_is_asked_about() {
    let shield = Shield::open();
    let world = World::guarded(Arc::new(NoGate), shield.clone());
    let actor = world.actor("echo", |_| {}).await;
    shield.raise(policy(&["*"], &["wasmcloud:messaging/handler"], None));
    let failed = call(&actor, "x").await.unwrap_err();
    assert!(matches!(failed, InvokeError::Denied { .. }), "{failed}");
    assert_eq!(failed.problem("echo").code.exit_code(), 6);
    assert!(failed.to_string().starts_with("capability denied: wasmcloud:messaging: policy edge v3 denies it"), "{failed}");
    let denials = world.log.denials.lock().unwrap().clone();
    assert!(denials[0].starts_with("wasmcloud:messaging: policy edge v3 denies it"), "{denials:?}");
    shield.raise(policy(&["*"], &["wasi:http/incoming-handler"], None));
    assert_eq!(call(&actor, "x").await.unwrap(), "x");

    let loaded = world.load(program("http-hello")).await.unwrap();
    let links = vec![BoundLink { spec: link(Contract::HttpServer, "default", &[], &[]), backend: Backend::HttpServer }];
    let hello = Actor::new(&world.runtime, loaded, settings("http-hello"), links).unwrap();
    let get = async || {
        let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
        let request = http::Request::builder().uri("/").header("host", "localhost").body(body).unwrap();
        let response = hello.handle_http(request, &LinkName::new("default").unwrap()).await;
        let status = response.status().as_u16();
        (status, String::from_utf8_lossy(&response.into_body().collect().await.unwrap().to_bytes()).into_owned())
    };
    let (status, body) = get().await;
    assert!(status == 403 && body.contains("capability denied: wasmcloud:httpserver: policy edge v3"), "{status} {body}");
    shield.raise(policy(&["*"], &[], None));
    assert_eq!(get().await.0, 200);
}

#[tokio::test]
async fn lattice_s_own_actors_are_beyond_policy() {
    let shield = Shield::open();
    let world = World::guarded(Arc::new(NoGate), shield.clone());
    let make = async |system: bool| {
        let mut messaging = world.messaging(&[("subscription", "edge.sensor.eu")]);
        let KindSettings::Messaging(kind) = &mut messaging.spec.settings.kind else { panic!("a messaging link") };
        kind.system = system;
        let loaded = world.load(program("echo")).await.unwrap();
        Actor::new(&world.runtime, loaded, settings("echo"), vec![messaging]).unwrap()
    };
    let (own, other) = (make(true).await, make(false).await);
    shield.raise(policy(&[], &["*"], Some(1)));
    assert_eq!(call(&own, "x").await.unwrap(), "x");
    assert!(matches!(call(&other, "x").await, Err(InvokeError::Denied { .. })));
}

#[tokio::test]
async fn a_lower_cap_applies_to_growth_and_to_the_next_instance() {
    let shield = Shield::open();
    let world = World::guarded(Arc::new(NoGate), shield.clone());
    let bomb = world.actor("memory-bomb", |settings| settings.limits.memory_mb = 64).await;
    let taken = async || {
        let failed = call(&bomb, "").await.unwrap_err().to_string();
        let words: Vec<&str> = failed.split_whitespace().collect();
        words.iter().find_map(|word| word.parse::<u32>().ok()).unwrap_or_else(|| panic!("{failed}"))
    };
    let free = taken().await;
    shield.raise(policy(&["*"], &[], Some(16)));
    let capped = taken().await;
    assert!(free > 40 && capped < 16, "{free} {capped}");
    shield.raise(policy(&["*"], &[], Some(1)));
    let failed = call(&bomb, "").await.unwrap_err();
    assert!(matches!(failed, InvokeError::OutOfMemory(_)), "not even an instance: {failed}");
    shield.raise(policy(&["*"], &[], None));
    assert_eq!(taken().await, free);
}
