//! `failover status`.

use clap::Args;
use lattice_core::wire::failover::FailoverStatus;
use lattice_core::wire::verdict::Verdict;
use serde::Serialize;

use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::failover;
use crate::output::{Document, Output, columns};
use crate::system;

/// Show how failure detection stands: settings, hosts with their verdicts, what is frozen or kept from moving
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl failover status
  lattice-ctl failover status -o json")]
pub(crate) struct Status {
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Found(FailoverStatus);

impl Status {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.connection).await?;
        output.print(&Found(failover::status(&session, system::PATIENCE).await?))
    }
}

impl Document for Found {
    fn text(&self, _wide: bool) -> String {
        let status = &self.0;
        let ready = if status.ready { "observes" } else { "has just started to observe" };
        let downtime = status.measured_downtime_ms.map(|ms| format!(", first result after {ms} ms (median)")).unwrap_or_default();
        let mut lines = vec![
            format!("{} {ready}; {} failovers{downtime}", status.node, status.total),
            format!(
                "profile={} heartbeat_timeout_ms={} max_error_count={} auto_failover={}",
                status.profile.as_str(),
                status.heartbeat_timeout_ms,
                status.max_error_count,
                status.auto_failover
            ),
        ];
        lines.extend(status.faults.iter().map(|fault| format!("setting {fault} makes no sense and has no effect")));
        let verdict = |node: &str| status.verdicts.iter().find(|verdict| verdict.name.as_str() == node);
        let rows = status.hosts.iter().map(|host| {
            let verdict = verdict(&host.node_id);
            vec![
                host.node_id.clone(),
                host.status.clone(),
                host.actor_count.to_string(),
                format!("{}ms", host.last_heartbeat_ms),
                host.error_count.to_string(),
                verdict.map_or_else(|| "-".to_owned(), |verdict| verdict.standing.as_str().to_owned()),
                verdict.map_or_else(String::new, |verdict: &Verdict| verdict.reason.clone()),
            ]
        });
        lines.push(String::new());
        lines.push(columns(&["HOST", "STATE", "ACTORS", "HEARTBEAT", "ERRORS", "VERDICT", "REASON"], rows));
        lines.extend(status.frozen.iter().map(|(region, ms)| format!("region {region} is frozen for {ms} ms: nothing moves there")));
        lines.extend(status.quarantined.iter().map(|kept| format!("actor {} is in quarantine: {}", kept.actor, kept.reason)));
        lines.extend(status.running.iter().map(|running| format!("failover of {} is under way: {}", running.name, running.reason)));
        lines.join("\n")
    }

    fn names(&self) -> Vec<String> {
        self.0.hosts.iter().map(|host| format!("host/{}", host.node_id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_core::timing::TimingProfile;
    use lattice_core::wire::failover::HealthCheck;

    #[test]
    fn for_people() {
        let found = Found(FailoverStatus {
            node: "NEDGE01".into(),
            version: "0.1.0".into(),
            profile: TimingProfile::Lan,
            heartbeat_timeout_ms: 30_000,
            max_error_count: 5,
            auto_failover: true,
            faults: vec!["`colour` = `red`".into()],
            ready: true,
            gaps: 0,
            hosts: vec![HealthCheck {
                node_id: "NEDGE02".into(),
                status: "Healthy".into(),
                actor_count: 2,
                last_heartbeat_ms: 120,
                error_count: 0,
            }],
            verdicts: Vec::new(),
            frozen: [(lattice_core::id::Region::new("eu").unwrap(), 1500)].into(),
            quarantined: Vec::new(),
            running: Vec::new(),
            total: 3,
            measured_downtime_ms: Some(140),
        });
        let text = found.text(false);
        assert!(text.starts_with("NEDGE01 observes; 3 failovers, first result after 140 ms (median)\nprofile=lan"), "{text}");
        assert!(text.contains("setting `colour` = `red` makes no sense"), "{text}");
        assert!(text.contains("NEDGE02  Healthy  2       120ms      0       -"), "{text}");
        assert!(text.ends_with("region eu is frozen for 1500 ms: nothing moves there"), "{text}");
    }
}
