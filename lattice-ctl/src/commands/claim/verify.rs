//! `claim verify`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use lattice_core::claims::marks::Marks;
use lattice_core::claims::{self, Rules};
use lattice_core::id::LatticeName;
use lattice_core::trust::Place;
use lattice_core::trust::clock::Time;

use super::{Described, carried, component};
use crate::commands::signing::{Nkeys, now_s, public_key};
use crate::connection::DEFAULT_LATTICE;
use crate::error::Outcome;
use crate::output::Output;
use crate::problems;

/// Say whether a host would believe a component's claim: exit code 0 if so, 6 if not
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl claim verify edge_processor.wasm --issuer keys/account.nk
  lattice-ctl claim verify edge_processor.wasm --issuer ACPJ… --lattice plant-7")]
pub(crate) struct Verify {
    /// The component
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Accounts that are trusted: public keys or key files; without it, whoever signed it
    #[arg(long, short = 'i', value_name = "KEY", value_delimiter = ',')]
    issuer: Vec<String>,

    /// Lattice in which it shall run [default: default, or the one that it is for]
    #[arg(long, short = 'x', value_name = "NAME")]
    lattice: Option<LatticeName>,
}

impl Verify {
    pub(super) fn run(self, output: &Output) -> Outcome {
        let artifact = component(&self.file, "verifying")?;
        let carried = carried(&self.file, &artifact.bytes)?;
        let claim = carried.unverified();
        let mut trusted = self.issuer.iter().map(|text| public_key(text)).collect::<Result<BTreeSet<_>, _>>()?;
        if trusted.is_empty() {
            trusted.extend(claim.as_ref().map(|claim| claim.issuer.clone()));
        }
        let meant = self.lattice.clone().or_else(|| claim.and_then(|claim| claim.lattice));
        let lattice = meant.map_or_else(|| LatticeName::new(DEFAULT_LATTICE), Ok).map_err(|error| problems::name(&error))?;
        let place = Place { lattice: &lattice, time: Time::exact(now_s()) };
        let (revoked, permits) = (BTreeSet::new(), BTreeSet::new());
        let rules = Rules { trusted: &trusted, revoked: &revoked, permits: &permits, marks: &Marks::default(), place };
        let verdict = claims::verify(&carried, &rules, &Nkeys);
        let verified = verdict.map_err(|refused| refused.problem(&self.file.to_string_lossy(), Some(&carried), &trusted))?;
        if self.issuer.is_empty() {
            output.note(&format!("note: nobody was named who is trusted, so {} was taken at its word", verified.claim().issuer));
        }
        output.print(&Described::new(&self.file, carried, Some("holds".to_owned())))
    }
}
