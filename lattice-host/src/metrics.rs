//! What `/metrics` shows. Everything here is atomic counters that many tasks share; nothing is decided by them.

use std::sync::Arc;
use std::time::Duration;

use lattice_core::id::ActorId;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// Buckets of the durations of invocations: 50 µs, doubling, up to 26 s.
const DURATION_BUCKETS: (f64, f64, u16) = (0.000_05, 2.0, 20);

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// `handle-message`, from a subscription.
    HandleMessage,
    /// `handle-message`, from `lattice-ctl call`.
    Call,
    /// An HTTP request.
    Http,
}

impl Operation {
    const ALL: [Self; 3] = [Self::HandleMessage, Self::Call, Self::Http];

    fn label(self) -> &'static str {
        match self {
            Self::HandleMessage => "handle-message",
            Self::Call => "call",
            Self::Http => "http",
        }
    }
}

/// How it can end.
const OK: &str = "ok";
const ERROR: &str = "error";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Component {
    component: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Invocation {
    component: String,
    operation: &'static str,
    outcome: &'static str,
}

/// All metrics of a host.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    invocations: Family<Invocation, Counter>,
    durations: Family<Component, Histogram, fn() -> Histogram>,
    instances: Family<Component, Gauge>,
    dropped: Family<Component, Counter>,
    dead_letters: Family<Component, Counter>,
    /// Linear memory of all actors.
    pub(crate) memory: Gauge,
    /// 1 while there is a connection to NATS.
    pub(crate) connected: Gauge,
    /// Generation that is applied.
    pub(crate) generation: Gauge,
    /// Host-level errors.
    pub(crate) errors: Counter,
    /// State changes that were not recorded.
    pub(crate) events_dropped: Counter,
}

/// The metrics of one actor, looked up once.
#[derive(Debug, Clone)]
pub(crate) struct ActorMetrics {
    outcomes: Arc<[(Operation, Counter, Counter)]>,
    durations: Histogram,
    /// Messages that were dropped because the actor did not keep up.
    pub(crate) dropped: Counter,
    /// Messages that were given up.
    pub(crate) dead_letters: Counter,
}

impl ActorMetrics {
    /// Counts one invocation that took `duration`.
    pub(crate) fn count(&self, operation: Operation, ok: bool, duration: Duration) {
        if let Some((_, good, bad)) = self.outcomes.iter().find(|(of, ..)| *of == operation) {
            if ok {
                good.inc()
            } else {
                bad.inc()
            };
        }
        self.durations.observe(duration.as_secs_f64());
    }
}

impl Metrics {
    pub(crate) fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("lattice");
        let build = vec![("version", env!("CARGO_PKG_VERSION")), ("revision", option_env!("LATTICE_REVISION").unwrap_or("unknown"))];
        registry.register("build", "Program that runs", Info::new(build));
        let mut metrics = Self {
            registry: Registry::default(),
            invocations: Family::default(),
            durations: Family::new_with_constructor(histogram),
            instances: Family::default(),
            dropped: Family::default(),
            dead_letters: Family::default(),
            memory: Gauge::default(),
            connected: Gauge::default(),
            generation: Gauge::default(),
            errors: Counter::default(),
            events_dropped: Counter::default(),
        };
        registry.register("component_invocations", "Calls of actors", metrics.invocations.clone());
        registry.register_with_unit(
            "component_invocation_duration",
            "How long calls of actors took",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        registry.register("component_instances", "Instances of actors that may run at once", metrics.instances.clone());
        registry.register("component_dropped_messages", "Messages dropped because an actor did not keep up", metrics.dropped.clone());
        registry.register("component_dead_letters", "Durable messages given up after answered failures", metrics.dead_letters.clone());
        registry.register_with_unit("host_memory", "Linear memory of all actors", Unit::Bytes, metrics.memory.clone());
        registry.register("nats_connected", "Whether there is a connection to NATS", metrics.connected.clone());
        registry.register("applied_generation", "Generation of the plan that is applied", metrics.generation.clone());
        registry.register("host_errors", "Errors of the host itself: disk, NATS, providers", metrics.errors.clone());
        registry.register(
            "events_dropped",
            "State changes that did not fit into the queue to the event stream",
            metrics.events_dropped.clone(),
        );
        metrics.registry = registry;
        Arc::new(metrics)
    }

    /// The metrics of one actor.
    pub(crate) fn actor(&self, actor: &ActorId) -> ActorMetrics {
        let component = actor.to_string();
        let counter = |operation: Operation, outcome| {
            let labels = Invocation { component: component.clone(), operation: operation.label(), outcome };
            self.invocations.get_or_create_owned(&labels)
        };
        let outcomes = Operation::ALL.map(|operation| (operation, counter(operation, OK), counter(operation, ERROR)));
        let label = Component { component: component.clone() };
        ActorMetrics {
            outcomes: outcomes.into(),
            durations: self.durations.get_or_create_owned(&label),
            dropped: self.dropped.get_or_create_owned(&label),
            dead_letters: self.dead_letters.get_or_create_owned(&label),
        }
    }

    /// How many instances an actor has now.
    pub(crate) fn set_instances(&self, actor: &ActorId, instances: u32) {
        self.instances.get_or_create_owned(&Component { component: actor.to_string() }).set(i64::from(instances));
    }

    /// Takes an actor out that is no longer assigned: the number of series stays bounded by what runs.
    pub(crate) fn forget(&self, actor: &ActorId) {
        let label = Component { component: actor.to_string() };
        for operation in Operation::ALL.map(Operation::label) {
            for outcome in [OK, ERROR] {
                self.invocations.remove(&Invocation { component: label.component.clone(), operation, outcome });
            }
        }
        self.durations.remove(&label);
        self.instances.remove(&label);
        self.dropped.remove(&label);
        self.dead_letters.remove(&label);
    }

    /// Everything in the OpenMetrics text format.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

fn histogram() -> Histogram {
    let (start, factor, length) = DURATION_BUCKETS;
    Histogram::new(exponential_buckets(start, factor, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_documented() {
        let metrics = Metrics::new();
        let actor = ActorId::new("edge-processor").unwrap();
        metrics.actor(&actor).count(Operation::HandleMessage, true, Duration::from_millis(1));
        metrics.set_instances(&actor, 4);
        let text = metrics.text();
        for line in [
            r#"lattice_component_invocations_total{component="edge-processor",operation="handle-message",outcome="ok"} 1"#,
            r#"lattice_component_invocation_duration_seconds_count{component="edge-processor"} 1"#,
            r#"lattice_component_instances{component="edge-processor"} 4"#,
            "lattice_host_memory_bytes 0",
            "lattice_nats_connected 0",
            "lattice_build_info{",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        metrics.forget(&actor);
        assert!(!metrics.text().contains("edge-processor"));
    }
}
