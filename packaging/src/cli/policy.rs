//! `syncline policy`: what a directory asks of the changes below it. Does what `setfattr` and `getfattr` do, with better words.

use std::path::{Path, PathBuf};

use fs::policy::attribute::Setting;
use fs::policy::{Key, Mode};

use self::attributes::{Effective, get_effective, remove, set};
use super::{CommandResult, Outcome, Usage, print_line};
use crate::mounts;

mod attributes;

/// Show and change the policy of a directory
///
/// A policy is inherited by everything below a directory; for each key the nearest directory that sets it wins. It is kept in extended
/// attributes, user.syncline.KEY, which setfattr changes as well, and it is the same at every site.
#[derive(clap::Args, Debug)]
#[command(after_help = KEYS)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

const KEYS: &str = "\
Keys:
  mode      async, sync: whether fsync, close and changes of names wait for other sites   (async)
  acks      all, majority, a number: how many of the other sites they wait for            (all)
  on-loss   degrade, fail: go on without sites that do not answer, or give EIO            (degrade)
  timeout   1ms to 60m: after how long a site does not answer                             (10s)
  priority  high, normal, bulk: which changes go first, of those nobody waits for         (normal)
  compress  auto, on, off: whether changes are compressed on their way                    (auto)
  writer    any, or the name of the only site that may write                              (any)

Examples:
  syncline policy set /mnt/data/checkpoints mode=sync acks=majority
  syncline policy set /mnt/data/datasets priority=bulk
  syncline policy get /mnt/data/checkpoints
  syncline policy get /mnt/data/checkpoints mode
  syncline policy unset /mnt/data/checkpoints mode acks";

#[derive(clap::Subcommand, Debug)]
enum Command {
    Get(Get),
    Set(Set),
    Unset(Unset),
}

/// Print the policy that holds for a file or directory, and where each value is from
#[derive(clap::Args, Debug)]
#[command(after_help = "\
With keys the values alone are printed, one a line. A file that has names in several directories is under the policies of all of
them: all are printed.

JSON: path, policies: for each key value and from, the directory that sets it; null where the default holds.")]
struct Get {
    /// A file or directory on the mount
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Print the value of these only
    #[arg(value_name = "KEY", value_parser = key)]
    keys: Vec<Key>,
    /// Print JSON
    #[arg(long, conflicts_with = "keys")]
    json: bool,
}

/// Set values for a directory and what is below it
///
/// Nothing is changed unless all values are right. Prints what is in force then.
#[derive(clap::Args, Debug)]
#[command(after_help = KEYS)]
struct Set {
    /// A directory on the mount
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// What to set
    #[arg(value_name = "KEY=VALUE", required = true, value_parser = setting)]
    settings: Vec<Setting>,
}

/// Remove values from a directory, so that it inherits them
///
/// What was not set stays so, and is said. Prints what is in force then.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  syncline policy unset /mnt/data/checkpoints mode acks")]
struct Unset {
    /// A directory on the mount
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// What to remove
    #[arg(value_name = "KEY", required = true, value_parser = key)]
    keys: Vec<Key>,
}

/// The policy is one of directories.
#[derive(Debug, thiserror::Error)]
#[error("{} is no directory: set the policy of a directory above it", .0.display())]
struct NoDirectory(PathBuf);

pub fn run(args: Args) -> CommandResult {
    match args.command {
        Command::Get(args) => run_get(&args),
        Command::Set(args) => run_set(args),
        Command::Unset(args) => run_unset(&args),
    }
}

fn run_get(args: &Get) -> CommandResult {
    let (mount, _) = mounts::find(&args.path)?;
    let effective = get_effective(&args.path, &mount)?;
    if args.json {
        print_line(serde_json::to_string_pretty(&effective.json(&args.path))?)?;
    } else if args.keys.is_empty() {
        print_line(effective.table())?;
    } else {
        for key in &args.keys {
            effective.values(*key).into_iter().try_for_each(print_line)?;
        }
    }
    Ok(Outcome::Done)
}

