//! One site of the demonstration: its files, and its daemon, a child of this process.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::background::{self, Life, StartError};
use crate::config::{Config, ConfigError};
use crate::control::client::{CallError, PROMPT, call};
use crate::control::report::PeerReport;
use crate::control::{Reply, Request};
use crate::{mounts, units};

/// How long a daemon may take to unmount and end by itself.
const END_LIMIT: Duration = Duration::from_secs(20);
/// How long it may take to notice a signal.
const SIGNAL_LIMIT: Duration = Duration::from_secs(3);
/// How often it is looked at meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A command of ours can't be run.
    #[error("cannot run `syncline {command}`: {source}")]
    Spawn {
        /// Which.
        command: String,
        /// Why not.
        source: io::Error,
    },
    /// A command of ours failed.
    #[error("`syncline {command}` failed ({status}): {said}")]
    Command {
        /// Which.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        said: String,
    },
    /// The written configuration can't be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The daemon did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The daemon did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The daemon knows no peer.
    #[error("the daemon of {0} knows no other site")]
    Alone(&'static str),
    /// A directory can't be made.
    #[error("cannot make {}: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A site; [`end`](Self::end) it before its directory goes.
pub struct DemoSite {
    pub name: &'static str,
    pub mountpoint: PathBuf,
    config_path: PathBuf,
    config: Config,
    daemon: Option<Child>,
}

impl DemoSite {
    /// By `syncline init`.
    pub fn founded(directory: &Path, name: &'static str, port: u16) -> Result<Self, StepError> {
        Self::made(directory, name, port, &["init", "--volume", "demo"])
    }

    /// By `syncline join`.
    pub fn joined(directory: &Path, name: &'static str, port: u16, token: &str) -> Result<Self, StepError> {
        Self::made(directory, name, port, &["join", token])
    }

    fn made(directory: &Path, name: &'static str, port: u16, command: &[&str]) -> Result<Self, StepError> {
        let config_path = directory.join(format!("{name}.toml"));
        let mountpoint = directory.join(name);
        std::fs::create_dir(&mountpoint).map_err(|source| StepError::Directory { path: mountpoint.clone(), source })?;
        let mut child = Command::new("/proc/self/exe");
        child.args(command).args(["--site", name, "--listen", &format!("127.0.0.1:{port}")]);
        child.arg("--config").arg(&config_path).arg("--store").arg(directory.join(format!("{name}.store")));
        finished(child, command[0])?;
        let config = Config::load(&config_path)?;
        Ok(Self { name, mountpoint, config_path, config, daemon: None })
    }

    /// By `syncline mount`, with a daemon that ends with this process.
    pub fn mount(&mut self) -> Result<(), StepError> {
        let life = Life::OfItsParent;
        self.daemon = Some(background::start(&self.config_path, &self.mountpoint, &self.config, life)?);
        Ok(())
    }

    /// By `syncline invite`.
    pub fn invite(&self) -> Result<String, StepError> {
        let mut child = Command::new("/proc/self/exe");
        child.args(["invite", "--config"]).arg(&self.config_path);
        let output = finished(child, "invite")?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// By `syncline wait`.
    pub fn wait(&self, limit: Duration) -> Result<(), StepError> {
        let mut child = Command::new("/proc/self/exe");
        child.arg("wait").arg(&self.mountpoint).args(["--timeout", &units::Span(limit).to_string()]);
        finished(child, "wait").map(drop)
    }

    /// What the other site lacks.
    pub fn peer(&self) -> Result<PeerReport, StepError> {
        match call(&self.config.store, Request::Status, PROMPT)? {
            Reply::Status { report } => report.peers.into_iter().next().ok_or(StepError::Alone(self.name)),
            _ => Err(StepError::Alone(self.name)),
        }
    }

    /// Unmounts and ends the daemon, by force if need be. Whether nothing is mounted any more.
    pub fn end(&mut self) -> bool {
        if let Some(mut daemon) = self.daemon.take() {
            let asked = call(&self.config.store, Request::Unmount, END_LIMIT);
            if !(matches!(asked, Ok(Reply::Unmounted)) && ended(&mut daemon, END_LIMIT)) {
                end_by_force(&mut daemon);
            }
        }
        match mounts::at(&self.mountpoint) {
            Ok(Some(mount)) if mount.store().is_some() => mounts::detach(&self.mountpoint).is_ok(),
            Ok(_) => true,
            Err(_) => false,
        }
    }
}

impl Drop for DemoSite {
    fn drop(&mut self) {
        self.end();
    }
}

/// The first SIGTERM asks, the second detaches the mount, SIGKILL is the end.
fn end_by_force(daemon: &mut Child) {
    for limit in [SIGNAL_LIMIT, END_LIMIT] {
        if let Some(pid) = i32::try_from(daemon.id()).ok().and_then(Pid::from_raw) {
            // One that has ended already is what we want.
            let _ = kill_process(pid, Signal::TERM);
        }
        if ended(daemon, limit) {
            return;
        }
    }
    let _ = daemon.kill();
    let _ = daemon.wait();
}

fn ended(daemon: &mut Child, limit: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < limit {
        if !matches!(daemon.try_wait(), Ok(None)) {
            return true;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    false
}

fn finished(mut child: Command, name: &str) -> Result<Output, StepError> {
    let output = child.stdin(Stdio::null()).output();
    let output = output.map_err(|source| StepError::Spawn { command: name.to_owned(), source })?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(StepError::Command { command: name.to_owned(), status: output.status.to_string(), said })
}
