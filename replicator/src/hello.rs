//! Greetings: what a site says of itself when it opens a stream, and how the other side checks it.

use std::sync::Arc;

use fs::peers::Member;
use proto::grpc;
use proto::history::Histories;
use proto::hlc::{Drift, Hlc};
use proto::ids::{Lane, SiteId, VolumeId};

use crate::channel::Channel;
use crate::clock;
use crate::frames::{self, FrameError};
use crate::frontiers::Head;
use crate::hub::Hub;
use crate::store::Store;

/// This software's version.
pub const SOFTWARE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Why a stream is refused.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// Another protocol.
    #[error(
        "this site speaks version {} of the protocol, yours is {theirs}; upgrade the older site",
        grpc::PROTOCOL_VERSION
    )]
    Version {
        /// The peer's.
        theirs: u32,
    },
    /// Another volume.
    #[error("this is a site of volume {ours}, yours is of another")]
    Volume {
        /// This site's.
        ours: VolumeId,
    },
    /// The certificate names another site than the greeting.
    #[error("your certificate is site {certificate}'s, but you say that you are site {claimed}")]
    Identity {
        /// In the certificate.
        certificate: SiteId,
        /// In the greeting.
        claimed: u32,
    },
    /// This site's own id.
    #[error("site {0} is this site")]
    Myself(SiteId),
    /// The greeting doesn't name the one who greets.
    #[error("your list of members does not have yourself")]
    NotAMember,
    /// Its clock is too far ahead.
    #[error("your clock is wrong: {0}")]
    Clock(#[from] Drift),
    /// No stream carries these lanes.
    #[error("a stream carries the sync lane or all others, yours does not")]
    Lanes,
    /// A field that no site sends.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// A checked greeting.
pub struct Greeting {
    /// The histories of the origin's lanes.
    pub histories: Histories,
    /// All members that it knows of, itself among them.
    pub members: Vec<Member>,
    /// Its own lanes' heads.
    pub heads: Vec<Head>,
    /// What the stream carries.
    pub channel: Channel,
}

/// This site's greeting on a stream, and the version of the members in it.
pub fn hello<S: Store>(hub: &Arc<Hub<S>>, channel: Channel) -> (grpc::Hello, u64) {
    let (members, version) = {
        let state = hub.state();
        (state.membership.all(), state.membership.version())
    };
    let hello = grpc::Hello {
        protocol_version: grpc::PROTOCOL_VERSION,
        volume: hub.local.volume.0.to_vec().into(),
        site: hub.local.site.0.into(),
        software_version: SOFTWARE_VERSION.to_string(),
        clock: clock_reading(),
        members: Some(frames::put_members(&members)),
        heads: own_heads(hub),
        histories: frames::put_histories(&hub.own_histories()),
        lanes: channel.lanes().iter().map(|lane| u32::from(*lane as u8)).collect(),
    };
    (hello, version)
}

/// Checks a greeting from the site that proved to be `origin`.
pub fn check<S: Store>(hub: &Hub<S>, origin: SiteId, hello: &grpc::Hello) -> Result<Greeting, HelloError> {
    if hello.protocol_version != grpc::PROTOCOL_VERSION {
        return Err(HelloError::Version { theirs: hello.protocol_version });
    }
    if hello.volume[..] != hub.local.volume.0 {
        return Err(HelloError::Volume { ours: hub.local.volume });
    }
    if hello.site != u32::from(origin.0) {
        return Err(HelloError::Identity { certificate: origin, claimed: hello.site });
    }
    if origin == hub.local.site {
        return Err(HelloError::Myself(origin));
    }
    hub.check_clock(Hlc(hello.clock))?;
    let members = frames::members(hello.members.as_ref())?;
    if !members.iter().any(|member| member.site == origin) {
        return Err(HelloError::NotAMember);
    }
    let heads = frames::heads_of(origin, &hello.heads)?;
    let lanes: Option<Vec<Lane>> =
        hello.lanes.iter().map(|lane| u8::try_from(*lane).ok().and_then(Lane::from_u8)).collect();
    let channel = lanes.and_then(|lanes| Channel::carrying(&lanes)).ok_or(HelloError::Lanes)?;
    Ok(Greeting { histories: frames::histories(&hello.histories)?, members, heads, channel })
}

/// This site's own lanes' heads, as last seen, for the wire.
pub fn own_heads<S: Store>(hub: &Hub<S>) -> Vec<grpc::Head> {
    let heads = *hub.heads.borrow();
    frames::put_heads(&frames::own_heads(hub.local.site, &hub.own_histories(), &heads))
}

/// The wall clock, as a hybrid logical clock value.
pub fn clock_reading() -> u64 {
    Hlc::from_ms(clock::wall_ms()).0
}
