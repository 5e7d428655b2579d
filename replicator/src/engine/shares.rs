//! Whose turn it is on a link that several lanes share: each gets bytes in proportion to its weight, and a lane alone gets all.
//!
//! Start-time fair queueing: each lane has a virtual time, to which what it sends adds its bytes divided by its weight; the lane that is least
//! far goes next. A lane that had nothing to send takes up where the others are: it neither pays for what they got meanwhile nor is owed it.
//!
//! While two lanes `i` and `j` always have something to send, `|bytes_i / weight_i - bytes_j / weight_j|` stays within one piece of each: `L_i /
//! weight_i + L_j / weight_j` for pieces of at most `L`. So no lane starves, whatever the weights.

use proto::ids::Lane;

const LANES: usize = Lane::ALL.len();
/// Virtual time per byte at weight 1: keeps what the division drops far below a byte.
const SCALE: u64 = 1 << 16;

/// See the module.
#[derive(Clone, Debug)]
pub struct Shares {
    weights: [u32; LANES],
    virtual_times: [u64; LANES],
    /// The virtual time at which the last lane was served.
    now: u64,
    waiting: [bool; LANES],
}

impl Shares {
    /// All lanes begin at the same place. A weight of 0 counts as 1.
    pub fn new(weights: [u32; LANES]) -> Self {
        let weights = weights.map(|weight| weight.max(1));
        Self { weights, virtual_times: [0; LANES], now: 0, waiting: [false; LANES] }
    }

    /// The next lane of those that have something to send, of equals the first.
    pub fn next(&mut self, waiting: impl Fn(Lane) -> bool) -> Option<Lane> {
        let mut next: Option<Lane> = None;
        for lane in Lane::ALL {
            let index = lane as usize;
            let waits = waiting(lane);
            if waits && !self.waiting[index] {
                self.virtual_times[index] = self.virtual_times[index].max(self.now);
            }
            self.waiting[index] = waits;
            if waits && next.is_none_or(|next| self.virtual_times[index] < self.virtual_times[next as usize]) {
                next = Some(lane);
            }
        }
        next
    }

    /// A lane has sent bytes.
    pub fn charge(&mut self, lane: Lane, bytes: u64) {
        let time = &mut self.virtual_times[lane as usize];
        self.now = self.now.max(*time);
        *time = time.saturating_add(bytes.saturating_mul(SCALE) / u64::from(self.weights[lane as usize]));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WEIGHTS: [u32; LANES] = [1, 8, 4, 1];
    const LONGEST: u64 = 1_000;

    fn apart(bytes: &[u64; LANES], a: Lane, b: Lane) -> f64 {
        let share = |lane: Lane| bytes[lane as usize] as f64 / f64::from(WEIGHTS[lane as usize]);
        (share(a) - share(b)).abs()
    }

    fn bound(a: Lane, b: Lane) -> f64 {
        let piece = |lane: Lane| LONGEST as f64 / f64::from(WEIGHTS[lane as usize]);
        piece(a) + piece(b) + 1.0
    }

    proptest! {
        #[test]
        fn lanes_that_always_have_something_share_by_weight(
            before in proptest::collection::vec((1usize..4, 1..=LONGEST), 0..50),
            pieces in proptest::collection::vec(1..=LONGEST, 1..500)
        ) {
            let mut shares = Shares::new(WEIGHTS);
            // Some history, in which lanes were alone.
            for (lane, bytes) in before {
                let lane = Lane::ALL[lane];
                assert_eq!(shares.next(|each| each == lane), Some(lane));
                shares.charge(lane, bytes);
            }
            shares.next(|_| false);
            let mut sent = [0; LANES];
            for bytes in pieces {
                let lane = shares.next(|lane| lane != Lane::Sync).expect("some wait");
                shares.charge(lane, bytes);
                sent[lane as usize] += bytes;
                for (a, b) in [(Lane::High, Lane::Normal), (Lane::High, Lane::Bulk), (Lane::Normal, Lane::Bulk)] {
                    // The one that was served last may be ahead by its last piece when the others come.
                    let bound = bound(a, b) + LONGEST as f64;
                    prop_assert!(apart(&sent, a, b) <= bound, "{sent:?}: {a} and {b} beyond {bound}");
                }
            }
        }

        #[test]
        fn whoever_waits_is_served_soon_whatever_the_others_do(
            others in proptest::collection::vec((any::<bool>(), any::<bool>(), 1..=LONGEST), 200)
        ) {
            let mut shares = Shares::new(WEIGHTS);
            let mut bytes_of_others = 0;
            for (high, normal, bytes) in others {
                let waiting = |lane| match lane {
                    Lane::High => high,
                    Lane::Normal => normal,
                    Lane::Bulk => true,
                    Lane::Sync => false,
                };
                let lane = shares.next(waiting).expect("bulk waits");
                shares.charge(lane, bytes);
                bytes_of_others = if lane == Lane::Bulk { 0 } else { bytes_of_others + bytes };
                // Bulk's own last piece, paid by both, and a piece of each.
                prop_assert!(bytes_of_others <= (8 + 4) * LONGEST + 2 * LONGEST + 2, "{bytes_of_others} without bulk");
            }
        }
    }

    #[test]
    fn a_lane_alone_gets_all_and_owes_nothing_afterwards() {
        let mut shares = Shares::new(WEIGHTS);
        for _ in 0..100 {
            assert_eq!(shares.next(|lane| lane == Lane::Bulk), Some(Lane::Bulk));
            shares.charge(Lane::Bulk, LONGEST);
        }
        let both = |lane| lane == Lane::Bulk || lane == Lane::High;
        let served: Vec<Lane> = (0..18)
            .map(|_| {
                let lane = shares.next(both).expect("both wait");
                shares.charge(lane, LONGEST);
                lane
            })
            .collect();
        let bulk = served.iter().filter(|lane| **lane == Lane::Bulk).count();
        assert!((1..=2).contains(&bulk), "{served:?}");
        assert_eq!(served[0], Lane::High, "the newcomer first");
    }
}
