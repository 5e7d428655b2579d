//! `syncline limit`, `pause` and `resume`: how fast changes go to the other sites, changed while the daemon runs.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{CommandResult, Outcome, print_line};
use crate::control::client::{PROMPT, call};
use crate::control::report::FlowReport;
use crate::control::{FlowChange, Reply, Request};
use crate::lanes::LaneName;
use crate::mounts;
use crate::units::{Rate, UnitError};

/// Which changes are meant.
#[derive(clap::Args, Debug)]
pub struct Scope {
    /// A path on the mount
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// To this site only; without it to every one, each for itself
    #[arg(long, value_name = "SITE")]
    peer: Option<String>,
    /// In this lane only: sync, high, normal or bulk
    #[arg(long, value_name = "LANE")]
    lane: Option<LaneName>,
}

/// Limit how fast changes go to other sites
///
/// Holds from now until the daemon ends or the next `limit`; the limits at start are in the configuration, under [[limit]] and
/// [[schedule]]. A limit without --lane is over all lanes together, one without --peer replaces those of single sites. Where a
/// schedule is stricter, the schedule holds. What waits stays in the journal.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  syncline limit /mnt/data --peer tokyo 200Mbit
  syncline limit /mnt/data --lane bulk 10MiB
  syncline limit /mnt/data --lane bulk none
  syncline limit /mnt/data --show

RATE is per second, of what is sent: kbit, Mbit, Gbit, B, kB, MB, GB, KiB, MiB or GiB.")]
pub struct LimitArgs {
    #[command(flatten)]
    scope: Scope,
    /// Bytes or bits per second, or `none`
    #[arg(value_name = "RATE", required_unless_present = "show")]
    rate: Option<RateOrNone>,
    /// Print what is in force, and change nothing
    #[arg(long, conflicts_with = "rate")]
    show: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Stop sending changes to other sites
///
/// They wait in the journal until `syncline resume`, or until the daemon ends. Writers do not wait, but in sync directories, for which a
/// paused site is one that does not answer.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  syncline pause /mnt/data --lane bulk
  syncline pause /mnt/data --peer tokyo")]
pub struct PauseArgs {
    #[command(flatten)]
    scope: Scope,
}

/// Send changes to other sites again
///
/// Ends what `syncline pause` began. A lane that a schedule has paused goes on when the schedule says so.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  syncline resume /mnt/data")]
pub struct ResumeArgs {
    #[command(flatten)]
    scope: Scope,
}

#[derive(Clone, Copy, Debug)]
struct RateOrNone(Option<Rate>);

impl FromStr for RateOrNone {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(Some).map(Self) }
    }
}

pub fn limit(args: &LimitArgs) -> CommandResult {
    let limit = |RateOrNone(rate): RateOrNone| FlowChange::Limit { bytes_per_second: rate.map(|rate| rate.0) };
    let flows = ask(&args.scope, args.rate.map(limit))?;
    print_line(if args.json { serde_json::to_string_pretty(&flows)? } else { table(&flows) })?;
    Ok(Outcome::Done)
}

pub fn pause(args: &PauseArgs) -> CommandResult {
    print_line(table(&ask(&args.scope, Some(FlowChange::Pause))?))?;
    Ok(Outcome::Done)
}

pub fn resume(args: &ResumeArgs) -> CommandResult {
    print_line(table(&ask(&args.scope, Some(FlowChange::Resume))?))?;
    Ok(Outcome::Done)
}

fn ask(scope: &Scope, change: Option<FlowChange>) -> Result<Vec<FlowReport>, Box<dyn std::error::Error>> {
    let (_, store): (_, PathBuf) = mounts::find(Path::new(&scope.mountpoint))?;
    let lane = scope.lane.map(|lane| lane.to_string());
    match call(&store, Request::Flow { peer: scope.peer.clone(), lane, change }, PROMPT)? {
        Reply::Flow { flows } => Ok(flows),
        other => Err(super::unexpected(&other)),
    }
}

/// What is in force, in columns.
fn table(flows: &[FlowReport]) -> String {
    if flows.is_empty() {
        return "no peers yet: what is said of every site holds for those that join".into();
    }
    let mut rows = vec![["peer", "lane", "limit", ""].map(String::from)];
    rows.extend(flows.iter().map(|flow| {
        let lane = flow.lane.clone().unwrap_or_else(|| "together".into());
        let limit = flow.limit_bytes_per_second.map_or_else(|| "none".into(), |rate| Rate(rate).to_string());
        let state = match (flow.paused, flow.scheduled) {
            (true, true) => "paused by a schedule",
            (true, false) => "paused",
            (false, true) => "by a schedule",
            (false, false) => "",
        };
        [flow.peer.clone(), lane, limit, state.into()]
    }));
    super::table::columns(&rows, &[true, true, false, true])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_force_stands_in_columns() {
        let all = FlowReport {
            peer: "tokyo".into(),
            lane: None,
            limit_bytes_per_second: Some(25_000_000),
            paused: false,
            scheduled: false,
        };
        let bulk = FlowReport {
            lane: Some("bulk".into()),
            limit_bytes_per_second: None,
            paused: true,
            scheduled: true,
            ..all.clone()
        };
        assert_eq!(
            table(&[all, bulk]),
            "peer   lane       limit\ntokyo  together  25MB/s\ntokyo  bulk        none  paused by a schedule"
        );
        assert!(table(&[]).starts_with("no peers yet"));
    }
}
