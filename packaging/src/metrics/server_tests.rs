#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

struct Fake;

impl Source for Fake {
    async fn metrics(&self) -> Result<String, String> {
        Ok("some 1\n# EOF\n".into())
    }
}

/// A server until the runtime is dropped.
fn running() -> (tokio::runtime::Runtime, SocketAddr) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(bind((Ipv4Addr::LOCALHOST, 0).into())).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(serve(listener, Arc::new(Fake)));
    (runtime, address)
}

/// What comes back for these bytes until the server closes.
fn ask(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    // A server that refuses a request early may close before it has read all of it.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn metrics_are_at_their_path_and_nothing_is_elsewhere() {
    let (_runtime, address) = running();
    let found = ask(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(found.starts_with("HTTP/1.1 200 OK\r\n") && found.ends_with("\r\n\r\nsome 1\n# EOF\n"), "{found}");
    assert!(found.to_lowercase().contains("content-type: application/openmetrics-text"), "{found}");
    for (request, expected) in [
        (&b"GET / HTTP/1.0\r\n\r\n"[..], "404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "405 Method Not Allowed"),
        (b"nonsense\r\n\r\n", "400 Bad Request"),
    ] {
        let answer = ask(address, request);
        assert!(answer.lines().next().is_some_and(|line| line.ends_with(expected)), "{answer}");
    }
}

#[test]
fn what_is_too_long_or_never_comes_does_not_hold_the_port() {
    let (_runtime, address) = running();
    let endless = [b"GET /metrics HTTP/1.1\r\nX: ".as_slice(), &vec![b'x'; 64 << 10]].concat();
    assert!(!ask(address, &endless).contains("200 OK"));
    // As many silent callers as there are places; the time limit makes room for the next.
    let silent: Vec<TcpStream> = (0..MAX_CONNECTIONS).map(|_| TcpStream::connect(address).unwrap()).collect();
    let answer = ask(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.contains("some 1"), "{answer}");
    drop(silent);
}
