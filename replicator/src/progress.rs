//! What is known of each peer's progress, for status and logs: connected since when or why not, shipped, stopped, rate.

use std::sync::Arc;

use proto::ids::{Lane, LanePoint, Seq};
use tokio::sync::Notify;

use crate::channel::Channel;

const LANES: usize = Lane::ALL.len();
/// Over how long a rate is averaged, in ms.
const RATE_MS: f64 = 5_000.0;

/// One stream.
#[derive(Debug, Default)]
pub struct StreamProgress {
    /// Since when it stands, in ms since the Unix epoch.
    pub connected_since_ms: Option<u64>,
    /// Why the last attempt or connection ended, and when.
    pub last_error: Option<(u64, String)>,
    /// Of an outgoing one: whether the peer has said, in this run, how far this site's lanes have come there, and has not more than this site.
    pub met: bool,
    /// Wakes its shipper: the peer is there.
    pub wake: Arc<Notify>,
}

/// The outgoing direction to one peer.
#[derive(Debug, Default)]
pub struct PeerProgress {
    /// By the channel's number.
    pub streams: [StreamProgress; Channel::ALL.len()],
    /// The last record sent in each lane.
    pub shipped: [Seq; LANES],
    /// Why the peer does not get on in a lane.
    pub stopped: [Option<String>; LANES],
    /// When a record of the sync lane last went to the peer or came from it, on the steady clock; 0: never.
    pub sync_at_ms: u64,
    /// Acknowledged sealed bytes per second, by the lane's number.
    pub rate: [Rate; LANES],
}

impl PeerProgress {
    /// Wakes the shippers: the peer is there.
    pub fn wake(&self) {
        self.streams.iter().for_each(|stream| stream.wake.notify_one());
    }
}

/// The incoming direction from one origin.
#[derive(Debug, Default)]
pub struct OriginProgress {
    /// By the channel's number.
    pub streams: [StreamProgress; Channel::ALL.len()],
    /// When its last frame came, in ms since the Unix epoch.
    pub last_received_ms: Option<u64>,
    /// Why a lane waits here.
    pub stopped: [Option<String>; LANES],
    /// The last record in each lane that copies what was not the same here.
    pub needed: [Seq; LANES],
    /// How far its own lanes had come when it last said so.
    pub heads: [Option<LanePoint>; LANES],
}

/// Bytes per second, averaged with exponentially falling weight.
#[derive(Debug, Default, Clone, Copy)]
pub struct Rate {
    bytes_per_ms: f64,
    at_ms: u64,
}

impl Rate {
    /// Bytes have passed.
    pub fn add(&mut self, now_ms: u64, bytes: u64) {
        self.bytes_per_ms = self.decayed(now_ms) + bytes as f64 / RATE_MS;
        self.at_ms = now_ms.max(self.at_ms);
    }

    /// Bytes per second, as of now.
    pub fn bytes_per_second(&self, now_ms: u64) -> u64 {
        (self.decayed(now_ms) * 1_000.0) as u64
    }

    fn decayed(&self, now_ms: u64) -> f64 {
        self.bytes_per_ms * (-(now_ms.saturating_sub(self.at_ms) as f64) / RATE_MS).exp()
    }
}

/// One lane's stages toward one peer.
#[derive(Clone, Copy, Debug)]
pub struct Stages {
    /// Journalled here.
    pub appended: Seq,
    /// Durable here.
    pub durable: Seq,
    /// Sent, or known to be at the peer.
    pub shipped: Seq,
    /// Applied and durable at the peer.
    pub acknowledged: Seq,
    /// Acknowledged by all.
    pub watermark: Seq,
}

impl Stages {
    /// The order that holds, unless this site lost the end of its lane or the peer lost what it had acknowledged.
    pub fn in_order(&self) -> bool {
        self.appended >= self.durable
            && self.durable >= self.shipped
            && self.shipped >= self.acknowledged
            && self.acknowledged >= self.watermark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_shows_its_rate_and_a_stopped_one_fades() {
        let mut rate = Rate::default();
        for tick in 0..400u64 {
            rate.add(tick * 100, 1_000);
        }
        let steady = rate.bytes_per_second(40_000);
        assert!((9_500..10_500).contains(&steady), "{steady}");
        assert!(rate.bytes_per_second(100_000) < 10);
    }
}
