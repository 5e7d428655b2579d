//! The command line: one module per subcommand, each with its arguments and `run`.
//!
//! Exit codes, on which scripts rely: 0 done, 1 the answer is no, 2 failed, 64 wrong use.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

mod demo;
mod flow;
mod init;
mod invite;
mod join;
mod mount;
mod new_site;
mod policy;
mod status;
mod table;
mod unmount;
mod wait;

/// One directory at several sites: changes are journalled where they are made and streamed to the other sites.
#[derive(Parser, Debug)]
#[command(name = "syncline", version, propagate_version = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  syncline demo                        two sites on this machine, to try it out

  On the first host:
  syncline init --config /etc/syncline/data.toml --volume data --site berlin \\
      --store /var/lib/syncline/data --listen 0.0.0.0:7400 --advertise berlin.example.org:7400
  syncline mount --config /etc/syncline/data.toml /mnt/data
  syncline invite --config /etc/syncline/data.toml

  On the second host, with the token that the first printed:
  syncline join TOKEN --config /etc/syncline/data.toml --site tokyo \\
      --store /var/lib/syncline/data --listen 0.0.0.0:7400 --advertise tokyo.example.org:7400
  syncline mount --config /etc/syncline/data.toml /mnt/data

  Anywhere:
  syncline status /mnt/data            how far behind is each peer
  syncline wait /mnt/data              until every peer has what was written so far
  syncline policy set /mnt/data/code mode=sync
                                       its writers wait for the other sites
  syncline limit /mnt/data 200Mbit     no more than that to each peer

Exit codes: 0 done, 1 the answer is no, 2 failed, 64 wrong use.
Log level of the daemon: in the configuration, or SYNCLINE_LOG=debug in its environment.";

#[derive(Subcommand, Debug)]
enum Command {
    Init(init::Args),
    Invite(invite::Args),
    Join(join::Args),
    Mount(mount::Args),
    Unmount(unmount::Args),
    Status(status::Args),
    Wait(wait::Args),
    Policy(policy::Args),
    Limit(flow::LimitArgs),
    Pause(flow::PauseArgs),
    Resume(flow::ResumeArgs),
    Demo(demo::Args),
}

/// What a command came to, when it did not fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Done, or the answer is yes.
    Done,
    /// The answer is no.
    No,
}

/// Arguments that are right each by itself, but not together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

type CommandResult = Result<Outcome, Box<dyn Error>>;

/// Parses, runs, and says what went wrong.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return report_usage(&error),
    };
    match run(cli.command) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Err(error) => match error.downcast::<Usage>() {
            Ok(usage) => report_usage(&Cli::command().error(ErrorKind::ValueValidation, usage)),
            Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(io::stderr(), "syncline: {error}");
                ExitCode::from(2)
            }
        },
    }
}

fn run(command: Command) -> CommandResult {
    match command {
        Command::Init(args) => init::run(args),
        Command::Invite(args) => invite::run(&args),
        Command::Join(args) => join::run(args),
        Command::Mount(args) => mount::run(args),
        Command::Unmount(args) => unmount::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Wait(args) => wait::run(&args),
        Command::Policy(args) => policy::run(args),
        Command::Limit(args) => flow::limit(&args),
        Command::Pause(args) => flow::pause(&args),
        Command::Resume(args) => flow::resume(&args),
        Command::Demo(args) => demo::run(&args),
    }
}

/// Help and version are no mistakes.
fn report_usage(error: &clap::Error) -> ExitCode {
    // Nobody is left to be told that nobody listens.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS }
}

/// Whoever read our output has seen enough.
fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A reply to another question.
fn unexpected(reply: &crate::control::Reply) -> Box<dyn Error> {
    format!("the daemon gave an answer to another question: {reply:?}").into()
}

/// Prints a line; a closed pipe is an error like any other, not a panic.
fn print_line(text: impl std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_that_scripts_rely_on() {
        for line in [
            "init --config f --volume v --site s --store /d --listen 127.0.0.1:1",
            "invite --config f",
            "join TOKEN --config f --site s --store /d --listen 127.0.0.1:1",
            "mount --config f /m",
            "mount --config f /m --foreground",
            "unmount /m",
            "wait",
            "wait /m --peer s --timeout 30s",
            "wait /m --lane bulk --quiet",
            "wait /m --progress",
            "policy get /m/d",
            "policy get /m/d mode acks",
            "policy get /m/d --json",
            "policy set /m/d mode=sync acks=majority",
            "policy unset /m/d mode",
            "limit /m 200Mbit",
            "limit /m --peer s --lane bulk none",
            "limit /m --show",
            "pause /m --lane bulk",
            "resume /m --peer s",
            "status /m",
            "status /m --json --watch",
            "demo",
            "demo --once",
        ] {
            let parsed = Cli::try_parse_from(std::iter::once("syncline").chain(line.split(' ')));
            assert!(parsed.is_ok(), "{line}: {}", parsed.map_or_else(|error| error.to_string(), |_| String::new()));
        }
    }
}
