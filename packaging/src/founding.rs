//! What makes a directory a site: an empty volume and an identity in it, founded here or received from a member.
//!
//! The identity is written last: a store that has one is whole.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fs::volume::{OpenError, Volume};
use proto::ids::SiteId;
use proto::record::Perms;
use proto::seal::VolumeKey;
use replicator::identity::random::{self, RandomError};
use replicator::identity::site_identity::{self, Profile, SiteIdentity, identity_dir};
use replicator::identity::token::{JoinToken, TokenError};
use replicator::{JoinError, JoinProgress, JoinRequest};

use crate::config::Config;
use crate::units::human_bytes;

/// Who a site is: its keys, certificate and place in the volume.
pub type Identity = SiteIdentity;

/// The first site of a volume.
const FIRST_SITE: SiteId = SiteId(1);
/// Permission bits of a new volume's root directory.
const ROOT_MODE: u32 = 0o755;

/// How often a join tells how far it is.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// Why there is no new volume.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    /// The system has no random numbers.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The store can't be made.
    #[error("cannot make the store {}: {source}", store.display())]
    Format {
        /// Where.
        store: PathBuf,
        /// Why not.
        source: OpenError,
    },
    /// The identity can't be made.
    #[error(transparent)]
    Identity(#[from] site_identity::IdentityError),
}

/// Why there is no new site.
#[derive(Debug, thiserror::Error)]
pub enum JoinSiteError {
    /// The system has no threads left.
    #[error("cannot start threads: {0}")]
    Threads(#[source] io::Error),
    /// The member or the store refused.
    #[error(transparent)]
    Join(#[from] JoinError),
}

/// Why a site's identity can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No site was made there.
    #[error("there is no site in {}: `syncline init` or `syncline join` makes one", .0.display())]
    NoSite(PathBuf),
    /// It can't be read.
    #[error(transparent)]
    Load(#[from] site_identity::IdentityError),
    /// The configuration is another site's.
    #[error("the configuration says {what} `{configured}`, but the site in {} is of {what} `{actual}`: \
        correct the configuration", store.display())]
    Other {
        /// `volume` or `site`.
        what: &'static str,
        /// What the configuration says.
        configured: String,
        /// What the store says.
        actual: String,
        /// The store.
        store: PathBuf,
    },
}

/// Makes a new volume with its first site, in the empty directory that the configuration names.
pub fn found(config: &Config) -> Result<(), FoundError> {
    let volume = random::volume_id()?;
    let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let root = Perms { mode: ROOT_MODE, uid: owner.0, gid: owner.1 };
    Volume::format(&config.store, volume, FIRST_SITE, root)
        .map_err(|source| FoundError::Format { store: config.store.clone(), source })?;
    let profile = Profile {
        volume,
        volume_name: config.volume.clone(),
        site: FIRST_SITE,
        site_name: config.site.clone(),
        listen_address: config.listen.to_string(),
        advertised_address: config.advertise.clone(),
    };
    let key = VolumeKey::from_bytes(random::bytes()?);
    Identity::found(profile, key, unix_seconds())?.save(&config.store)?;
    Ok(())
}

/// Receives a volume from the member that made the token, into the empty directory that the configuration names.
/// Blocks; tells how far it is. The configuration is given the volume's name.
pub fn join(token: &str, config: &mut Config, mut tell: impl FnMut(&str) + Send) -> Result<(), JoinSiteError> {
    let request = JoinRequest {
        token: token.to_owned(),
        site_name: config.site.clone(),
        store: config.store.clone(),
        listen: config.listen.to_string(),
        advertise: config.advertise.clone(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(JoinSiteError::Threads)?;
    let mut told = Instant::now();
    let progress = |progress: JoinProgress| match progress {
        JoinProgress::Admitted { site } => tell(&format!("let in as site {site}; receiving the volume")),
        JoinProgress::Received { bytes } if told.elapsed() >= TELL_INTERVAL => {
            told = Instant::now();
            tell(&format!("received {}", human_bytes(bytes)));
        }
        JoinProgress::Received { .. } => {}
    };
    let identity = runtime.block_on(replicator::join::<Arc<Volume>>(request, progress))?;
    config.volume = identity.profile().volume_name.clone();
    Ok(())
}

/// Refuses what is no token, or has expired.
pub fn check_token(token: &str) -> Result<(), TokenError> {
    JoinToken::decode(token)?.check_expiry(unix_seconds())
}

/// Refuses a directory in which no site was made, before anything is written there.
pub fn check_store(store: &Path) -> Result<(), IdentityError> {
    if identity_dir(store).is_dir() { Ok(()) } else { Err(IdentityError::NoSite(store.to_owned())) }
}

/// Reads a site's identity, if it is the one that the configuration means.
pub fn load(config: &Config) -> Result<Identity, IdentityError> {
    let identity = Identity::load(&config.store)?;
    let profile = identity.profile();
    for (what, configured, actual) in
        [("volume", &config.volume, &profile.volume_name), ("site", &config.site, &profile.site_name)]
    {
        if configured != actual {
            let (configured, actual) = (configured.clone(), actual.clone());
            return Err(IdentityError::Other { what, configured, actual, store: config.store.clone() });
        }
    }
    Ok(identity)
}

/// Now.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
