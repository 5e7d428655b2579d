//! gRPC over mutual TLS: the only module that knows tonic.
//!
//! Peers prove themselves by certificates of the volume's own CA, in both directions: a client asks for the name of the one site that
//! it means to reach, a server takes the client's site from its certificate. Every wait has a limit; a silently cut link is noticed by
//! unanswered pings.

use std::time::Duration;

use proto::segment::MAX_SEALED_BYTES;
use zeroize::Zeroizing;

use crate::identity::site_identity::SiteIdentity;

pub mod client;
pub mod server;

/// The longest message: a sealed segment or a snapshot's chunk, with room for what is around it.
const MAX_MESSAGE_BYTES: usize = MAX_SEALED_BYTES + (1 << 20);
/// hyper's 16 KiB frames cost half of the throughput.
const MAX_FRAME_BYTES: u32 = 256 << 10;
/// Windows of at least bandwidth times delay: 8 MiB fill 1 Gbit/s at 60 ms.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TLS_TIMEOUT: Duration = Duration::from_secs(5);
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// What a site proves itself with and whom it believes, all PEM.
#[derive(Clone)]
pub struct Credentials {
    /// The certificate of the volume's authority.
    pub authority_certificate: String,
    /// This site's certificate.
    pub certificate: String,
    /// Its key.
    pub key: Zeroizing<String>,
}

impl Credentials {
    /// Those of a site's identity.
    pub fn of(identity: &SiteIdentity) -> Self {
        Self {
            authority_certificate: identity.authority_certificate().to_pem(),
            certificate: identity.certificate().to_pem(),
            key: identity.key().to_pem(),
        }
    }
}

/// Why there is no connection, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The address can't be one.
    #[error("{address:?} is not an address: {cause}")]
    Address {
        /// The address.
        address: String,
        /// Why.
        cause: String,
    },
    /// No connection: nobody answers there, or it can't prove to be the site.
    #[error("{address} can't be reached: {cause}")]
    Unreachable {
        /// The address.
        address: String,
        /// The chain of causes.
        cause: String,
    },
    /// The peer answered with an error, or the connection broke.
    #[error("the connection ended: {cause}")]
    Ended {
        /// The chain of causes.
        cause: String,
    },
}

/// Messages as they come in from the other side.
pub struct Frames<T>(tonic::Streaming<T>);

impl<T> Frames<T> {
    /// The next one; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<T>, LinkError> {
        self.0.message().await.map_err(|status| ended(&status))
    }
}

fn ended(status: &tonic::Status) -> LinkError {
    use std::error::Error;
    let cause = match (status.message(), status.source()) {
        ("", Some(source)) => causes(source),
        ("", None) => status.code().description().to_string(),
        (message, Some(source)) => format!("{message}: {}", causes(source)),
        (message, None) => message.to_string(),
    };
    LinkError::Ended { cause }
}

/// An error with all that caused it; tonic's own text is often only "transport error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}
