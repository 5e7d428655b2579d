//! One site: its daemon as a real process, its mount, its store and its log.
//!
//! The daemon runs in the foreground, as a child and in a process group of its own, so that it can be killed by its id.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::binary;
use crate::outcome::{OrFail, eventually};
use crate::proxy::Network;
use crate::reaper::{self, Debris};
use crate::status::Status;

/// How long a daemon may take to mount, recovery included, and to stop.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// A daemon that is killed is gone sooner, unless the kernel keeps it.
const KILL_LIMIT: Duration = Duration::from_millis(500);
/// Sets the daemon's log level.
const LOG_VARIABLE: &str = "SYNCLINE_LOG";
/// Lines of the log that are shown on failure.
const LOG_LINES: usize = 60;

/// A site. Dropping it kills its daemon and unmounts.
pub struct Site {
    /// Its number in the cluster, from 0.
    pub index: usize,
    /// Its name in the volume.
    pub name: String,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its store.
    pub store: PathBuf,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    log: PathBuf,
    network: Arc<Network>,
    daemon: Option<Child>,
}

impl Site {
    /// A site below `directory`, not yet initialised, with its store at `store`.
    pub fn new(index: usize, directory: &Path, store: PathBuf, network: Arc<Network>) -> Self {
        let name = char::from(b'a' + index as u8).to_string();
        let mountpoint = directory.join(&name);
        fs::create_dir_all(&mountpoint).or_fail(format_args!("cannot make {}", mountpoint.display()));
        Self {
            index,
            config: directory.join(format!("{name}.toml")),
            log: directory.join(format!("{name}.log")),
            store,
            mountpoint,
            name,
            network,
            daemon: None,
        }
    }

    /// `path` below the mount.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.mountpoint.join(path)
    }

    /// Makes it the first site of a new volume.
    pub fn init(&self) {
        self.found(Command::new(binary::syncline()).args(["init", "--volume", "test"]));
    }

    /// A token with which another site may join.
    pub fn invite(&self) -> String {
        let mut command = Command::new(binary::syncline());
        command.arg("invite").arg("--config").arg(&self.config);
        let out = succeed(&mut command);
        let token = out.trim_end_matches('\n').to_owned();
        assert!(!token.is_empty() && !token.contains(char::is_whitespace), "not one token alone: {out:?}");
        token
    }

    /// Makes it a site of the volume that the token is of.
    pub fn join(&self, token: &str) {
        self.found(Command::new(binary::syncline()).args(["join", token]));
    }

    fn found(&self, command: &mut Command) {
        succeed(self.identity(command));
    }

    /// Puts something else in place of what is in its configuration.
    pub fn configure(&self, old: &str, new: &str) {
        let text = std::fs::read_to_string(&self.config).or_fail("cannot read the configuration");
        assert!(text.contains(old), "the configuration has no {old}");
        std::fs::write(&self.config, text.replace(old, new)).or_fail("cannot write the configuration");
    }

    /// Adds the options that `init` and `join` have in common.
    pub fn identity<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let (listen, public) = (self.network.listen_address(self.index), self.network.public_address(self.index));
        command.arg("--config").arg(&self.config).args(["--site", &self.name]).arg("--store").arg(&self.store);
        command.args(["--listen", &listen.to_string(), "--advertise", &public.to_string()])
    }

    /// Starts the daemon and waits until the mount answers.
    ///
    /// # Panics
    /// When it ends or doesn't mount in time; with the end of its log.
    pub fn start(&mut self) {
        assert!(self.daemon.is_none(), "site {} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).or_fail("cannot open the log");
        let errors = log.try_clone().or_fail("cannot share the log");
        let mut command = Command::new(binary::syncline());
        command.arg("mount").arg("--config").arg(&self.config).arg(&self.mountpoint).arg("--foreground");
        if std::env::var_os(LOG_VARIABLE).is_none() {
            command.env(LOG_VARIABLE, "info");
        }
        // A crash of the daemon must leave its reason in the log.
        command.env("RUST_BACKTRACE", "1");
        command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        let child = command.spawn().or_fail("cannot start the daemon");
        reaper::note(Debris::Group(child.id()));
        reaper::note(Debris::Mount(&self.mountpoint));
        self.network.add_daemon(child.id(), self.index);
        self.daemon = Some(child);
        let begin = Instant::now();
        while !is_mounted(&self.mountpoint) {
            if let Some(status) = self.exited() {
                panic!("the daemon of site {} ended before it mounted: {status}\n{}", self.name, self.log_end());
            }
            if begin.elapsed() > START_LIMIT {
                panic!("site {} is not mounted after {START_LIMIT:?}\n{}", self.name, self.log_end());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Process id of the running daemon.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// Sends a signal to the daemon, if one runs, and waits for nothing.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            self::signal(pid, signal);
        }
    }

    /// How the daemon ended, if it has by itself.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.daemon.as_mut()?.try_wait().ok().flatten()
    }

    /// `kill -9`, then takes the dead mount away.
    pub fn kill(&mut self) {
        let Some(mut child) = self.daemon.take() else { return };
        signal(child.id(), Signal::KILL);
        let begin = Instant::now();
        while !matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            // A thread that tells the kernel of a change waits for the lock of a directory, its holder for an answer that nobody gives any
            // more: the process goes when the connection is broken.
            if begin.elapsed() > KILL_LIMIT {
                let _ = rustix::mount::unmount(&self.mountpoint, rustix::mount::UnmountFlags::FORCE);
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.gone(child.id());
    }

    /// Asks the daemon to stop (SIGTERM) and waits for it.
    ///
    /// # Panics
    /// When it doesn't in time, or not with success.
    pub fn stop(&mut self) {
        let Some(pid) = self.pid() else { return };
        signal(pid, Signal::TERM);
        self.await_end(pid);
    }

    /// `syncline unmount`.
    ///
    /// # Panics
    /// When that fails or the daemon stays.
    pub fn unmount(&mut self) {
        let Some(pid) = self.pid() else { return };
        succeed(Command::new(binary::syncline()).arg("unmount").arg(&self.mountpoint));
        self.await_end(pid);
    }

    fn await_end(&mut self, pid: u32) {
        let name = self.name.clone();
        let status = eventually(STOP_LIMIT, &format!("site {name} stops"), || {
            self.exited().ok_or_else(|| "its daemon still runs".to_owned())
        });
        assert!(status.success(), "the daemon of site {name} ended with {status}\n{}", self.log_end());
        self.daemon = None;
        assert!(!is_mounted(&self.mountpoint), "site {name} stopped and left its mount behind");
        self.gone(pid);
    }

    fn gone(&self, pid: u32) {
        self.network.remove_daemon(pid);
        unmount_dead(&self.mountpoint);
        reaper::forget(Debris::Group(pid));
        reaper::forget(Debris::Mount(&self.mountpoint));
    }

    /// `syncline wait` for all peers.
    ///
    /// # Panics
    /// When it isn't level within `limit`; with what `status` says.
    pub fn wait(&self, limit: Duration) {
        let mut command = Command::new(binary::syncline());
        command.arg("wait").arg(&self.mountpoint).args(["--timeout", &format!("{}s", limit.as_secs().max(1))]);
        let output = command.output().or_fail("cannot run syncline wait");
        if !output.status.success() {
            let status = self.cli(&["status"]);
            panic!("site {}: wait: {}\nstatus: {}\n{}", self.name, show(&output), show(&status), self.log_end());
        }
    }

    /// `syncline status --json`.
    pub fn status(&self) -> Status {
        let out = succeed(Command::new(binary::syncline()).arg("status").arg(&self.mountpoint).arg("--json"));
        serde_json::from_str(&out).or_fail(format_args!("status --json is not as promised: {out}"))
    }

    /// Runs `syncline WORDS MOUNTPOINT`.
    pub fn cli(&self, words: &[&str]) -> Output {
        let mut command = Command::new(binary::syncline());
        command.args(words).arg(&self.mountpoint).output().or_fail("cannot run syncline")
    }

    /// `syncline limit`, `pause` or `resume`.
    ///
    /// # Panics
    /// When it is refused.
    pub fn flow(&self, what: &str, words: &[&str]) {
        succeed(Command::new(binary::syncline()).arg(what).arg(&self.mountpoint).args(words));
    }

    /// The last lines of the daemon's log.
    pub fn log_end(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(LOG_LINES);
        format!("--- end of the log of site {}\n{}\n---", self.name, lines[from..].join("\n"))
    }

    /// The daemon's whole log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if let Some(status) = self.exited() {
                eprintln!("the daemon of site {} had ended by itself: {status}", self.name);
            }
            eprintln!("{}", self.log_end());
        }
        self.kill();
    }
}

