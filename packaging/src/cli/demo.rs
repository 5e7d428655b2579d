//! `syncline demo`: two sites on this machine.

use super::{CommandResult, Outcome};
use crate::demo;

/// Show two sites at work on this machine, without any set-up
///
/// Makes a volume with two sites in a temporary directory, writes some files at the one, shows them arrive at the
/// other, and compares both. Then both stay mounted to play with until Ctrl-C, which removes all of it.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  syncline demo --once")]
pub struct Args {
    /// End after the comparison
    #[arg(long)]
    once: bool,
}

pub fn run(args: &Args) -> CommandResult {
    match demo::run(args.once)? {
        demo::Verdict::Equal => Ok(Outcome::Done),
        demo::Verdict::Different => Ok(Outcome::No),
    }
}
