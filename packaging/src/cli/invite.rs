//! `syncline invite`: a token for a new site.

use std::path::PathBuf;

use super::{CommandResult, Outcome, print_line};
use crate::config::Config;
use crate::control::client::{PROMPT, call};
use crate::control::{Reply, Request};
use crate::units::Span;

/// Print a token with which one new site can join
///
/// The daemon must run: it is the one that the new site talks to. The token alone is printed on standard output. Who
/// has it can become a member of the volume: hand it over on a channel that you trust.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  syncline invite --config /etc/syncline/data.toml --valid 10min")]
pub struct Args {
    /// This site's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How long the token can be used
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    valid: Span,
}

pub fn run(args: &Args) -> CommandResult {
    let config = Config::load(&args.config)?;
    let valid_ms = u64::try_from(args.valid.0.as_millis())?;
    match call(&config.store, Request::Invite { valid_ms }, PROMPT)? {
        Reply::Invited { token } => {
            print_line(token)?;
            Ok(Outcome::Done)
        }
        other => Err(super::unexpected(&other)),
    }
}
