//! The command's end of the control socket: one question, one answer, within a time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};

use super::report::WaitOutcome;
use super::{MAX_LINE_BYTES, Reply, ReplyLine, Request, RequestLine, SOCKET, VERSION};

/// How long a daemon may take for what needs no waiting.
pub const PROMPT: Duration = Duration::from_secs(20);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens.
    #[error("no daemon answers for the store {}: {source}; start it with `syncline mount`", store.display())]
    NoDaemon {
        /// The store.
        store: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The caller is not the daemon's user.
    #[error("the daemon of the store {} answers only its own user and root: {source}", store.display())]
    NotAllowed {
        /// The store.
        store: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// The daemon is there, but silent.
    #[error("the daemon of the store {} did not answer within {} s; its log is in {}/log",
        store.display(), limit.as_secs(), store.display())]
    Silent {
        /// The store.
        store: PathBuf,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The connection broke.
    #[error("the daemon of the store {} hung up: {source}; its log is in {}/log", store.display(), store.display())]
    Broken {
        /// The store.
        store: PathBuf,
        /// How.
        source: io::Error,
    },
    /// Daemon and command are of different versions.
    #[error(
        "the daemon speaks version {daemon} of the control protocol, this command {VERSION}: restart the daemon, \
        unmount and mount, after an update"
    )]
    Version {
        /// The daemon's.
        daemon: u32,
    },
    /// The daemon could not do it.
    #[error("{0}")]
    Failed(String),
}

/// Asks the daemon of `store`. A [`Reply::Failed`] becomes an error.
pub fn call(store: &Path, request: Request, limit: Duration) -> Result<Reply, CallError> {
    follow(store, request, limit, |_| {})
}

/// As [`call`], and `tell`s how far a wait is. `limit` is for each line.
pub fn follow(
    store: &Path,
    request: Request,
    limit: Duration,
    tell: impl FnMut(WaitOutcome),
) -> Result<Reply, CallError> {
    let stream = connect(store).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => CallError::NotAllowed { store: store.to_owned(), source },
        _ => CallError::NoDaemon { store: store.to_owned(), source },
    })?;
    let line = exchange(&stream, request, limit, tell).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CallError::Silent { store: store.to_owned(), limit },
        _ => CallError::Broken { store: store.to_owned(), source },
    })?;
    match line {
        ReplyLine { version, .. } if version != VERSION => Err(CallError::Version { daemon: version }),
        ReplyLine { reply: Reply::Failed { message }, .. } => Err(CallError::Failed(message)),
        ReplyLine { reply, .. } => Ok(reply),
    }
}

/// Through the opened directory: a store's path may be longer than the 108 bytes of a socket's address.
fn connect(store: &Path) -> io::Result<UnixStream> {
    let directory = open(store, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))
}

fn exchange(
    mut stream: &UnixStream,
    request: Request,
    limit: Duration,
    mut tell: impl FnMut(WaitOutcome),
) -> io::Result<ReplyLine> {
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let mut line = serde_json::to_vec(&RequestLine { version: VERSION, request })?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut reading = BufReader::new(stream);
    loop {
        match read_line(&mut reading)? {
            ReplyLine { reply: Reply::Waiting { outcome }, .. } => tell(outcome),
            line => return Ok(line),
        }
    }
}

fn read_line(reading: &mut impl BufRead) -> io::Result<ReplyLine> {
    let mut line = Vec::new();
    reading.take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // Only the version is looked at first: a reply of another version may not parse.
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    match serde_json::from_slice::<Versioned>(&line)? {
        Versioned { version } if version != VERSION => {
            Ok(ReplyLine { version, reply: Reply::Failed { message: String::new() } })
        }
        _ => Ok(serde_json::from_slice(&line)?),
    }
}
