//! Sync directories as tests see them: their policy, and how they stand with each peer. The only place that knows how that is printed.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fs::XattrFlags;

use crate::outcome::{OrFail, eventually};
use crate::site::Site;
use crate::status::SyncDirectory;

/// How a sync directory stands with a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SyncState {
    /// The peer has every change that returned to its caller.
    InSync,
    /// It is there and does not have all of them yet.
    CatchingUp,
    /// Callers don't wait for it.
    Degraded,
}

impl SyncState {
    /// Reads the name in `status --json`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.replace(' ', "_").as_str() {
            "in_sync" => Some(Self::InSync),
            "catching_up" => Some(Self::CatchingUp),
            "degraded" => Some(Self::Degraded),
            _ => None,
        }
    }
}

/// Sets one attribute of a directory's policy: `mode`, `acks`…
pub fn try_set(directory: &Path, key: &str, value: &str) -> io::Result<()> {
    let name = format!("user.syncline.{key}");
    Ok(rustix::fs::setxattr(directory, name.as_str(), value.as_bytes(), XattrFlags::empty())?)
}

/// As [`try_set`].
///
/// # Panics
/// When it is refused.
#[track_caller]
pub fn set(directory: &Path, key: &str, value: &str) {
    try_set(directory, key, value).or_fail(format_args!("{}: {key}={value}", directory.display()));
}

/// Takes one attribute of a directory's policy away; it need not be there.
pub fn try_unset(directory: &Path, key: &str) -> io::Result<()> {
    match rustix::fs::removexattr(directory, format!("user.syncline.{key}").as_str()) {
        Ok(()) | Err(rustix::io::Errno::NODATA) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// A computed attribute: `effective`, `state`, `version`.
pub fn try_attribute(path: &Path, key: &str) -> io::Result<String> {
    let mut value = vec![0; 64 << 10];
    let len = rustix::fs::getxattr(path, format!("user.syncline.{key}").as_str(), &mut value[..])?;
    Ok(String::from_utf8_lossy(&value[..len]).into_owned())
}

/// What `status` says of the sync directory `path` (from the mount point).
pub fn directory(site: &Site, path: &str) -> Option<SyncDirectory> {
    site.status().sync_directories.into_iter().find(|directory| directory.path.trim_start_matches('/') == path)
}

/// How the sync directory `path` (from the mount point) stands with each peer, by name; none where it is no sync directory.
pub fn states(site: &Site, path: &str) -> Option<BTreeMap<String, SyncState>> {
    let directory = directory(site, path)?;
    let state = |text: &str| SyncState::parse(text).or_fail(format_args!("{text:?} is no state of sync"));
    Some(directory.peers.into_iter().map(|peer| (peer.peer, state(&peer.state))).collect())
}

/// Waits until the directory is in `state` with the peer.
///
/// # Panics
/// When it isn't within `limit`.
#[track_caller]
pub fn await_state(site: &Site, path: &str, peer: &str, state: SyncState, limit: Duration) {
    eventually(limit, &format!("{path} at site {} is {state:?} with {peer}", site.name), || {
        match states(site, path).and_then(|states| states.get(peer).copied()) {
            Some(found) if found == state => Ok(()),
            found => Err(format!("{found:?}")),
        }
    });
}

/// Makes a directory below the mount whose writers wait, and waits until it is in sync with every peer named.
///
/// # Panics
/// When that fails.
#[track_caller]
pub fn make(site: &Site, path: &str, policy: &[(&str, &str)], peers: &[&str], limit: Duration) {
    let directory = site.path(path);
    std::fs::create_dir(&directory).or_fail(directory.display());
    for (key, value) in policy {
        set(&directory, key, value);
    }
    set(&directory, "mode", "sync");
    for peer in peers {
        await_state(site, path, peer, SyncState::InSync, limit);
    }
}
