//! The port that other sites connect to.
//!
//! TLS asks for a client certificate but doesn't insist: a site that joins has none yet. Whatever else is served insists, and takes the
//! client's site from the certificate, never from what it says.

use std::future::Future;
use std::sync::Arc;

use proto::grpc::join_server::{Join, JoinServer};
use proto::grpc::replication_server::{Replication, ReplicationServer};
use proto::grpc::{
    AckFrame, LevelFrame, LevelRequest, RedeemRequest, RedeemResponse, ShipFrame, SnapshotChunk, SnapshotRequest,
};
use proto::ids::SiteId;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use super::{
    CONNECTION_WINDOW_BYTES, Frames, LinkError, MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, PING_INTERVAL, PING_TIMEOUT,
    STREAM_WINDOW_BYTES, TLS_TIMEOUT, causes,
};
use crate::hub::Hub;
use crate::identity::certificate;
use crate::join::admit::{self, AdmitError};
use crate::level::give;
use crate::receive::{self, ACK_FRAMES};
use crate::store::Store;

/// What one connection may have open at once.
const STREAMS_PER_CONNECTION: u32 = 16;
/// Chunks of a snapshot that wait to be sent.
const SNAPSHOT_CHUNKS: usize = 4;

/// Serves until `stopped` resolves and all streams have ended.
pub async fn serve<S: Store>(
    hub: Arc<Hub<S>>,
    listener: TcpListener,
    stopped: impl Future<Output = ()>,
) -> Result<(), LinkError> {
    let ended = |error: tonic::transport::Error| LinkError::Ended { cause: causes(&error) };
    let credentials = &hub.local.credentials;
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(&credentials.certificate, credentials.key.as_str()))
        .client_ca_root(Certificate::from_pem(&credentials.authority_certificate))
        .client_auth_optional(true)
        .timeout(TLS_TIMEOUT);
    let replication = ReplicationServer::new(Service { hub: hub.clone() })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let join = JoinServer::new(Service { hub: hub.clone() })
        .max_decoding_message_size(admit::MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Server::builder()
        .tls_config(tls)
        .map_err(ended)?
        .max_frame_size(MAX_FRAME_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .add_service(replication)
        .add_service(join)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stopped)
        .await
        .map_err(ended)
}

struct Service<S> {
    hub: Arc<Hub<S>>,
}

impl<S: Store> Service<S> {
    /// The site whose certificate the client presented.
    fn peer<T>(&self, request: &Request<T>) -> Result<SiteId, Box<Status>> {
        let refused = |text: &str| Box::new(Status::unauthenticated(text));
        let certificates = request.peer_certs().ok_or_else(|| refused("a site's certificate is needed here"))?;
        let first = certificates.first().ok_or_else(|| refused("a site's certificate is needed here"))?;
        let (volume, site) =
            certificate::site_of_certificate(first).map_err(|error| refused(&format!("your certificate: {error}")))?;
        if volume == self.hub.local.volume { Ok(site) } else { Err(refused("your certificate is another volume's")) }
    }
}

#[tonic::async_trait]
impl<S: Store> Replication for Service<S> {
    type ShipStream = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<AckFrame, Status>> + Send>>;

    async fn ship(&self, request: Request<Streaming<ShipFrame>>) -> Result<Response<Self::ShipStream>, Status> {
        let origin = self.peer(&request).map_err(|status| *status)?;
        let (acks, outgoing) = mpsc::channel(ACK_FRAMES);
        tokio::spawn(receive::serve(self.hub.clone(), origin, Frames(request.into_inner()), acks));
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing).map(Ok))))
    }

    type LevelStream = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<LevelFrame, Status>> + Send>>;

    async fn level(&self, request: Request<Streaming<LevelRequest>>) -> Result<Response<Self::LevelStream>, Status> {
        let peer = self.peer(&request).map_err(|status| *status)?;
        if self.hub.state().membership.get(peer).is_none() {
            return Err(Status::permission_denied("only a member gets this site's state"));
        }
        let (frames, outgoing) = mpsc::channel(give::CHUNKS);
        give::give(self.hub.clone(), peer, Frames(request.into_inner()), frames);
        let status = |frame: Result<LevelFrame, String>| frame.map_err(Status::internal);
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing).map(status))))
    }
}

#[tonic::async_trait]
impl<S: Store> Join for Service<S> {
    type SnapshotStream = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<SnapshotChunk, Status>> + Send>>;

    async fn redeem(&self, request: Request<RedeemRequest>) -> Result<Response<RedeemResponse>, Status> {
        // In a task of its own: a client that hangs up must not leave it half done.
        let hub = self.hub.clone();
        let redeemed = tokio::spawn(async move { admit::redeem(&hub, request.into_inner()).await });
        let answer = redeemed.await.map_err(|error| Status::internal(error.to_string()))?;
        answer.map(Response::new).map_err(|error| {
            tracing::warn!("a site was not let in: {error}");
            let text = error.to_string();
            match error {
                AdmitError::Invitation(_) => Status::permission_denied(text),
                AdmitError::Store(_) | AdmitError::Invitations(_) | AdmitError::Sign(_) => Status::internal(text),
                _ => Status::failed_precondition(text),
            }
        })
    }

    async fn snapshot(&self, request: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let peer = self.peer(&request).map_err(|status| *status)?;
        if self.hub.state().membership.get(peer).is_none() {
            return Err(Status::permission_denied("only a member gets a copy"));
        }
        let (chunks, outgoing) = mpsc::channel(SNAPSHOT_CHUNKS);
        admit::send_snapshot(self.hub.clone(), peer, chunks);
        let status = |chunk: Result<SnapshotChunk, String>| chunk.map_err(Status::internal);
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing).map(status))))
    }
}
