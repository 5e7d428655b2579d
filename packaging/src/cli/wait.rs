//! `syncline wait`: until the peers are level.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{CommandResult, Outcome};
use crate::control::client::{PROMPT, follow};
use crate::control::report::{WaitOutcome, WaitedPeer};
use crate::control::{MAX_WAIT, Reply, Request};
use crate::lanes::LaneName;
use crate::mounts;
use crate::units::{Span, human_bytes, human_seconds};

/// How often progress is printed where lines can't be overwritten.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Block until every peer has applied what was changed below a path so far
///
/// What this site has changed at PATH, below it, and in the names that lead to it, before the command started, is made durable here and waited
/// for; later changes are not, nor are changes elsewhere. At the mount point itself, and where there are more than 100,000 files below
/// PATH, everything that this site has changed is waited for. Returns at once where all have it.
///
/// Exit code 0: they have it; 1: the time is over, and who lacks how much is printed; 2: it could not be found out.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  cp checkpoint.pt /mnt/data/ && syncline wait /mnt/data/checkpoint.pt
  syncline wait /mnt/data --peer tokyo --timeout 5min
  syncline wait /mnt/data --lane high --quiet || echo 'not yet'")]
pub struct Args {
    /// A file or directory on the mount
    #[arg(value_name = "PATH", default_value = ".")]
    path: PathBuf,
    /// Wait for this site only
    #[arg(long, value_name = "SITE")]
    peer: Option<String>,
    /// Wait for the changes in this lane only
    #[arg(long, value_name = "LANE")]
    lane: Option<LaneName>,
    /// Give up after this long; 0 asks whether they have it
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    timeout: Span,
    /// Print how far they are also if standard error is no terminal
    #[arg(long)]
    progress: bool,
    /// Print errors only: the exit code is the answer
    #[arg(long, short, conflicts_with = "progress")]
    quiet: bool,
}

pub fn run(args: &Args) -> CommandResult {
    let (_, store, path) = mounts::locate(&args.path)?;
    let request = Request::Wait {
        path: OsString::from(path).into_vec(),
        peer: args.peer.clone(),
        lane: args.lane.map(|lane| lane.to_string()),
        timeout_ms: u64::try_from(args.timeout.0.min(MAX_WAIT).as_millis())?,
    };
    let mut progress = Progress::new(args);
    let answer = follow(&store, request, PROMPT, |outcome| progress.show(&outcome));
    progress.end();
    match answer? {
        Reply::Waited { outcome } if outcome.is_level() => Ok(Outcome::Done),
        Reply::Waited { outcome } => {
            if !args.quiet {
                eprintln!("syncline: not level after {}:\n{}", args.timeout, laggards(&outcome));
            }
            Ok(Outcome::No)
        }
        other => Err(super::unexpected(&other)),
    }
}

/// A line for each peer that lacks something.
fn laggards(outcome: &WaitOutcome) -> String {
    let lines = outcome.peers.iter().filter(|peer| !peer.level).map(|peer| {
        let error = peer.error.as_ref().map_or(String::new(), |error| format!(": {error}"));
        format!("  {} lacks {}{error}", peer.name, lacking(peer))
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn lacking(peer: &WaitedPeer) -> String {
    let bytes = peer.behind_bytes.map_or(String::new(), |bytes| format!(" ({})", human_bytes(bytes)));
    let plural = if peer.behind_records == 1 { "" } else { "s" };
    format!("{} record{plural}{bytes}", peer.behind_records)
}

/// `tokyo lacks 12 records (3.00 MiB), level in 4.0 s; oslo lacks 1 record (not connected)`
fn progress_line(outcome: &WaitOutcome) -> String {
    let parts = outcome.peers.iter().filter(|peer| !peer.level).map(|peer| {
        let eta = peer.eta_seconds.map(|seconds| format!(", level in {}", human_seconds(seconds as f64)));
        let eta = if peer.error.is_some() { None } else { eta };
        let error = peer.error.as_ref().map(|error| format!(": {error}"));
        format!("{} lacks {}{}", peer.name, lacking(peer), eta.or(error).unwrap_or_default())
    });
    parts.collect::<Vec<_>>().join("; ")
}

/// One line on standard error, overwritten where that is a terminal.
struct Progress {
    wanted: bool,
    terminal: bool,
    printed: Option<Instant>,
}

impl Progress {
    fn new(args: &Args) -> Self {
        let terminal = rustix::termios::isatty(io::stderr());
        Self { wanted: args.progress || (terminal && !args.quiet), terminal, printed: None }
    }

    fn show(&mut self, outcome: &WaitOutcome) {
        let soon = self.printed.is_some_and(|printed| printed.elapsed() < LINE_INTERVAL);
        if !self.wanted || (!self.terminal && soon) {
            return;
        }
        self.printed = Some(Instant::now());
        let line = progress_line(outcome);
        // Nobody is left to be told that nobody looks.
        let _ = if self.terminal { write!(io::stderr(), "\r\x1b[K{line}") } else { writeln!(io::stderr(), "{line}") };
    }

    fn end(&self) {
        if self.terminal && self.printed.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, behind_records: u64) -> WaitedPeer {
        WaitedPeer {
            name: name.into(),
            level: behind_records == 0,
            behind_records,
            behind_bytes: Some(behind_records << 20),
            eta_seconds: Some(4),
            error: None,
        }
    }

    #[test]
    fn those_that_lack_something_are_told_with_why() {
        let lost = WaitedPeer { error: Some("not connected".into()), behind_bytes: None, ..peer("oslo", 1) };
        let outcome = WaitOutcome { peers: vec![peer("tokyo", 12), lost, peer("lima", 0)] };
        assert_eq!(laggards(&outcome), "  tokyo lacks 12 records (12.0 MiB)\n  oslo lacks 1 record: not connected");
        assert_eq!(
            progress_line(&outcome),
            "tokyo lacks 12 records (12.0 MiB), level in 4.0 s; oslo lacks 1 record: not connected"
        );
    }
}
