//! A daemon in the background: started by a command that returns once the mount answers.
//!
//! The daemon is this program again, in the foreground of a session of its own. Its standard output is a pipe, on which
//! it writes one word when it is ready, or why it never will be; afterwards its output goes to its log.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::Signal;

use crate::config::Config;
use crate::founding::{self, IdentityError};
use crate::logging::LogFile;
use crate::store_dir::{Lock, LockError};

/// How long the command waits. A store that has much to recover goes on beyond it.
const START_LIMIT: Duration = Duration::from_secs(300);
const READY: &str = "ready\n";

/// Where a daemon in the background logs.
pub fn log_path(store: &Path) -> PathBuf {
    store.join("log").join("syncline.log")
}

/// Why no daemon was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no site.
    #[error(transparent)]
    NoSite(#[from] IdentityError),
    /// The store is in use.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The process can't be made.
    #[error("cannot start the daemon: {0}")]
    Spawn(#[source] io::Error),
    /// The daemon said why.
    #[error("{0}")]
    Refused(String),
    /// The daemon ended and said nothing.
    #[error("the daemon ended ({status}) before the mount answered; its log is {}", log.display())]
    Died {
        /// How.
        status: String,
        /// Its log.
        log: PathBuf,
    },
    /// It takes long.
    #[error("the mount does not answer yet after {} s; the daemon (pid {pid}) goes on, its log is {}",
        START_LIMIT.as_secs(), log.display())]
    Slow {
        /// The daemon.
        pid: u32,
        /// Its log.
        log: PathBuf,
    },
}

/// How long a daemon lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// Until it is unmounted.
    OfItsOwn,
    /// At most as long as the thread that started it.
    OfItsParent,
}

/// Starts a daemon and returns when its mount answers.
pub fn start(config_path: &Path, mountpoint: &Path, config: &Config, life: Life) -> Result<Child, StartError> {
    // Refused here already, so that no log is made where no store is.
    founding::check_store(&config.store)?;
    drop(Lock::take(&config.store)?);
    let log = log_path(&config.store);
    let mut child = spawn(config_path, mountpoint, &log, life).map_err(StartError::Spawn)?;
    let Some(said) = first_words(&mut child, START_LIMIT) else {
        return Err(StartError::Slow { pid: child.id(), log });
    };
    if said == READY {
        return Ok(child);
    }
    let status = child.wait().map_err(StartError::Spawn)?;
    match said.trim_end() {
        "" => Err(StartError::Died { status: status.to_string(), log }),
        message => Err(StartError::Refused(message.to_owned())),
    }
}

fn spawn(config_path: &Path, mountpoint: &Path, log: &Path, life: Life) -> io::Result<Child> {
    drop(LogFile::open(log)?);
    let log = File::options().append(true).open(log)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("syncline").arg("mount").arg("--config").arg(std::path::absolute(config_path)?).arg(mountpoint);
    command.args(["--foreground", "--report-to-parent"]);
    if life == Life::OfItsParent {
        command.arg("--end-with-parent");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).current_dir("/").spawn()
}

/// What the daemon wrote until it was ready or closed the pipe; `None` when it did neither in time.
fn first_words(child: &mut Child, limit: Duration) -> Option<String> {
    let mut pipe = child.stdout.take()?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        // A pipe that breaks has ended.
        let _ = pipe.read_to_end(&mut text);
        let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
    });
    receiver.recv_timeout(limit).ok()
}

/// The daemon's end of the pipe.
#[derive(Debug)]
pub struct Readiness(std::sync::Mutex<Option<File>>);

impl Readiness {
    /// Takes standard output as the pipe, and makes this process the first of a session of its own.
    pub fn take_stdout() -> io::Result<Self> {
        let pipe = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        rustix::process::setsid()?;
        rustix::thread::set_name(c"syncline")?;
        Ok(Self(std::sync::Mutex::new(Some(pipe))))
    }

    /// The mount answers.
    pub fn ready(&self) {
        self.say(READY);
    }

    /// It never will, because of `error`.
    pub fn failed(&self, error: &dyn Error) {
        self.say(&format!("{error}\n"));
    }

    /// Once: the pipe is closed after it. Whoever started us may be gone, which is no reason to stop.
    fn say(&self, text: &str) {
        let mut pipe = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(mut pipe) = pipe.take() {
            let _ = pipe.write_all(text.as_bytes());
        }
    }
}

/// Has the kernel send SIGTERM to this process when its parent ends: nothing outlives a demonstration.
pub fn end_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    Ok(())
}
