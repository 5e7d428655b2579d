//! The new site's side of a join.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs::error::FsError;
use fs::peers::Member;
use fs::volume::OpenError;
use proto::grpc::{self, RedeemRequest, RedeemResponse, SnapshotChunk, snapshot_chunk};
use proto::hlc::Hlc;
use proto::ids::SiteId;
use proto::seal::VolumeKey;
use zeroize::Zeroizing;

use crate::clock;
use crate::frames::{self, FrameError};
use crate::identity::certificate::{self, Authority, Certificate, CertificateError, SiteKey};
use crate::identity::site_identity::{IdentityError, Parts, Profile, SiteIdentity, check_name};
use crate::identity::token::{JoinToken, TokenError};
use crate::membership::{self, MembershipError};
use crate::store::NewStore;
use crate::transport::{Credentials, Frames, LinkError, client};

/// How long the member may take to let the site in, or to send a chunk.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// What joins, and where.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// The line that `syncline invite` printed.
    pub token: String,
    /// The new site's name.
    pub site_name: String,
    /// The new store's directory: absent or empty.
    pub store: PathBuf,
    /// Where the new site will listen, `host:port`.
    pub listen: String,
    /// Where the other sites reach it, `host:port`.
    pub advertise: String,
}

/// How far a join has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JoinProgress {
    /// The member has let the site in.
    Admitted {
        /// The new site's id.
        site: SiteId,
    },
    /// So much of the member's state is here.
    Received {
        /// Bytes.
        bytes: u64,
    },
}

