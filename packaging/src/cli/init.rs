//! `syncline init`: the first site of a new volume.

use super::new_site::{NewSite, name};
use super::{CommandResult, Outcome, print_line};
use crate::founding;

/// Make a new volume and its first site
///
/// Draws the volume's keys, makes an empty replica in --store, and writes a configuration file for `syncline mount`.
/// Nothing is contacted.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  syncline init --config /etc/syncline/data.toml --volume data --site berlin \\
      --store /var/lib/syncline/data --listen 0.0.0.0:7400 --advertise berlin.example.org:7400")]
pub struct Args {
    /// The volume's name
    #[arg(long, value_name = "NAME", value_parser = name)]
    volume: String,
    #[command(flatten)]
    site: NewSite,
}

pub fn run(args: Args) -> CommandResult {
    let planned = args.site.plan(args.volume)?;
    let made = planned.make(|config| founding::found(config))?;
    print_line(format_args!(
        "volume {}, site {}: made in {}\nnext: syncline mount --config {} MOUNTPOINT",
        made.config.volume,
        made.config.site,
        made.config.store.display(),
        made.path().display()
    ))?;
    Ok(Outcome::Done)
}