fn run_set(args: Set) -> CommandResult {
    let settings = in_order(args.settings)?;
    let (mount, _) = mounts::find(&args.path)?;
    check_directory(&args.path)?;
    for setting in &settings {
        set(&args.path, setting)?;
    }
    tell(&args.path, &get_effective(&args.path, &mount)?)
}

fn run_unset(args: &Unset) -> CommandResult {
    let (mount, _) = mounts::find(&args.path)?;
    check_directory(&args.path)?;
    for key in &args.keys {
        if !remove(&args.path, *key)? {
            print_line(format_args!("{} was not set on {}", key.name(), args.path.display()))?;
        }
    }
    tell(&args.path, &get_effective(&args.path, &mount)?)
}

fn tell(path: &Path, effective: &Effective) -> CommandResult {
    print_line(format_args!("{}: {}", path.display(), effective.line()))?;
    Ok(Outcome::Done)
}

/// In which order they are set. The writer first: whether there is such a site only the daemon knows, and nothing else was changed if it refuses.
/// `mode=async` before and `mode=sync` after the others, so that setting those does not wait for other sites by rules that are about to change.
fn in_order(mut settings: Vec<Setting>) -> Result<Vec<Setting>, Usage> {
    settings.sort_by_key(|setting| match setting {
        Setting::Writer(_) => 0,
        Setting::Mode(Mode::Async) => 1,
        Setting::Mode(Mode::Sync) => 3,
        _ => 2,
    });
    for (at, setting) in settings.iter().enumerate() {
        if settings[..at].iter().any(|other| other.key() == setting.key()) {
            return Err(Usage(format!("{} is given twice", setting.key().name())));
        }
    }
    Ok(settings)
}

fn check_directory(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let metadata = std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if metadata.is_dir() { Ok(()) } else { Err(NoDirectory(path.to_owned()).into()) }
}

fn setting(text: &str) -> Result<Setting, String> {
    let (name, value) = text.split_once('=').ok_or("write it as KEY=VALUE, for example mode=sync")?;
    Setting::parse(key(name)?, value.as_bytes()).map_err(|error| error.to_string())
}

/// By its short name, or by that of its attribute.
fn key(name: &str) -> Result<Key, String> {
    let short = name.strip_prefix("user.syncline.").unwrap_or(name);
    let known = Key::ALL.map(Key::name).join(", ");
    Key::from_name(short.as_bytes()).ok_or_else(|| format!("there is no `{name}`; the keys are {known}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn settings_are_read_and_wrong_ones_name_what_is_right() {
        assert_eq!(setting("mode=sync"), Ok(Setting::Mode(Mode::Sync)));
        assert_eq!(setting("user.syncline.mode=async"), Ok(Setting::Mode(Mode::Async)));
        for (text, expected) in [
            ("mode", "write it as KEY=VALUE"),
            ("speed=9", "the keys are mode, acks, on-loss, timeout, priority, compress, writer"),
            ("mode=maybe", "async or sync"),
            ("timeout=10", "10s"),
        ] {
            let message = setting(text).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn what_may_be_refused_is_first_and_waiting_begins_last_and_ends_first() {
        let order = |texts: &[&str]| {
            let settings = in_order(texts.iter().map(|text| setting(text).unwrap()).collect()).unwrap();
            settings.iter().map(|setting| setting.key().name()).collect::<Vec<_>>()
        };
        assert_eq!(order(&["mode=sync", "acks=2", "timeout=5s", "writer=one"]), ["writer", "acks", "timeout", "mode"]);
        assert_eq!(order(&["acks=2", "mode=async", "writer=any"]), ["writer", "mode", "acks"]);
        let twice = in_order(vec![setting("mode=sync").unwrap(), setting("mode=async").unwrap()]);
        assert_eq!(twice.unwrap_err().to_string(), "mode is given twice");
    }
}
