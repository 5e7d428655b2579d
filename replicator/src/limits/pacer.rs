//! When each lane may next be sent to one peer.
//!
//! Every byte counts against its lane's bucket and the peer's own. The sync lane may overdraw the peer's bucket, so that what other lanes have
//! sent never holds it up; they wait until the debt is repaid, so that the limit holds on average.

use proto::ids::Lane;

use super::PeerLimits;
use super::bucket::Bucket;

const LANES: usize = Lane::ALL.len();
/// When a paused lane may be sent.
pub const NEVER: u64 = u64::MAX;
/// How far the sync lane may overdraw the peer's bucket, in ms at its rate: more than the segment that another lane has just sent.
const SYNC_OVERDRAFT_MS: u64 = 2_000;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pacer {
    limits: PeerLimits,
    overall: Bucket,
    lanes: [Bucket; LANES],
}

impl Pacer {
    /// What is in force has changed, or not.
    pub fn set(&mut self, now_ms: u64, limits: PeerLimits) {
        self.limits = limits;
        self.overall.set_rate(now_ms, limits.overall);
        for (bucket, limit) in self.lanes.iter_mut().zip(limits.lanes) {
            bucket.set_rate(now_ms, limit.bytes_per_second);
        }
    }

    /// Bytes of a lane were sent.
    pub fn charge(&mut self, now_ms: u64, lane: Lane, bytes: u64) {
        self.overall.charge(now_ms, bytes);
        self.lanes[lane as usize].charge(now_ms, bytes);
    }

    /// From when on each lane may be sent, in ms of the same clock; 0 for at once, [`NEVER`] while it is paused.
    pub fn open_at_ms(&mut self, now_ms: u64) -> [u64; LANES] {
        Lane::ALL.map(|lane| {
            let limit = self.limits.lanes[lane as usize];
            if limit.paused {
                return NEVER;
            }
            let overdraft_ms = if lane == Lane::Sync { SYNC_OVERDRAFT_MS } else { 0 };
            let open = self.lanes[lane as usize].open_at_ms(now_ms, 0);
            let open = open.max(self.overall.open_at_ms(now_ms, overdraft_ms));
            if open <= now_ms { 0 } else { open }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::LaneLimit;
    use super::*;

    #[test]
    fn the_sync_lane_goes_before_the_debt_of_others_and_they_repay_it() {
        let mut pacer = Pacer::default();
        pacer.set(0, PeerLimits { overall: Some(1_000_000), ..PeerLimits::default() });
        pacer.charge(0, Lane::Bulk, 1_100_000);
        let open = pacer.open_at_ms(0);
        assert_eq!(open, [0, 1_000, 1_000, 1_000]);
        pacer.charge(0, Lane::Sync, 500_000);
        assert_eq!(pacer.open_at_ms(0)[3], 1_500);
        pacer.charge(0, Lane::Sync, 1_500_000);
        assert_eq!(pacer.open_at_ms(0)[0], 1_000, "the limit holds for the sync lane, too");
    }

    #[test]
    fn a_lane_has_its_own_limit_and_pause() {
        let mut limits = PeerLimits::default();
        limits.lanes[Lane::Bulk as usize] = LaneLimit { bytes_per_second: Some(1_000), ..LaneLimit::default() };
        limits.lanes[Lane::High as usize].paused = true;
        let mut pacer = Pacer::default();
        pacer.set(0, limits);
        pacer.charge(0, Lane::Bulk, 600);
        pacer.charge(0, Lane::Normal, 1 << 30);
        assert_eq!(pacer.open_at_ms(0), [0, NEVER, 0, 500]);
        pacer.set(0, PeerLimits::default());
        assert_eq!(pacer.open_at_ms(0), [0; 4]);
    }
}
