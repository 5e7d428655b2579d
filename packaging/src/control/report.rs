//! What `status` and `wait` tell. The names of the JSON fields are an interface: scripts read them. What is not known is
//! null.

use serde::{Deserialize, Serialize};

/// One site and its peers, as of one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The volume's name.
    pub volume: String,
    /// This site's name.
    pub site: String,
    /// This site's number.
    pub site_id: u16,
    /// How often its store has come back older than its peers knew it, counted from 1.
    pub incarnation: u32,
    /// Where it is mounted.
    pub mountpoint: String,
    /// Where its replica lives.
    pub store: String,
    /// The daemon's process.
    pub pid: u32,
    /// The daemon's version.
    pub version: String,
    /// Seconds since the daemon started.
    pub uptime_seconds: u64,
    /// `passthrough`: the kernel reads files from the store directly; `cached`: through the daemon.
    pub mode: String,
    /// Bytes that the journal's files take.
    pub journal_bytes: u64,
    /// Why this site stopped writing, and is read-only until it is restarted.
    pub stopped: Option<String>,
    /// The peer whose state is being taken in here, since records can't bring this site level.
    pub levelling: Option<LevellingReport>,
    /// The other sites.
    pub peers: Vec<PeerReport>,
    /// The directories whose writers wait for other sites.
    pub sync_directories: Vec<SyncDirectoryReport>,
}

/// One peer, seen from here: what it lacks of this site's changes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PeerReport {
    /// Its name.
    pub name: String,
    /// Its number.
    pub site: u16,
    /// `host:port` at which it is reached.
    pub address: String,
    /// Whether this site's changes can reach it now.
    pub connected: bool,
    /// Whether it has applied everything.
    pub level: bool,
    /// Why it isn't connected or doesn't get on.
    pub error: Option<String>,
    /// Age of the oldest change that it lacks; 0 when level.
    pub lag_seconds: Option<f64>,
    /// How many changes it lacks.
    pub behind_records: Option<u64>,
    /// Their size.
    pub behind_bytes: Option<u64>,
    /// How fast it takes them, of late; compressed.
    pub rate_bytes_per_second: u64,
    /// When it will be level at this rate.
    pub eta_seconds: Option<u64>,
    /// All lanes together go no faster than this; `null`: as fast as can be.
    pub limit_bytes_per_second: Option<u64>,
    /// Its two connections; `connected` is whether both stand.
    pub connections: Vec<ConnectionReport>,
    /// Each lane that has been used.
    pub lanes: Vec<LaneReport>,
    /// The other direction: its changes on their way to this site.
    pub incoming: Option<IncomingReport>,
}

/// One lane to one peer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LaneReport {
    /// `sync`, `high`, `normal` or `bulk`.
    pub lane: String,
    /// The last change made here.
    pub head: u64,
    /// The last change that the peer has applied durably; unknown until it has first connected.
    pub acknowledged: Option<u64>,
    /// How many changes it lacks.
    pub behind_records: Option<u64>,
    /// Their size.
    pub behind_bytes: Option<u64>,
    /// Age of the oldest that it lacks; 0 when level.
    pub lag_seconds: Option<f64>,
    /// How fast the peer takes them, of late; compressed.
    pub rate_bytes_per_second: u64,
    /// Its share of the link against the other lanes; `null` for `sync`, which has a connection of its own.
    pub weight: Option<u32>,
    /// No faster than this; `null`: as fast as can be.
    pub limit_bytes_per_second: Option<u64>,
    /// Whether it is paused.
    pub paused: bool,
}

/// A peer's state that is being taken in.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LevellingReport {
    /// The peer's name.
    pub from: String,
    /// Since when, in ms since the Unix epoch.
    pub since_ms: u64,
    /// Files whose content is in.
    pub files: u64,
    /// Bytes that have come.
    pub bytes: u64,
}

/// One of the two connections to a peer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ConnectionReport {
    /// `sync` for the lane of that name, `async` for the others.
    pub channel: String,
    /// Whether it stands.
    pub connected: bool,
    /// Why it doesn't.
    pub error: Option<String>,
}

/// A directory whose policy is `mode=sync`, and how it stands with each peer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SyncDirectoryReport {
    /// Where it is, from the volume's root, with a leading slash.
    pub path: String,
    /// How many peers have to acknowledge what its writers do.
    pub needed: u64,
    /// `in_sync`, `catching_up` or `degraded`: whether that many have all that writers were told is done.
    pub state: String,
    /// Whether it demands more peers than the volume has: it is never in sync then.
    pub short_of_peers: bool,
    /// Every other site.
    pub peers: Vec<SyncPeerReport>,
}

/// A sync directory and one peer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SyncPeerReport {
    /// The peer's name.
    pub peer: String,
    /// `in_sync`, `catching_up` or `degraded`.
    pub state: String,
    /// Since when, in ms since the Unix epoch.
    pub since_ms: u64,
    /// Whether it can answer now.
    pub connected: bool,
    /// Changes that returned to their callers and that the peer lacks.
    pub debt_records: u64,
}

/// A peer's changes on their way to this site.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct IncomingReport {
    /// Whether they can come now.
    pub connected: bool,
    /// Why they can't, or can't be applied.
    pub error: Option<String>,
    /// How many this site lacks, as far as it knows.
    pub behind_records: u64,
}

/// How waiting for peers ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WaitOutcome {
    /// Those asked for, each with what it still lacks.
    pub peers: Vec<WaitedPeer>,
}

/// One peer after waiting.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WaitedPeer {
    /// Its name.
    pub name: String,
    /// Whether it has applied everything that was asked for.
    pub level: bool,
    /// How many changes it lacks.
    pub behind_records: u64,
    /// Their size.
    pub behind_bytes: Option<u64>,
    /// When it will have them, at the rate at which it has taken records of late.
    pub eta_seconds: Option<u64>,
    /// Why it isn't connected or doesn't get on.
    pub error: Option<String>,
}

impl WaitOutcome {
    /// Whether all are level.
    pub fn is_level(&self) -> bool {
        self.peers.iter().all(|peer| peer.level)
    }
}

/// How fast one lane, or all together, may go to one peer now.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FlowReport {
    /// The peer's name.
    pub peer: String,
    /// `sync`, `high`, `normal` or `bulk`; `null`: all together.
    pub lane: Option<String>,
    /// No faster than this; `null`: as fast as can be.
    pub limit_bytes_per_second: Option<u64>,
    /// Whether it is paused.
    pub paused: bool,
    /// Whether it is so because of a schedule in the configuration.
    pub scheduled: bool,
}
