//! Connections that this site opens.

use proto::grpc::join_client::JoinClient;
use proto::grpc::replication_client::ReplicationClient;
use proto::grpc::{
    AckFrame, LevelFrame, LevelRequest, RedeemRequest, RedeemResponse, ShipFrame, SnapshotChunk, SnapshotRequest,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::{
    CONNECT_TIMEOUT, CONNECTION_WINDOW_BYTES, Credentials, Frames, LinkError, MAX_FRAME_BYTES, MAX_MESSAGE_BYTES,
    PING_INTERVAL, PING_TIMEOUT, STREAM_WINDOW_BYTES, TLS_TIMEOUT, causes, ended,
};

/// An open stream to a peer.
pub struct ShipLink {
    /// To the peer. Dropping it ends the stream.
    pub frames: mpsc::Sender<ShipFrame>,
    /// From the peer.
    pub acks: Frames<AckFrame>,
}

/// Opens the stream to the site that has the name `server_name` in its certificate; `first` is sent with it. Up to `capacity` frames wait to
/// be sent.
pub async fn ship(
    address: &str,
    server_name: &str,
    credentials: &Credentials,
    first: ShipFrame,
    capacity: usize,
) -> Result<ShipLink, LinkError> {
    let channel = connect(address, server_name, credentials).await?;
    let (frames, outgoing) = mpsc::channel(capacity.max(1));
    let _ = frames.try_send(first);
    let mut client = ReplicationClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let answer = client.ship(ReceiverStream::new(outgoing)).await.map_err(|status| ended(&status))?;
    Ok(ShipLink { frames, acks: Frames(answer.into_inner()) })
}

/// An open call that takes a peer's state.
pub struct LevelLink {
    /// To the peer. Dropping it ends the call.
    pub requests: mpsc::Sender<LevelRequest>,
    /// From the peer.
    pub frames: Frames<LevelFrame>,
}

/// Begins to take the state of a site.
pub async fn level(
    address: &str,
    server_name: &str,
    credentials: &Credentials,
    first: LevelRequest,
) -> Result<LevelLink, LinkError> {
    let channel = connect(address, server_name, credentials).await?;
    let (requests, outgoing) = mpsc::channel(2);
    let _ = requests.try_send(first);
    let mut client = ReplicationClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let answer = client.level(ReceiverStream::new(outgoing)).await.map_err(|status| ended(&status))?;
    Ok(LevelLink { requests, frames: Frames(answer.into_inner()) })
}

/// Hands in an invitation, over server TLS alone: the caller has no certificate yet.
pub async fn redeem(
    address: &str,
    server_name: &str,
    authority_certificate: &str,
    request: RedeemRequest,
) -> Result<RedeemResponse, LinkError> {
    let tls = tls(server_name, authority_certificate);
    let channel = open(address, endpoint(address)?.tls_config(tls)).await?;
    let mut client = JoinClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    Ok(client.redeem(request).await.map_err(|status| ended(&status))?.into_inner())
}

/// Asks for the site's whole state.
pub async fn snapshot(
    address: &str,
    server_name: &str,
    credentials: &Credentials,
) -> Result<Frames<SnapshotChunk>, LinkError> {
    let channel = connect(address, server_name, credentials).await?;
    let mut client = JoinClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let answer = client.snapshot(SnapshotRequest {}).await.map_err(|status| ended(&status))?;
    Ok(Frames(answer.into_inner()))
}

async fn connect(address: &str, server_name: &str, credentials: &Credentials) -> Result<Channel, LinkError> {
    let identity = Identity::from_pem(&credentials.certificate, credentials.key.as_str());
    let tls = tls(server_name, &credentials.authority_certificate).identity(identity);
    open(address, endpoint(address)?.tls_config(tls)).await
}

fn tls(server_name: &str, authority_certificate: &str) -> ClientTlsConfig {
    ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(authority_certificate))
        .domain_name(server_name)
        .timeout(TLS_TIMEOUT)
}

fn endpoint(address: &str) -> Result<Endpoint, LinkError> {
    let endpoint = Endpoint::from_shared(format!("https://{address}"))
        .map_err(|error| LinkError::Address { address: address.to_string(), cause: causes(&error) })?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .max_frame_size(MAX_FRAME_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true))
}

async fn open(address: &str, endpoint: Result<Endpoint, tonic::transport::Error>) -> Result<Channel, LinkError> {
    let unreachable =
        |error: tonic::transport::Error| LinkError::Unreachable { address: address.to_string(), cause: causes(&error) };
    endpoint.map_err(unreachable)?.connect().await.map_err(unreachable)
}

#[cfg(test)]
mod tests {
    use proto::ids::SiteId;

    use super::*;
    use crate::identity::certificate::server_name;
    use crate::testing::{Sites, VOLUME};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn without_a_certificate_nothing_but_redeeming_is_served() {
        let sites = Sites::started(1).await;
        let address = sites.sites[0].listen.to_string();
        let identity = sites.identity(SiteId(2), "beta", "127.0.0.1:9");
        let tls = tls(&server_name(VOLUME, SiteId(1)), &identity.authority_certificate().to_pem());
        let endpoint = endpoint(&address).expect("an address").tls_config(tls);
        let channel = open(&address, endpoint).await.expect("TLS is in order");

        let (_frames, outgoing) = mpsc::channel(1);
        let shipped = ReplicationClient::new(channel.clone()).ship(ReceiverStream::new(outgoing)).await;
        assert_eq!(shipped.map(|_| ()).map_err(|status| status.code()), Err(tonic::Code::Unauthenticated));
        let copied = JoinClient::new(channel.clone()).snapshot(SnapshotRequest {}).await;
        assert_eq!(copied.map(|_| ()).map_err(|status| status.code()), Err(tonic::Code::Unauthenticated));
        let request = RedeemRequest {
            protocol_version: proto::grpc::PROTOCOL_VERSION,
            secret: vec![0; 32].into(),
            ..RedeemRequest::default()
        };
        let redeemed = JoinClient::new(channel).redeem(request).await;
        assert_eq!(redeemed.map(|_| ()).map_err(|status| status.code()), Err(tonic::Code::PermissionDenied));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_certificate_of_a_site_that_is_no_member_gets_no_copy() {
        let sites = Sites::started(1).await;
        let address = sites.sites[0].listen.to_string();
        let credentials = Credentials::of(&sites.identity(SiteId(2), "beta", "127.0.0.1:9"));
        let copied = snapshot(&address, &server_name(VOLUME, SiteId(1)), &credentials).await;
        assert!(copied.is_err_and(|error| error.to_string().contains("only a member")));
    }
}
