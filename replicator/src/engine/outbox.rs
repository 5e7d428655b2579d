//! What is read and not yet handed to the connection: sealed segments, given out piece by piece.
//!
//! Pieces of several lanes take turns by weight ([`Shares`]): so on a slow link a newly arrived segment of an urgent lane waits for a piece of another,
//! not for what was read before it. The pieces of one lane stay in order.

use std::collections::VecDeque;

use bytes::Bytes;
use proto::ids::Lane;

use super::shares::Shares;

const LANES: usize = Lane::ALL.len();

/// A part of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The segment's lane.
    pub lane: Lane,
    /// Its bytes.
    pub bytes: Bytes,
    /// Whether the segment goes on in the lane's next piece.
    pub more: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Outbox {
    lanes: [VecDeque<Bytes>; LANES],
    queued_bytes: [u64; LANES],
    shares: Shares,
}

impl Outbox {
    /// An empty one, for lanes of these weights.
    pub fn new(weights: [u32; LANES]) -> Self {
        Self { lanes: Default::default(), queued_bytes: [0; LANES], shares: Shares::new(weights) }
    }

    /// Takes a segment in, which has at least one byte.
    pub fn push(&mut self, lane: Lane, sealed: Bytes) {
        self.queued_bytes[lane as usize] += sealed.len() as u64;
        self.lanes[lane as usize].push_back(sealed);
    }

    /// Bytes of a lane that are in it.
    pub fn queued_bytes(&self, lane: Lane) -> u64 {
        self.queued_bytes[lane as usize]
    }

    /// The next piece, of at most `max_bytes` (at least 1), from a lane that may be sent.
    pub fn next(&mut self, max_bytes: usize, may: impl Fn(Lane) -> bool) -> Option<Piece> {
        let lanes = &self.lanes;
        let lane = self.shares.next(|lane| !lanes[lane as usize].is_empty() && may(lane))?;
        let queue = &mut self.lanes[lane as usize];
        let segment = queue.front_mut()?;
        let bytes = segment.split_to(max_bytes.clamp(1, segment.len().max(1)).min(segment.len()));
        let more = !segment.is_empty();
        if !more {
            queue.pop_front();
        }
        self.queued_bytes[lane as usize] -= bytes.len() as u64;
        self.shares.charge(lane, bytes.len() as u64);
        Some(Piece { lane, bytes, more })
    }

    /// The connection is gone, and with it what was to be sent over it.
    pub fn clear(&mut self) {
        self.lanes.iter_mut().for_each(VecDeque::clear);
        self.queued_bytes = [0; LANES];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_segment_comes_out_whole_and_in_its_lanes_order(
            segments in proptest::collection::vec((1usize..4, 1usize..5_000), 1..60), max in 1usize..2_000
        ) {
            let mut outbox = Outbox::new([1, 8, 4, 1]);
            let mut pushed: [Vec<Bytes>; LANES] = Default::default();
            for (number, (lane, len)) in segments.into_iter().enumerate() {
                let bytes = Bytes::from(vec![number as u8; len]);
                outbox.push(Lane::ALL[lane], bytes.clone());
                pushed[lane].push(bytes);
            }
            let mut open: [Vec<u8>; LANES] = Default::default();
            let mut whole: [Vec<Bytes>; LANES] = Default::default();
            while let Some(Piece { lane, bytes, more }) = outbox.next(max, |_| true) {
                prop_assert!((1..=max).contains(&bytes.len()));
                open[lane as usize].extend_from_slice(&bytes);
                if !more {
                    whole[lane as usize].push(std::mem::take(&mut open[lane as usize]).into());
                }
            }
            prop_assert_eq!(whole, pushed);
            prop_assert!(Lane::ALL.iter().all(|lane| outbox.queued_bytes(*lane) == 0));
        }
    }

    #[test]
    fn an_urgent_segment_waits_for_a_piece_and_a_closed_lane_for_nobody() {
        let mut outbox = Outbox::new([1, 8, 4, 1]);
        outbox.push(Lane::Bulk, Bytes::from(vec![1; 1_000]));
        let lane = |piece: Option<Piece>| piece.map(|piece| (piece.lane, piece.more));
        assert_eq!(lane(outbox.next(100, |_| true)), Some((Lane::Bulk, true)));
        outbox.push(Lane::High, Bytes::from(vec![2; 150]));
        assert_eq!(lane(outbox.next(100, |_| true)), Some((Lane::High, true)));
        assert_eq!(lane(outbox.next(100, |lane| lane != Lane::High)), Some((Lane::Bulk, true)));
        assert_eq!(lane(outbox.next(100, |_| true)), Some((Lane::High, false)));
        assert_eq!(lane(outbox.next(100, |lane| lane != Lane::Bulk)), None);
        assert_eq!(outbox.queued_bytes(Lane::Bulk), 800);
        outbox.clear();
        assert_eq!(outbox.next(100, |_| true), None);
    }
}
