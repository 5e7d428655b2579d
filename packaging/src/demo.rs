//! Two sites on one machine, made, mounted, filled and compared by the commands that an operator would use.
//!
//! Whatever happens, daemons and mounts end, and the directory is removed: on success, on failure, on Ctrl-C, and, as
//! far as daemons and mounts go, when this process is killed.

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use self::site::{DemoSite, StepError};
use crate::control::report::PeerReport;
use crate::signals::Signals;
use crate::units::{human_bytes, human_seconds};

mod compare;
mod site;
mod tree;

/// How often a line about the lag is printed.
const LINE_INTERVAL: Duration = Duration::from_millis(250);
/// How long the second site may take to get everything.
const LEVEL_LIMIT: Duration = Duration::from_secs(120);

/// What came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Both trees are equal.
    Equal,
    /// They are not.
    Different,
}

/// Why there was nothing to see.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Something local.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// What came of it.
        source: io::Error,
    },
    /// A command failed.
    #[error(transparent)]
    Step(#[from] StepError),
    /// Ctrl-C.
    #[error("interrupted; everything is removed")]
    Interrupted,
}

fn io_error(what: &'static str) -> impl Fn(io::Error) -> DemoError {
    move |source| DemoError::Io { what, source }
}

/// Shows it. `once`: don't wait for Ctrl-C at the end.
pub fn run(once: bool) -> Result<Verdict, DemoError> {
    let interrupt = Interrupt::listen()?;
    let directory = tempfile::Builder::new().prefix("syncline-demo-").tempdir().map_err(io_error("a directory"))?;
    let mut stage = Stage { sites: Vec::new(), directory: Some(directory) };
    let shown = show(&mut stage, &interrupt);
    if shown.is_ok() && !once {
        play(&stage, &interrupt)?;
    }
    drop(stage);
    shown
}

/// The sites, and the directory with everything of theirs.
struct Stage {
    sites: Vec<DemoSite>,
    directory: Option<TempDir>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let ended = self.sites.drain(..).map(|mut site| site.end()).fold(true, |all, ended| all && ended);
        let Some(directory) = self.directory.take() else { return };
        if !ended {
            // Removing a directory with a mount in it would remove what is in the mount.
            eprintln!("syncline: a mount could not be removed; see {}", directory.keep().display());
        }
    }
}

fn show(stage: &mut Stage, interrupt: &Interrupt) -> Result<Verdict, DemoError> {
    let directory = stage.directory.as_ref().map_or(Path::new(""), TempDir::path).to_owned();
    say("1. a volume with one site, berlin")?;
    let berlin = DemoSite::founded(&directory, "berlin", free_port()?)?;
    stage.sites.push(berlin);
    stage.sites[0].mount()?;
    interrupt.check()?;
    say("2. a second site, tokyo, with one token from berlin")?;
    let token = stage.sites[0].invite()?;
    stage.sites.push(DemoSite::joined(&directory, "tokyo", free_port()?, &token)?);
    stage.sites[1].mount()?;
    interrupt.check()?;
    let [berlin, tokyo] = &stage.sites[..] else { return Err(DemoError::Interrupted) };

    say("3. files are written at berlin, and arrive at tokyo:")?;
    let written = fill(berlin, interrupt)?;
    say(&format!("   {} files, {} written", written.files, human_bytes(written.bytes)))?;
    let start = Instant::now();
    berlin.wait(LEVEL_LIMIT)?;
    say(&format!("   tokyo has all of it {} after the last write", human_seconds(start.elapsed().as_secs_f64())))?;

    say("4. both trees are compared: names, kinds, modes, owners, times, xattrs, links, content")?;
    let compared = compare::trees(&berlin.mountpoint, &tokyo.mountpoint).map_err(io_error("comparing"))?;
    if compared.differences.is_empty() {
        say(&format!("   equal: {} things, {} of content", compared.entries, human_bytes(compared.bytes)))?;
        return Ok(Verdict::Equal);
    }
    for difference in compared.differences.iter().take(20) {
        say(&format!("   {difference}"))?;
    }
    Ok(Verdict::Different)
}

/// Writes the tree on a thread, and meanwhile tells how far the peer is.
fn fill(berlin: &DemoSite, interrupt: &Interrupt) -> Result<tree::Written, DemoError> {
    let progress = AtomicUsize::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let progress = &progress;
        scope.spawn(move || {
            // The receiver is gone after an interrupt only.
            let _ = sender.send(tree::write(&berlin.mountpoint, progress));
        });
        loop {
            match receiver.recv_timeout(LINE_INTERVAL) {
                Ok(written) => return written.map_err(io_error("writing at berlin")),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(DemoError::Interrupted),
            }
            interrupt.check()?;
            let files = progress.load(Ordering::Relaxed);
            say(&format!(
                "   {:>5.2} s  {files:>3} files written, {}",
                start.elapsed().as_secs_f64(),
                distance(&berlin.peer()?)
            ))?;
        }
    })
}

fn distance(peer: &PeerReport) -> String {
    match (peer.behind_records, peer.behind_bytes, peer.lag_seconds) {
        _ if peer.level => format!("{} is level", peer.name),
        (Some(records), Some(bytes), Some(lag)) => {
            let (bytes, lag) = (human_bytes(bytes), human_seconds(lag));
            format!("{} is {records} records ({bytes}) and {lag} behind", peer.name)
        }
        _ => format!("{} is behind", peer.name),
    }
}

fn play(stage: &Stage, interrupt: &Interrupt) -> Result<(), DemoError> {
    say("\nBoth are yours; write at either:")?;
    for site in &stage.sites {
        say(&format!("  {:<8} {}", site.name, site.mountpoint.display()))?;
    }
    if let [berlin, ..] = &stage.sites[..] {
        say(&format!("\nHow far they are:  syncline status --watch {}", berlin.mountpoint.display()))?;
    }
    say("Ctrl-C ends it and removes everything.")?;
    interrupt.wait();
    say("\nunmounting and removing everything")
}

fn say(line: &str) -> Result<(), DemoError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(io_error("standard output"))
}

/// A port of the loopback address that nobody has now.
fn free_port() -> Result<u16, DemoError> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
    socket.map(|address| address.port()).map_err(io_error("a free port"))
}

/// Ctrl-C and SIGTERM, remembered.
struct Interrupt(mpsc::Receiver<()>);

impl Interrupt {
    /// From now on they don't end this process.
    fn listen() -> Result<Self, DemoError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(io_error("a runtime"))?;
        let mut signals = {
            let _entered = runtime.enter();
            Signals::new().map_err(io_error("signals"))?
        };
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            runtime.block_on(async {
                loop {
                    signals.next().await;
                    if sender.send(()).is_err() {
                        return;
                    }
                }
            });
        });
        Ok(Self(receiver))
    }

    fn check(&self) -> Result<(), DemoError> {
        if self.0.try_recv().is_ok() { Err(DemoError::Interrupted) } else { Ok(()) }
    }

    fn wait(&self) {
        // The sender lives as long as the process.
        let _ = self.0.recv();
    }
}