/// Why a site did not join. The store's directory is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token can't be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The directory has something in it.
    #[error("{} is not empty; give an empty or a new directory for the store", .0.display())]
    NotEmpty(PathBuf),
    /// The directory can't be used.
    #[error("{}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The new site's name or address can't be.
    #[error(transparent)]
    Member(#[from] MembershipError),
    /// A key or certificate is wrong.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The identity is wrong or can't be saved.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The member can't be reached or refused.
    #[error("the inviting site: {0}")]
    Link(#[from] LinkError),
    /// The member doesn't answer.
    #[error("the inviting site did not answer within {ANSWER_LIMIT:?}; try again with a new token")]
    Silent,
    /// The member's answer makes no sense.
    #[error("the inviting site's answer is not valid: {0}")]
    Answer(&'static str),
    /// The member's list is wrong.
    #[error("the inviting site's members: {0}")]
    Frame(#[from] FrameError),
    /// The copy ended too early.
    #[error("the copy of the inviting site's state is not whole: the connection broke; try again with a new token")]
    Broken,
    /// The store can't be made.
    #[error("the new store: {0}")]
    Open(#[from] OpenError),
    /// The store can't take the copy.
    #[error("the new store: {0}")]
    Store(#[from] FsError),
    /// The thread that fills the store died.
    #[error("the thread that fills the new store died: {0}")]
    Thread(String),
}

/// Joins a volume: redeems the token, fills the store with a copy of the member's state, saves the identity beside it.
///
/// # Errors
/// [`JoinError`]; what was written is removed, so that it can be tried again with a new token.
pub async fn join<N: NewStore>(
    request: JoinRequest,
    mut progress: impl FnMut(JoinProgress) + Send,
) -> Result<SiteIdentity, JoinError> {
    let token = JoinToken::decode(&request.token)?;
    token.check_expiry(clock::wall_ms() / 1_000)?;
    check_name("the site's name", &request.site_name)?;
    let myself = Member { site: SiteId(u16::MAX), name: request.site_name.clone(), address: request.advertise.clone() };
    membership::check(&myself)?;
    let existed = is_there_and_empty(&request.store)?;

    let key = SiteKey::generate()?;
    let (address, answer) = redeem(&token, &key, &request).await?;
    let (identity, members) = admitted(&token, key, answer, &request)?;
    progress(JoinProgress::Admitted { site: identity.profile().site });
    let filled = match fill::<N>(&token, &address, &identity, &request.store, members, &mut progress).await {
        Ok(()) => identity.save(&request.store).map_err(JoinError::from),
        Err(error) => Err(error),
    };
    match filled {
        Ok(()) => Ok(identity),
        Err(error) => {
            let store = request.store.clone();
            let cleared = tokio::task::spawn_blocking(move || clear(&store, existed)).await;
            if let Ok(Err(left)) = cleared {
                tracing::warn!(store = %request.store.display(), "remove what is left of the new store by hand: {left}");
            }
            Err(error)
        }
    }
}

async fn redeem(
    token: &JoinToken,
    key: &SiteKey,
    request: &JoinRequest,
) -> Result<(String, RedeemResponse), JoinError> {
    let authority = token.authority.to_pem();
    let name = certificate::server_name(token.volume, token.inviter);
    let mut unreachable = JoinError::Silent;
    for address in &token.addresses {
        let ask = RedeemRequest {
            protocol_version: grpc::PROTOCOL_VERSION,
            secret: token.secret.expose().to_vec().into(),
            request: key.request()?.into(),
            site_name: request.site_name.clone(),
            address: request.advertise.clone(),
            clock: Hlc::from_ms(clock::wall_ms()).0,
        };
        match tokio::time::timeout(ANSWER_LIMIT, client::redeem(address, &name, &authority, ask)).await {
            Ok(Ok(answer)) => return Ok((address.clone(), answer)),
            // Not reached: the secret was not said, so the next address may be tried.
            Ok(Err(error @ LinkError::Unreachable { .. })) => unreachable = error.into(),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(JoinError::Silent),
        }
    }
    Err(unreachable)
}

/// The new site's identity and the other members, from the member's answer.
fn admitted(
    token: &JoinToken,
    key: SiteKey,
    answer: RedeemResponse,
    request: &JoinRequest,
) -> Result<(SiteIdentity, Vec<Member>), JoinError> {
    let site = u16::try_from(answer.site).map(SiteId).map_err(|_| JoinError::Answer("a site id"))?;
    let volume_key = <[u8; VolumeKey::BYTES]>::try_from(&answer.volume_key[..])
        .map(VolumeKey::from_bytes)
        .map_err(|_| JoinError::Answer("the volume key's length"))?;
    let authority_key = Zeroizing::new(answer.authority_key);
    let authority = Authority::from_pem(token.authority.clone(), &authority_key)?;
    let mut members = frames::members(answer.members.as_ref())?;
    members.retain(|member| member.site != site);
    members.iter().try_for_each(membership::check)?;
    if !members.iter().any(|member| member.site == token.inviter) {
        return Err(JoinError::Answer("its list of members does not have itself"));
    }
    let profile = Profile {
        volume: token.volume,
        volume_name: answer.volume_name,
        site,
        site_name: request.site_name.clone(),
        listen_address: request.listen.clone(),
        advertised_address: request.advertise.clone(),
    };
    let identity = SiteIdentity::new(Parts {
        profile,
        authority_certificate: token.authority.clone(),
        authority: Some(authority),
        certificate: Certificate::from_der(&answer.certificate)?,
        key,
        volume_key,
    })?;
    Ok((identity, members))
}

async fn fill<N: NewStore>(
    token: &JoinToken,
    address: &str,
    identity: &SiteIdentity,
    dir: &Path,
    members: Vec<Member>,
    progress: &mut (impl FnMut(JoinProgress) + Send),
) -> Result<(), JoinError> {
    let name = certificate::server_name(token.volume, token.inviter);
    let credentials = Credentials::of(identity);
    let connect = client::snapshot(address, &name, &credentials);
    let mut chunks = tokio::time::timeout(ANSWER_LIMIT, connect).await.map_err(|_| JoinError::Silent)??;
    let (dir, volume, site) = (dir.to_owned(), token.volume, identity.profile().site);
    let mut store = Some(blocking(move || N::create(&dir, volume, site)).await??);
    let loaded = load(&mut store, &mut chunks, progress).await;
    match (loaded, store) {
        (Ok(()), Some(store)) => Ok(blocking(move || store.finish(&members)).await??),
        (Ok(()), None) => Err(JoinError::Broken),
        (Err(error), store) => {
            if let Some(store) = store {
                blocking(move || store.abandon()).await?;
            }
            Err(error)
        }
    }
}

async fn load<N: NewStore>(
    slot: &mut Option<N>,
    chunks: &mut Frames<SnapshotChunk>,
    progress: &mut (impl FnMut(JoinProgress) + Send),
) -> Result<(), JoinError> {
    let (mut count, mut bytes) = (0u64, 0u64);
    loop {
        let chunk = tokio::time::timeout(ANSWER_LIMIT, chunks.next()).await.map_err(|_| JoinError::Silent)??;
        match (chunk.and_then(|chunk| chunk.chunk), slot.take()) {
            (Some(snapshot_chunk::Chunk::Data(data)), Some(mut store)) => {
                count += 1;
                bytes += data.len() as u64;
                let (store, loaded) = blocking(move || {
                    let loaded = store.load(&data);
                    (store, loaded)
                })
                .await?;
                *slot = Some(store);
                loaded?;
                progress(JoinProgress::Received { bytes });
            }
            (Some(snapshot_chunk::Chunk::End(sent)), store) if sent == count => {
                *slot = store;
                return Ok(());
            }
            (_, store) => {
                *slot = store;
                return Err(JoinError::Broken);
            }
        }
    }
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    tokio::task::spawn_blocking(call).await.map_err(|error| JoinError::Thread(error.to_string()))
}

/// Whether the directory is there; it must be empty then.
fn is_there_and_empty(dir: &Path) -> Result<bool, JoinError> {
    match std::fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(true),
        Ok(false) => Err(JoinError::NotEmpty(dir.to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(source) => Err(JoinError::Directory { path: dir.to_owned(), source }),
    }
}

/// Makes the directory again what it was: absent or empty.
fn clear(dir: &Path, existed: bool) -> std::io::Result<()> {
    if !existed {
        return match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