/// Sends a signal to the process group that a daemon leads.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        // It may be gone already.
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}

/// True when a FUSE mount answers at `path`.
pub fn is_mounted(path: &Path) -> bool {
    let Ok(inside) = fs::symlink_metadata(path) else { return false };
    let parent = path.parent().and_then(|parent| fs::symlink_metadata(parent).ok());
    parent.is_some_and(|outside| outside.dev() != inside.dev())
}

/// Takes a mount away whose daemon is dead; all layers of it. Nothing happens where none is.
pub fn unmount_dead(path: &Path) {
    while listed_as_mount(path) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        if let Err(error) = rustix::mount::unmount(path, flags) {
            // Without privileges only the set-uid helper may.
            let helper = Command::new("fusermount3").args(["-u", "-z"]).arg(path).status();
            if !helper.is_ok_and(|status| status.success()) {
                eprintln!("cannot unmount {}: {error}", path.display());
                return;
            }
        }
    }
}

fn listed_as_mount(path: &Path) -> bool {
    let Ok(table) = fs::read_to_string("/proc/self/mountinfo") else { return false };
    let Some(path) = path.to_str() else { return false };
    table.lines().any(|line| line.split(' ').nth(4) == Some(path))
}

/// Runs a program that must succeed; its output.
///
/// # Panics
/// When it doesn't; with what it printed.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().or_fail(format_args!("cannot run {command:?}"));
    assert!(output.status.success(), "{command:?}: {}", show(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// How a program ended and what it printed, for messages.
pub fn show(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\nstdout: {out}\nstderr: {err}", output.status)
}

/// Fails with a clear message where nothing can be mounted.
///
/// # Panics
/// Without `/dev/fuse`.
pub fn require_fuse() {
    let opened = File::options().read(true).write(true).open("/dev/fuse");
    opened.or_fail("these tests mount file systems and need /dev/fuse, readable and writable");
}
