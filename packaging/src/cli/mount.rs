//! `syncline mount`: starts the daemon of a site.

use std::path::PathBuf;

use super::{CommandResult, Outcome};
use crate::background::{self, Life, Readiness};
use crate::config::Config;
use crate::{daemon, logging, mounts};

/// Mount a site and connect it to its peers
///
/// Returns once the mount answers; the daemon stays in the background and logs to log/syncline.log in the store. With
/// --foreground it stays in front and logs to standard error, for service managers.
///
/// SIGTERM and SIGINT unmount and end the daemon. While programs use the mount, the first signal changes nothing but
/// the log, which names them; a second one detaches the mount from under them.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  syncline mount --config /etc/syncline/data.toml /mnt/data
  SYNCLINE_LOG=debug syncline mount --config /etc/syncline/data.toml /mnt/data --foreground")]
pub struct Args {
    /// This site's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Directory to mount at
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// Stay in the foreground
    #[arg(long)]
    foreground: bool,
    /// Standard output is a pipe to the command that started this daemon, standard error its log
    #[arg(long, hide = true, requires = "foreground")]
    report_to_parent: bool,
    /// End when the process that started this one does
    #[arg(long, hide = true, requires = "foreground")]
    end_with_parent: bool,
}

pub fn run(args: Args) -> CommandResult {
    let readiness = if args.report_to_parent { Some(Readiness::take_stdout()?) } else { None };
    if args.end_with_parent {
        background::end_with_parent()?;
    }
    match prepare_and_run(args, readiness.as_ref()) {
        Ok(()) => Ok(Outcome::Done),
        Err(error) => {
            if let Some(readiness) = readiness {
                readiness.failed(error.as_ref());
            }
            Err(error)
        }
    }
}

fn prepare_and_run(args: Args, readiness: Option<&Readiness>) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::load(&args.config)?;
    let mountpoint = mounts::resolve(&args.mountpoint)?;
    if !args.foreground {
        background::start(&args.config, &mountpoint, &config, Life::OfItsOwn)?;
        return Ok(());
    }
    if readiness.is_some() {
        let mut log = logging::LogFile::open(&background::log_path(&config.store))?;
        log.take_stdio()?;
        logging::to_file(config.log_level, log)?;
    } else {
        logging::to_stderr(config.log_level)?;
    }
    daemon::run(config, mountpoint, || readiness.map_or((), Readiness::ready))?;
    Ok(())
}
