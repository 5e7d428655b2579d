//! The member's side of a join: invitations, admission, the copy.

use std::sync::Arc;
use std::time::Duration;

use fs::error::FsError;
use fs::peers::Member;
use proto::grpc::{self, RedeemRequest, RedeemResponse, SnapshotChunk, snapshot_chunk};
use proto::hlc::{Drift, Hlc};
use proto::ids::{Lane, LanePoint, SiteId};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::clock;
use crate::frames;
use crate::hub::{Hub, LearnError, State};
use crate::identity::certificate::CertificateError;
use crate::identity::invitations::{Invitations, InvitationsError, RedeemError, TooMany};
use crate::identity::random::{self, RandomError};
use crate::identity::token::{InviteSecret, JoinToken, TokenError};
use crate::membership::{self, MembershipError};
use crate::store::Store;

/// The longest request to be let in.
pub const MAX_REQUEST_BYTES: usize = 64 << 10;
/// How long a joining site may take for one chunk.
const CHUNK_LIMIT: Duration = Duration::from_secs(60);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// This site lacks the authority's key.
    #[error("this site does not have the key of the volume's authority; invite at another site")]
    NoAuthority,
    /// Too many are outstanding.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// No randomness.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The invitation could not be stored.
    #[error(transparent)]
    Invitations(#[from] InvitationsError),
    /// The address can't be reached by others.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// Why a site was not let in.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// Another protocol.
    #[error(
        "this site speaks version {} of the protocol, yours is {theirs}; install the same version",
        grpc::PROTOCOL_VERSION
    )]
    Version {
        /// The joining site's.
        theirs: u32,
    },
    /// A field that no site sends.
    #[error("the request is not valid: {0}")]
    Request(&'static str),
    /// No such invitation.
    #[error(transparent)]
    Invitation(#[from] RedeemError),
    /// Its clock is too far ahead.
    #[error("your clock is wrong: {0}")]
    Clock(#[from] Drift),
    /// This site lacks the authority's key.
    #[error("this site does not have the key of the volume's authority any more; invite at another site")]
    NoAuthority,
    /// The name is in use.
    #[error("the volume has a site named {0:?}; join under another name")]
    NameTaken(String),
    /// The member can't be.
    #[error(transparent)]
    Member(#[from] MembershipError),
    /// All ids are used.
    #[error("the volume can't have more sites")]
    Full,
    /// The signing request is bad.
    #[error("no certificate: {0}")]
    Sign(#[from] CertificateError),
    /// The used-up invitation could not be stored.
    #[error(transparent)]
    Invitations(#[from] InvitationsError),
    /// The member could not be stored.
    #[error(transparent)]
    Store(#[from] LearnError),
}

/// Makes a token that lets one site in until `ttl` from `now_secs` (Unix seconds).
pub async fn invite<S: Store>(
    hub: &Arc<Hub<S>>,
    now_secs: u64,
    ttl: Duration,
) -> Result<Zeroizing<String>, InviteError> {
    let identity = &hub.local.identity;
    let authority = identity.authority().ok_or(InviteError::NoAuthority)?.certificate().clone();
    let expires_at_secs = now_secs.saturating_add(ttl.as_secs());
    let token = JoinToken {
        volume: hub.local.volume,
        inviter: hub.local.site,
        addresses: vec![hub.state().membership.own().address.clone()],
        authority,
        secret: InviteSecret::from_bytes(random::bytes()?),
        expires_at_secs,
    };
    let line = token.encode()?;
    let mut invitations = hub.invitations.lock().await;
    let mut changed = invitations.clone();
    changed.add(&token.secret, expires_at_secs, now_secs)?;
    save(hub, &changed).await?;
    *invitations = changed;
    Ok(line)
}

/// Lets the site in that has the secret of an outstanding invitation.
pub async fn redeem<S: Store>(hub: &Arc<Hub<S>>, request: RedeemRequest) -> Result<RedeemResponse, AdmitError> {
    if request.protocol_version != grpc::PROTOCOL_VERSION {
        return Err(AdmitError::Version { theirs: request.protocol_version });
    }
    let secret = <[u8; InviteSecret::BYTES]>::try_from(&request.secret[..]);
    let secret = InviteSecret::from_bytes(secret.map_err(|_| AdmitError::Request("the secret's length"))?);
    let now_secs = clock::wall_ms() / 1_000;

    // One at a time: each gets an id and a name of its own.
    let mut invitations = hub.invitations.lock().await;
    let learning = hub.learning.lock().await;
    let mut left = invitations.clone();
    if let Err(error) = left.redeem(&secret, now_secs) {
        *invitations = left;
        return Err(error.into());
    }
    hub.check_clock(Hlc(request.clock))?;
    let authority = hub.local.identity.authority().ok_or(AdmitError::NoAuthority)?;
    let site = site_for(&hub.state(), &request.site_name)?;
    let member = Member { site, name: request.site_name, address: request.address };
    membership::check(&member)?;
    let certificate = authority.sign(&request.request, site, now_secs)?;

    // The invitation is used up before anyone is let in by it.
    save(hub, &left).await?;
    *invitations = left;
    hub.learn_locked(&learning, std::slice::from_ref(&member), Some(site)).await?;
    tracing::info!(%site, name = member.name, address = member.address, "let a site in");
    Ok(RedeemResponse {
        site: site.0.into(),
        certificate: certificate.der().to_vec().into(),
        authority_key: authority.key_pem().to_string(),
        volume_key: hub.local.identity.volume_key().expose().to_vec().into(),
        volume_name: hub.local.identity.profile().volume_name.clone(),
        members: Some(frames::put_members(&hub.state().membership.all())),
    })
}

/// The id for a site of this name: a new one, or that of an attempt to join that has come to nothing.
fn site_for(state: &State, name: &str) -> Result<SiteId, AdmitError> {
    if state.membership.own().name == name {
        return Err(AdmitError::NameTaken(name.to_string()));
    }
    let Some(known) = state.membership.by_name(name) else {
        return state.membership.next_site().ok_or(AdmitError::Full);
    };
    let unheard = |lane: Lane| {
        state.watermarks.acknowledged(known.site, lane).is_none()
            && state.frontiers.get(known.site, lane) == LanePoint::START
    };
    let connected = state.origins.contains_key(&known.site);
    if Lane::ALL.into_iter().all(unheard) && !connected {
        Ok(known.site)
    } else {
        Err(AdmitError::NameTaken(name.to_string()))
    }
}

async fn save<S: Store>(hub: &Arc<Hub<S>>, invitations: &Invitations) -> Result<(), InvitationsError> {
    let invitations = invitations.clone();
    hub.blocking(move |hub| hub.store.store_path().map_or(Ok(()), |path| invitations.save(&path))).await
}

/// Sends this site's state to a member that has none yet, in the background; memory is bounded by the channel.
pub fn send_snapshot<S: Store>(hub: Arc<Hub<S>>, peer: SiteId, chunks: mpsc::Sender<Result<SnapshotChunk, String>>) {
    tokio::task::spawn_blocking(move || {
        let name = hub.name_of(peer);
        tracing::info!(peer = name, "sending a copy of this site's state");
        let runtime = Handle::current();
        let send = |chunk| runtime.block_on(async { tokio::time::timeout(CHUNK_LIMIT, chunks.send(chunk)).await });
        let sent = copy(&hub, |chunk| match send(Ok(SnapshotChunk { chunk: Some(chunk) })) {
            _ if *hub.stop.borrow() => Err("this site is shutting down".to_string()),
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("the connection ended".to_string()),
            Err(_) => Err(format!("the joining site took nothing for {CHUNK_LIMIT:?}")),
        });
        match sent {
            Ok(()) => tracing::info!(peer = name, "the copy is sent"),
            Err(error) => {
                tracing::warn!(peer = name, "the copy was not sent whole: {error}");
                let _ = chunks.try_send(Err(error));
            }
        }
    });
}

fn copy<S: Store>(
    hub: &Arc<Hub<S>>,
    mut send: impl FnMut(snapshot_chunk::Chunk) -> Result<(), String>,
) -> Result<(), String> {
    let failed = |error: FsError| format!("the inviting site can't read its state: {error}");
    let mut count = 0u64;
    for chunk in hub.store.clone().snapshot().map_err(failed)? {
        send(snapshot_chunk::Chunk::Data(chunk.map_err(failed)?))?;
        count += 1;
    }
    send(snapshot_chunk::Chunk::End(count))
}
