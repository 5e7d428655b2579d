//! The daemon's end of the control socket.

use std::fs::Permissions;
use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::geteuid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{MAX_LINE_BYTES, Reply, ReplyLine, Request, RequestLine, SOCKET, VERSION, socket_path};

/// The longest request, in bytes.
const MAX_REQUEST_BYTES: u64 = 64 << 10;
/// How long a caller may take to say what it wants, and to take the answer.
const CALLER_LIMIT: Duration = Duration::from_secs(5);
/// Callers at one time; more wait.
const MAX_CALLERS: usize = 64;
/// After a failed accept, for example for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who answers.
pub trait Service: Send + Sync + 'static {
    /// The answer to one request, and what is told before. Dropped when the caller hangs up.
    fn answer(self: Arc<Self>, request: Request, tell: Tell) -> impl Future<Output = Reply> + Send;
}

/// Lets a caller that waits know how far it is.
pub struct Tell(mpsc::Sender<Reply>);

impl Tell {
    /// A caller that takes it more slowly than it is told misses some of it.
    pub fn tell(&self, reply: Reply) {
        let _ = self.0.try_send(reply);
    }
}

/// Makes the socket, in place of one that an earlier daemon left: the caller holds the store's lock.
pub fn bind(store: &Path) -> io::Result<UnixListener> {
    let path = socket_path(store);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let directory = open(store, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until it is dropped.
pub async fn serve<S: Service>(listener: UnixListener, service: Arc<S>) {
    let callers = Arc::new(Semaphore::new(MAX_CALLERS));
    // Dropped with this future, and so are the conversations.
    let mut conversations = JoinSet::new();
    loop {
        while conversations.try_join_next().is_some() {}
        let Ok(permit) = callers.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let service = service.clone();
                conversations.spawn(async move {
                    if let Err(error) = converse(stream, service).await {
                        tracing::debug!(%error, "a caller of the control socket went away");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket could not take a caller");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse<S: Service>(stream: UnixStream, service: Arc<S>) -> io::Result<()> {
    let caller = stream.peer_cred()?.uid();
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading);
    let reply = if caller == 0 || caller == geteuid().as_raw() {
        let mut line = Vec::new();
        timeout(CALLER_LIMIT, (&mut reading).take(MAX_REQUEST_BYTES).read_until(b'\n', &mut line)).await??;
        match parse(&line) {
            Ok(request) => {
                let (tell, mut told) = mpsc::channel(1);
                let mut answer = pin!(service.answer(request, Tell(tell)));
                loop {
                    tokio::select! {
                        reply = &mut answer => break reply,
                        Some(reply) = told.recv() => write_line(&mut writing, reply).await?,
                        // The caller says nothing more: whatever comes is the end.
                        _ = reading.read_u8() => return Err(io::ErrorKind::ConnectionAborted.into()),
                    }
                }
            }
            Err(message) => Reply::Failed { message },
        }
    } else {
        tracing::warn!(uid = caller, "a user who may not was refused at the control socket");
        Reply::Failed { message: "only the daemon's own user and root are answered".into() }
    };
    write_line(&mut writing, reply).await
}

async fn write_line(writing: &mut OwnedWriteHalf, reply: Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(&ReplyLine { version: VERSION, reply })?;
    debug_assert!((line.len() as u64) < MAX_LINE_BYTES);
    line.push(b'\n');
    timeout(CALLER_LIMIT, writing.write_all(&line)).await?
}

fn parse(line: &[u8]) -> Result<Request, String> {
    if line.last() != Some(&b'\n') {
        return Err(format!("the request is no line of at most {MAX_REQUEST_BYTES} bytes"));
    }
    let value: serde_json::Value = serde_json::from_slice(line).map_err(|error| format!("no JSON: {error}"))?;
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(VERSION) => {}
        other => {
            let other = other.map_or("none".into(), |version| version.to_string());
            return Err(format!("the daemon speaks version {VERSION} of the control protocol, the command {other}"));
        }
    }
    let line: RequestLine = serde_json::from_value(value).map_err(|error| format!("not understood: {error}"))?;
    Ok(line.request)
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
