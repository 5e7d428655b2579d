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
