//! Opens the stream to a peer: connects, greets, checks the answer.

use std::sync::Arc;
use std::time::Duration;

use fs::error::FsError;
use proto::grpc::{self, ShipFrame, ack_frame, ship_frame};
use proto::hlc::Hlc;
use proto::ids::{LanePoint, Seq, SiteId};
use tokio::time::{Instant, timeout_at};

use crate::channel::Channel;
use crate::engine::window::MAX_PIECES;
use crate::engine::{Fault, Handshake, Settings};
use crate::frames::{self, FrameError};
use crate::frontiers::Head;
use crate::hello;
use crate::hub::{Hub, LANES, LearnError};
use crate::level::told::Told;
use crate::store::Store;
use crate::transport::LinkError;
use crate::transport::client::{self, ShipLink};

/// Frames beside segments that may wait to be sent.
const CONTROL_FRAMES: usize = 64;

/// Why there is no connection to a peer, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("it did not answer within {0:?}")]
    Silent(Duration),
    #[error("it closed the connection")]
    Closed,
    #[error("it refused: {0}")]
    Refused(String),
    #[error("it asks to be dialled again: {0}")]
    Again(String),
    #[error(
        "it speaks version {theirs} of the protocol, this site version {}; upgrade the older site",
        grpc::PROTOCOL_VERSION
    )]
    Version { theirs: u32 },
    #[error("site {0} answered in its place")]
    OtherSite(u32),
    #[error("the connection takes nothing more")]
    Stuck,
    #[error("it sent {0}")]
    Unexpected(&'static str),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Fault(#[from] Fault),
    #[error("its members can't be taken in: {0}")]
    Members(#[from] LearnError),
    #[error("the site is not a member any more")]
    NotMember,
    #[error("this site's journal can't be read: {0}")]
    Store(FsError),
    #[error("this site has opened a new incarnation")]
    Incarnation,
}

/// A connection that the peer has welcomed.
pub struct Welcomed {
    pub link: ShipLink,
    /// How far this site's lanes have come there, and what that means.
    pub handshake: Handshake,
    /// Up to where it needs each lane's records with all their bytes, by the lane's number.
    pub whole: [Seq; LANES],
    /// What it told of them.
    pub told: Arc<Told>,
    /// The peer's own lanes' heads at that time.
    pub heads: Vec<Head>,
    /// The version of the members that it was told.
    pub members_told: u64,
}

/// Connects, greets and reads the answer.
pub async fn dial<S: Store>(hub: Arc<Hub<S>>, peer: SiteId, channel: Channel) -> Result<Welcomed, ShipError> {
    let limit = hub.config.connect_limit;
    let deadline = Instant::now() + limit;
    let address = hub.state().membership.get(peer).map(|member| member.address.clone()).ok_or(ShipError::NotMember)?;
    hub.blocking(|hub| hub.refresh_heads()).await;
    let (hello, members_told) = hello::hello(&hub, channel);
    let frame = ShipFrame { frame: Some(ship_frame::Frame::Hello(hello)) };
    let pieces = match channel {
        Channel::Sync => Settings::default().window_segments,
        Channel::Async => MAX_PIECES,
    };
    let capacity = pieces + CONTROL_FRAMES;
    let name = hub.server_name(peer);
    let connect = client::ship(&address, &name, &hub.local.credentials, frame, capacity);
    let mut link = timeout_at(deadline, connect).await.map_err(|_| ShipError::Silent(limit))??;
    let first = timeout_at(deadline, link.acks.next()).await.map_err(|_| ShipError::Silent(limit))??;
    let welcome = match first.ok_or(ShipError::Closed)?.frame {
        Some(ack_frame::Frame::Welcome(welcome)) => welcome,
        Some(ack_frame::Frame::Refused(refused)) => return Err(ShipError::Refused(refused.reason)),
        _ => return Err(ShipError::Unexpected("something else than a welcome")),
    };
    if welcome.protocol_version != grpc::PROTOCOL_VERSION {
        return Err(ShipError::Version { theirs: welcome.protocol_version });
    }
    if welcome.site != u32::from(peer.0) {
        return Err(ShipError::OtherSite(welcome.site));
    }
    // Before the frontiers count as acknowledgements.
    hub.learn(&frames::members(welcome.members.as_ref())?, Some(peer)).await?;
    let mut told = Told {
        frontiers: [LanePoint::START; LANES],
        clocks: [Hlc(0); LANES],
        histories: frames::histories(&welcome.histories)?,
        window_bytes: welcome.window_bytes,
    };
    for (index, head) in frames::heads_of(hub.local.site, &welcome.frontiers)?.into_iter().enumerate() {
        told.frontiers[head.lane as usize] = head.point;
        told.clocks[head.lane as usize] = Hlc(welcome.clocks.get(index).copied().unwrap_or_default());
    }
    let mut whole = [Seq::ZERO; LANES];
    for head in frames::heads_of(hub.local.site, &welcome.whole)? {
        whole[head.lane as usize] = head.point.seq;
    }
    let heads = frames::heads_of(peer, &welcome.heads)?;
    // The peer can't have more than is durable here: ask again, now that its answer is there.
    let told = Arc::new(told);
    let judged = told.clone();
    let handshake = hub.blocking(move |hub| judged.judge(hub, channel.lanes())).await.map_err(ShipError::Store)?;
    Ok(Welcomed { link, handshake, whole, told, heads, members_told })
}
