#![allow(clippy::unwrap_used)]

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::FlowChange;
use super::super::client::{CallError, call, follow};
use super::super::report::WaitOutcome;
use super::*;

const LIMIT: Duration = Duration::from_secs(10);

/// Answers `Ping`, fails `Invite`, never answers `Wait`, counting who waits.
#[derive(Default)]
struct Fake {
    waiting: AtomicUsize,
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Service for Fake {
    async fn answer(self: Arc<Self>, request: Request, tell: Tell) -> Reply {
        match request {
            Request::Ping => Reply::Pong { pid: 7 },
            Request::Wait { .. } => {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                let _waiting = Waiting(&self.waiting);
                tell.tell(Reply::Waiting { outcome: WaitOutcome { peers: vec![] } });
                std::future::pending().await
            }
            _ => Reply::Failed { message: "no".into() },
        }
    }
}

/// A daemon's socket in a store, until dropped.
struct Running {
    _directory: tempfile::TempDir,
    store: PathBuf,
    fake: Arc<Fake>,
    _runtime: tokio::runtime::Runtime,
}

fn running(store_name: &str) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join(store_name);
    std::fs::create_dir_all(&store).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let fake = Arc::new(Fake::default());
    let listener = runtime.block_on(async { bind(&store) }).unwrap();
    runtime.spawn(serve(listener, fake.clone()));
    Running { _directory: directory, store, fake, _runtime: runtime }
}

/// Sends a raw line, returns the raw answer.
fn raw(store: &Path, line: &[u8]) -> String {
    let mut stream = std::os::unix::net::UnixStream::connect(socket_path(store)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(line).unwrap();
    let mut answer = String::new();
    std::io::BufReader::new(stream).read_line(&mut answer).unwrap();
    answer
}

fn wait() -> Request {
    let path = b"a/b\xff".to_vec();
    Request::Wait { path, peer: Some("tokyo".into()), lane: None, timeout_ms: 30_000 }
}

fn until(condition: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "the condition did not come true in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_question_is_answered_also_in_a_store_with_a_long_path() {
    let daemon = running(&"long/".repeat(40));
    assert!(socket_path(&daemon.store).as_os_str().len() > 108);
    assert_eq!(call(&daemon.store, Request::Ping, LIMIT).unwrap(), Reply::Pong { pid: 7 });
    let mode = std::fs::metadata(socket_path(&daemon.store)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn failures_are_told() {
    let daemon = running("s");
    let error = call(&daemon.store, Request::Invite { valid_ms: 1 }, LIMIT).unwrap_err();
    assert!(matches!(error, CallError::Failed(message) if message == "no"));
    let error = call(&daemon.store.join("absent"), Request::Ping, LIMIT).unwrap_err();
    assert!(matches!(error, CallError::NoDaemon { .. }));
}

#[test]
fn a_socket_that_was_left_over_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    drop(std::os::unix::net::UnixListener::bind(socket_path(directory.path())).unwrap());
    let error = call(directory.path(), Request::Ping, LIMIT).unwrap_err();
    assert!(matches!(error, CallError::NoDaemon { .. }), "{error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { bind(directory.path()) }).unwrap();
}

#[test]
fn a_daemon_that_does_not_answer_is_given_up_and_forgets_the_caller() {
    let daemon = running("s");
    let mut told = 0;
    let error = follow(&daemon.store, wait(), Duration::from_millis(500), |_| told += 1).unwrap_err();
    assert!(matches!(error, CallError::Silent { .. }), "{error}");
    assert_eq!(told, 1, "what is told before the answer comes at once");
    until(|| daemon.fake.waiting.load(Ordering::SeqCst) == 0);
}

#[test]
fn nonsense_is_refused() {
    let daemon = running("s");
    for (line, expected) in [
        (&b"hello\n"[..], "no JSON"),
        (b"{}\n", "the command none"),
        (b"{\"version\":3,\"request\":{\"kind\":\"ping\"}}\n", "the command 3"),
        (b"{\"version\":2,\"request\":{\"kind\":\"dance\"}}\n", "not understood"),
        (b"{\"version\":2,\"request\":{\"kind\":\"wait\",\"timeout_ms\":\"x\"}}\n", "not understood"),
    ] {
        let answer = raw(&daemon.store, line);
        assert!(answer.contains(expected), "{answer}");
    }
    let answer = raw(&daemon.store, &vec![b'x'; MAX_REQUEST_BYTES as usize]);
    assert!(answer.contains("no line of at most"), "{answer}");
}

#[test]
fn requests_survive_the_wire() {
    let requests = [
        Request::Ping,
        Request::Status,
        wait(),
        Request::Flow { peer: None, lane: Some("bulk".into()), change: Some(FlowChange::Pause) },
        Request::Flow { peer: None, lane: None, change: Some(FlowChange::Limit { bytes_per_second: Some(7) }) },
        Request::Flow { peer: None, lane: None, change: None },
        Request::Invite { valid_ms: 60_000 },
        Request::Unmount,
    ];
    for request in requests {
        let mut line = serde_json::to_vec(&RequestLine { version: VERSION, request: request.clone() }).unwrap();
        line.push(b'\n');
        assert_eq!(parse(&line), Ok(request));
    }
}

#[test]
fn another_version_of_the_daemon_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let listener = std::os::unix::net::UnixListener::bind(socket_path(directory.path())).unwrap();
    let daemon = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        std::io::BufReader::new(&stream).read_line(&mut line).unwrap();
        (&stream).write_all(b"{\"version\":9,\"something\":\"else\"}\n").unwrap();
    });
    let error = call(directory.path(), Request::Ping, LIMIT).unwrap_err();
    daemon.join().unwrap();
    assert!(matches!(error, CallError::Version { daemon: 9 }), "{error}");
}
