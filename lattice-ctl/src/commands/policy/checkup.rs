//! What `doctor` says about policies: which are about to end, and which hosts enforce something else than what is stored.

use lattice_core::id::{ConfigName, LatticeName};
use lattice_core::policy::report::{Compliance, Enforced, compliance};
use lattice_core::policy::scope::Facts;
use lattice_core::trust::clock::Standing;
use lattice_core::wire::report::HostReport;
use lattice_nats::policies::StoredPolicy;

use super::document::Opened;
use crate::commands::signing::now_s;
use crate::connection::Session;
use crate::error::Outcome;
use crate::view::View;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::commands) enum Weight {
    /// As it should be.
    Fine,
    /// It will be wrong, or may be.
    Soon,
    /// It is wrong.
    Wrong,
}

/// One sentence, with what to do.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::commands) struct Finding {
    pub(in crate::commands) weight: Weight,
    pub(in crate::commands) detail: String,
    pub(in crate::commands) hint: Option<&'static str>,
}

/// Looks at all policies and all hosts.
///
/// # Errors
/// As the store.
pub(in crate::commands) async fn checkup(session: &Session, view: &View) -> Outcome<Vec<Finding>> {
    let stored = session.lattice.read_policies().await?;
    Ok(findings(stored.iter(), session.name(), view, now_s()))
}

fn findings<'a>(
    stored: impl Iterator<Item = (&'a ConfigName, &'a StoredPolicy)>,
    lattice: &LatticeName,
    view: &View,
    now_s: u64,
) -> Vec<Finding> {
    let (mut found, mut count) = (Vec::new(), 0_usize);
    for (name, stored) in stored {
        count += 1;
        match Opened::of(stored, name, lattice) {
            Some(opened) => judge(&opened, view, now_s, &mut found),
            None => found.push(Finding {
                weight: Weight::Wrong,
                detail: format!("policy {name} cannot be read: hosts keep what they had"),
                hint: Some("`lattice-ctl policy put` with a higher version replaces it"),
            }),
        }
    }
    for host in view.inventory.hosts.values() {
        found.extend(host.policy.as_ref().and_then(|said| trouble(host, said)));
    }
    if found.is_empty() {
        let hosts = view.inventory.hosts.len();
        let detail = if count == 0 { "none".to_owned() } else { format!("{count}, as stored on {hosts} hosts") };
        found.push(Finding { weight: Weight::Fine, detail, hint: None });
    }
    found
}

fn judge(opened: &Opened, view: &View, now_s: u64, found: &mut Vec<Finding>) {
    let wanted = opened.wanted();
    let named = format!("policy {} v{}", wanted.policy, wanted.version);
    if let Some(warning) = opened.warning(now_s) {
        let over = opened.flaw.is_some() || opened.bundle.expires <= now_s;
        found.push(Finding {
            weight: if over { Weight::Wrong } else { Weight::Soon },
            detail: format!("{named}: {warning}"),
            hint: Some("`lattice-ctl policy put` with a higher version renews it"),
        });
    }
    for host in view.inventory.hosts.values() {
        let facts = Facts { id: &host.id, name: &host.name, region: &host.region, labels: &host.labels };
        let (weight, what) = match compliance(&wanted, &facts, host.policy.as_ref()) {
            Compliance::Complies => continue,
            Compliance::Behind { has: Some(has) } => (Weight::Wrong, format!("enforces v{has}")),
            Compliance::Behind { has: None } => (Weight::Wrong, "does not enforce it".to_owned()),
            Compliance::Refuses { why, .. } => (Weight::Wrong, format!("refuses it: {why}")),
            Compliance::Silent => (Weight::Soon, "does not say what it enforces".to_owned()),
        };
        let hint = Some("`lattice-ctl policy status` shows every host, `policy sync` waits for them");
        found.push(Finding { weight, detail: format!("{named}: {} {what}", host.name), hint });
    }
}

/// What keeps a host from enforcing anything as it should.
fn trouble(host: &HostReport, said: &Enforced) -> Option<Finding> {
    let wrong = |what: String, hint| Some(Finding { weight: Weight::Wrong, detail: format!("{}: {what}", host.name), hint: Some(hint) });
    if let Some(lost) = &said.lost {
        return wrong(format!("{lost}; nothing is allowed there"), "it reads them again once it reaches the bus");
    }
    match said.clock {
        Standing::Trusted => None,
        Standing::Behind => wrong("its clock shows a time that has passed".to_owned(), "set its clock"),
        Standing::Apart => wrong("its clock is far from the server's".to_owned(), "set its clock, or the server's"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{host, view};
    use bytes::Bytes;
    use lattice_core::desired::Desired;
    use lattice_core::id::Revision;
    use lattice_core::policy::force::Preset;
    use lattice_core::policy::report::Refusal;

    fn said(version: Option<u64>) -> Enforced {
        Enforced {
            policies: version.map(|version| (ConfigName::new("edge").unwrap(), version)).into_iter().collect(),
            elsewhere: [].into(),
            refused: [].into(),
            preset: Preset::Open,
            lost: None,
            no_starts: None,
            clock: Standing::Trusted,
        }
    }

    fn lattice() -> LatticeName {
        LatticeName::new("default").unwrap()
    }

    #[test]
    fn hosts_and_policies_that_are_not_as_they_should_be() {
        let opened = super::super::watch::tests::opened(4, "*");
        let refusal = Refusal::new(&opened.stored.document, "wrong signature");
        let mut view = view(4, Desired::default());
        let mut says = |n: u8, what: Option<Enforced>| view.inventory.hosts.get_mut(&host(n)).unwrap().policy = what;
        says(0, Some(said(Some(4))));
        says(1, Some(said(Some(3))));
        says(2, None);
        let refused = [(ConfigName::new("edge").unwrap(), refusal)].into();
        says(3, Some(Enforced { refused, clock: Standing::Apart, ..said(None) }));
        let mut found = Vec::new();
        // Valid until 200, in seconds since 1970.
        judge(&opened, &view, 150, &mut found);
        let details: Vec<&str> = found.iter().map(|finding| finding.detail.as_str()).collect();
        assert!(details[0].starts_with("policy edge v4: expires "), "{details:?}");
        assert_eq!(
            details[1..],
            [
                "policy edge v4: NEDGE02 enforces v3",
                "policy edge v4: NEDGE03 does not say what it enforces",
                "policy edge v4: NEDGE04 refuses it: wrong signature"
            ]
        );
        assert_eq!(
            found.iter().map(|finding| finding.weight).collect::<Vec<_>>(),
            [Weight::Soon, Weight::Wrong, Weight::Soon, Weight::Wrong]
        );
        let mut over = Vec::new();
        judge(&opened, &view, 200, &mut over);
        assert_eq!(over[0].weight, Weight::Wrong);
        let broken = StoredPolicy { document: Bytes::from_static(b"{"), revision: Revision(1) };
        let name = ConfigName::new("x").unwrap();
        let found = findings([(&name, &broken)].into_iter(), &lattice(), &view, 150);
        let details: Vec<&str> = found.iter().map(|finding| finding.detail.as_str()).collect();
        assert_eq!(details, ["policy x cannot be read: hosts keep what they had", "NEDGE04: its clock is far from the server's"]);
    }

    #[test]
    fn nothing_to_say() {
        let found = findings([].into_iter(), &lattice(), &view(2, Desired::default()), 150);
        assert_eq!(found, [Finding { weight: Weight::Fine, detail: "none".into(), hint: None }]);
    }
}
