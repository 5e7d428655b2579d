//! Answers `GET /metrics`, and nothing else. Callers are few and known, but the port may be open to more: requests are limited in size and
//! time, connections in number.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Connections at one time; more wait.
const MAX_CONNECTIONS: usize = 16;
/// The longest request head, in bytes; the least that hyper takes.
const MAX_HEAD_BYTES: usize = 8 << 10;
/// How long a caller may take for its request.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// How long one connection may last: a scrape, with time for a slow link.
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);
/// After a failed accept, for example for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who knows the metrics.
pub trait Source: Send + Sync + 'static {
    /// The text as of now, or why there is none.
    fn metrics(&self) -> impl Future<Output = Result<String, String>> + Send;
}

/// Opens the port.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers until it is dropped.
pub async fn serve<S: Source>(listener: TcpListener, source: Arc<S>) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Dropped with this future, and so are the connections.
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, caller)) => {
                let source = source.clone();
                open.spawn(async move {
                    let answer = service_fn(|request| answer(request, source.clone()));
                    // One request a connection: a scraper comes again in some seconds, and must not hold a place until then.
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEAD_LIMIT)
                        .max_buf_size(MAX_HEAD_BYTES)
                        .keep_alive(false)
                        .serve_connection(TokioIo::new(stream), answer);
                    match timeout(CONNECTION_LIMIT, connection).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::debug!(%caller, %error, "a scrape failed"),
                        Err(_) => tracing::debug!(%caller, "a scrape took too long"),
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the metrics port could not take a caller");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer<S: Source>(request: Request<Incoming>, source: Arc<S>) -> Result<Response<Full<Bytes>>, Infallible> {
    const PLAIN: &str = "text/plain; charset=utf-8";
    let (status, kind, text) = match (request.uri().path(), request.method()) {
        ("/metrics", &(Method::GET | Method::HEAD)) => match source.metrics().await {
            Ok(text) => (StatusCode::OK, super::CONTENT_TYPE, text),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, PLAIN, why),
        },
        ("/metrics", _) => (StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, PLAIN, "the metrics are at /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    Ok(response)
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
