//! What `syncline status --json` prints, as far as tests and the benchmark read it.

use serde::Deserialize;

/// One mounted site.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// Name of the volume.
    pub volume: String,
    /// Name of the site.
    pub site: String,
    /// Where it is mounted.
    pub mountpoint: String,
    /// `passthrough` when the kernel reads files from the store directly, `cached` when through the daemon.
    pub mode: String,
    /// The daemon's process.
    pub pid: u32,
    /// The other sites.
    pub peers: Vec<Peer>,
    /// The directories whose writers wait for other sites.
    #[serde(default)]
    pub sync_directories: Vec<SyncDirectory>,
}

/// A directory whose policy is `mode=sync`.
#[derive(Clone, Debug, Deserialize)]
pub struct SyncDirectory {
    /// Where it is, from the mount point.
    pub path: String,
    /// How many peers its writers wait for.
    pub needed: u64,
    /// `in_sync`, `catching_up` or `degraded`.
    pub state: String,
    /// How it stands with each other site.
    pub peers: Vec<SyncPeer>,
}

/// A sync directory and one peer.
#[derive(Clone, Debug, Deserialize)]
pub struct SyncPeer {
    /// The peer's name.
    pub peer: String,
    /// `in_sync`, `catching_up` or `degraded`.
    pub state: String,
    /// Changes that returned to their callers and that the peer lacks.
    pub debt_records: u64,
}

/// What a site knows of another.
#[derive(Clone, Debug, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Where it is dialled.
    pub address: String,
    /// True while the connection stands.
    pub connected: bool,
    /// Why not, when it doesn't.
    pub error: Option<String>,
    /// Age of the oldest record that it has not acknowledged.
    pub lag_seconds: f64,
    /// How many it has not acknowledged.
    pub behind_records: u64,
    /// Their bytes.
    pub behind_bytes: u64,
    /// At what rate it catches up.
    pub rate_bytes_per_second: f64,
    /// When it will be level; none when that can't be told.
    pub eta_seconds: Option<f64>,
    /// The same by lane.
    #[serde(default)]
    pub lanes: Vec<PeerLane>,
}

/// What a peer lacks of one lane.
#[derive(Clone, Debug, Deserialize)]
pub struct PeerLane {
    /// `sync`, `high`, `normal` or `bulk`.
    pub lane: String,
    /// Sequence number of the newest record.
    pub head: u64,
    /// The newest that it has acknowledged; none before it was ever connected.
    pub acknowledged: Option<u64>,
    /// How many it has not acknowledged.
    pub behind_records: Option<u64>,
    /// Their bytes.
    pub behind_bytes: Option<u64>,
}

impl Peer {
    /// What it lacks of a lane.
    pub fn lane(&self, name: &str) -> Option<&PeerLane> {
        self.lanes.iter().find(|lane| lane.lane == name)
    }
}

impl Status {
    /// The peer of this name.
    pub fn peer(&self, name: &str) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.name == name)
    }

    /// True when the kernel reads files from the store directly.
    pub fn is_passthrough(&self) -> bool {
        self.mode == "passthrough"
    }

    /// True when every peer has acknowledged everything.
    pub fn is_level(&self) -> bool {
        self.peers.iter().all(|peer| peer.behind_records == 0)
    }
}
