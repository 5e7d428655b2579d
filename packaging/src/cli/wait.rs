//! `syncline wait`: until the peers are level.

use std::path::PathBuf;
use std::time::Duration;

use super::{CommandResult, Outcome};
use crate::control::client::{PROMPT, call};
use crate::control::report::WaitOutcome;
use crate::control::{Reply, Request};
use crate::mounts;
use crate::units::{Span, human_bytes};

/// Block until every peer has applied what was changed so far
///
/// All changes made at this site before the command started are made durable here and waited for; later ones are not.
/// Exit code 0: all peers are level; 1: the time is over, and who lacks how much is printed.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  cp checkpoint.pt /mnt/data/ && syncline wait /mnt/data
  syncline wait /mnt/data --peer tokyo --timeout 5min")]
pub struct Args {
    /// A path on the mount
    #[arg(value_name = "PATH", default_value = ".")]
    path: PathBuf,
    /// Wait for this site only
    #[arg(long, value_name = "SITE")]
    peer: Option<String>,
    /// Give up after this long
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    timeout: Span,
}

pub fn run(args: &Args) -> CommandResult {
    let (_, store) = mounts::find(&args.path)?;
    let timeout: Duration = args.timeout.0;
    let request = Request::Wait { peer: args.peer.clone(), timeout_ms: u64::try_from(timeout.as_millis())? };
    match call(&store, request, timeout.saturating_add(PROMPT))? {
        Reply::Waited { outcome } if outcome.is_level() => Ok(Outcome::Done),
        Reply::Waited { outcome } => {
            eprintln!("syncline: not level after {}:\n{}", args.timeout, laggards(&outcome));
            Ok(Outcome::No)
        }
        other => Err(super::unexpected(&other)),
    }
}

/// A line for each peer that lacks something.
fn laggards(outcome: &WaitOutcome) -> String {
    let lines = outcome.peers.iter().filter(|peer| !peer.level).map(|peer| {
        let error = peer.error.as_ref().map_or(String::new(), |error| format!(": {error}"));
        let bytes = peer.behind_bytes.map_or(String::new(), |bytes| format!(" ({})", human_bytes(bytes)));
        format!("  {} lacks {} records{bytes}{error}", peer.name, peer.behind_records)
    });
    lines.collect::<Vec<_>>().join("\n")
}
