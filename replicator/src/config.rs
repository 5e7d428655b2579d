//! What an operator may set, with all defaults in one place.

use std::net::SocketAddr;
use std::time::Duration;

use proto::ids::Lane;

use crate::engine;
pub use crate::limits::schedule::{Action, Days, MinuteOfDay, Schedule, ScheduleError};

/// How a site's replicator runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where the others reach this site, `host:port`; `None` as in its identity. The others take a new address from the site itself.
    pub advertise: Option<String>,
    /// The most bytes of a lane sent to one peer and not acknowledged: bounds memory, and must be at least bandwidth times delay.
    pub window_bytes: u64,
    /// How far a peer's clock may be ahead.
    pub max_clock_drift: Duration,
    /// How often a site with nothing to ship says that it is there.
    pub heartbeat: Duration,
    /// After how long without a frame an incoming stream is taken for dead.
    pub silence_limit: Duration,
    /// How long a connection may take to be established, greetings included.
    pub connect_limit: Duration,
    /// How long a lane rests after a record that could not be applied, if nothing else wakes it.
    pub replay_retry: Duration,
    /// How the lanes share the link to a peer, by the lane's number; the sync lane has a connection of its own.
    pub weights: [u32; Lane::ALL.len()],
    /// The limits at start; see [`limits`](crate::limits).
    pub limits: Vec<LimitRule>,
    /// Limits and pauses by the time of day.
    pub schedules: Vec<Schedule>,
}

/// A limit at start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LimitRule {
    /// For the peer of this name; `None` for every peer, each for itself.
    pub peer: Option<String>,
    /// For the lane; `None` over all lanes of a peer.
    pub lane: Option<Lane>,
    /// The most bytes a second, more than 0; `None` is unlimited.
    pub bytes_per_second: Option<u64>,
}

impl Config {
    /// The defaults, listening at `listen`.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            advertise: None,
            window_bytes: engine::Settings::default().window_bytes,
            max_clock_drift: proto::hlc::Clock::DEFAULT_MAX_DRIFT,
            heartbeat: Duration::from_secs(1),
            silence_limit: Duration::from_secs(15),
            connect_limit: Duration::from_secs(10),
            replay_retry: Duration::from_secs(1),
            weights: engine::Settings::default().weights,
            limits: Vec::new(),
            schedules: Vec::new(),
        }
    }
}
