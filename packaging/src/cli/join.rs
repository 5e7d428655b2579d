//! `syncline join`: another site of a volume.

use super::new_site::NewSite;
use super::{CommandResult, Outcome, Usage, print_line};
use crate::founding;

/// Make another site of a volume, with a token that a member printed
///
/// Connects to the member that printed the token, receives this site's certificate, the volume's key and its whole
/// tree, and writes a configuration file for `syncline mount`. The token can be used once.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  syncline join TOKEN --config /etc/syncline/data.toml --site tokyo \\
      --store /var/lib/syncline/data --listen 0.0.0.0:7400 --advertise tokyo.example.org:7400

The token gives access to the volume until it is used or expires. A token `-` is read from standard input, so that
it is not seen in the list of processes:
  ssh berlin syncline invite --config /etc/syncline/data.toml | syncline join - --config …")]
pub struct Args {
    /// What `syncline invite` printed, or `-` to read it from standard input
    #[arg(value_name = "TOKEN")]
    token: String,
    #[command(flatten)]
    site: NewSite,
}

pub fn run(args: Args) -> CommandResult {
    let token = match args.token.as_str() {
        "-" => std::io::read_to_string(std::io::stdin())?,
        _ => args.token,
    };
    founding::check_token(&token).map_err(|error| Usage(format!("TOKEN: {error}")))?;
    // The volume's name comes with the volume.
    let planned = args.site.plan(String::new())?;
    crate::logging::to_stderr(tracing::Level::WARN)?;
    let tell = |text: &str| eprintln!("syncline: {text}");
    let made = planned.make(|config| founding::join(&token, config, tell))?;
    print_line(format_args!(
        "volume {}, site {}: made in {}\nnext: syncline mount --config {} MOUNTPOINT",
        made.config.volume,
        made.config.site,
        made.config.store.display(),
        made.path().display()
    ))?;
    Ok(Outcome::Done)
}
