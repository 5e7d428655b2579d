//! `syncline status`: how a site is, and how far its peers are.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use super::table::render;
use super::{CommandResult, Outcome, print_line};
use crate::control::client::{PROMPT, call};
use crate::control::report::Report;
use crate::control::{Reply, Request};
use crate::mounts;

/// Show a site, its peers, and how far behind each one is
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  syncline status /mnt/data
  syncline status /mnt/data --watch
  syncline status /mnt/data --json | jq '.peers[] | {name, lag_seconds}'

Fields of --json: volume, site, site_id, incarnation, mountpoint, store, pid, version, uptime_seconds, mode (passthrough or
cached), journal_bytes, stopped; levelling: from, since_ms, files, bytes; peers: name, site, address, connected, level, error, lag_seconds, behind_records, behind_bytes,
rate_bytes_per_second, eta_seconds, limit_bytes_per_second; connections: channel (sync or async), connected, error; lanes: lane,
head, acknowledged, behind_records, behind_bytes, lag_seconds, rate_bytes_per_second, weight, limit_bytes_per_second, paused;
incoming: connected, error, behind_records; sync_directories: path, needed, state, short_of_peers; peers: peer, state, since_ms,
connected, debt_records. The states of sync directories are in_sync, catching_up and degraded.
Numbers that are not known are null. With --watch there is one line of JSON each second.")]
pub struct Args {
    /// A path on the mount
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print again each second
    #[arg(long)]
    watch: bool,
}

pub fn run(args: &Args) -> CommandResult {
    let (_, store) = mounts::find(&args.mountpoint)?;
    loop {
        let report = match call(&store, Request::Status, PROMPT)? {
            Reply::Status { report } => *report,
            other => return Err(super::unexpected(&other)),
        };
        show(args, &report)?;
        if !args.watch {
            return Ok(Outcome::Done);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn show(args: &Args, report: &Report) -> io::Result<()> {
    match (args.json, args.watch) {
        (true, true) => print_line(serde_json::to_string(report)?),
        (true, false) => print_line(serde_json::to_string_pretty(report)?),
        (false, watch) => {
            if watch && rustix::termios::isatty(io::stdout()) {
                // Back to the corner, and clear what is below: no flicker.
                write!(io::stdout(), "\x1b[H\x1b[J")?;
            }
            print_line(render(report))
        }
    }
}
