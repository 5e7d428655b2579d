//! How many bytes may be between this site's hands and the peer's: in the queues of the connection, of the kernel and of the network.
//!
//! Whatever is in those queues stands in front of what comes after: of a more urgent lane on this connection, and, where the link is the
//! bottleneck, of the sync lane on the other. Neither weights nor a connection of its own help there, because routers and kernels keep
//! one queue. So the queue is kept short where it begins: the peer tells what it has received, and the window follows the delay:
//!
//! - the *base* is the least time that a piece took lately. A piece that takes longer waited in a queue;
//! - a round is the receipts of at least eight pieces that were sent since the window was last changed. The least delay above the base in a round is that of the standing
//!   queue: a scheduler's hiccup delays some pieces of a round, a queue delays all of them;
//! - above the target the window shrinks in proportion; below half of it, it grows, if it held anything back. As long as the target is above 0, a
//!   window of `rate × (base + target)` keeps the link busy, so that alone on a link the stream has all of it;
//! - while the sync lane is in use the target is short (half a millisecond or an eighth of the base): a write in a sync directory hardly waits for bulk.
//!   Where it was in use not long ago, it may be again at any moment, and the queue must soon be gone then. At other times the target is long, and the
//!   stream holds its own against others;
//! - the window never falls below a floor: no delay stops the stream, whoever causes it;
//! - the base is forgotten after some time, because routes change. So now and then the stream lets its own queue run empty, lest it take it for part of
//!   the base, and fills it again little by little, because a whole window at once would be a queue for others.
//!
//! Pure: time, in µs, is an argument.

use std::collections::VecDeque;

/// The least window while the sync lane is in use: two of the smallest pieces.
const URGENT_FLOOR_BYTES: u64 = 2 * MIN_PIECE_BYTES;
const FLOOR_BYTES: u64 = 128 << 10;
const FIRST_BYTES: u64 = 256 << 10;
const MIN_PIECE_BYTES: u64 = 8 << 10;
const MAX_PIECE_BYTES: u64 = 128 << 10;
/// How many pieces may be under way, however small.
pub const MAX_PIECES: usize = 512;
const TARGET_US: u64 = 100_000;
const READY_TARGET_US: u64 = 5_000;
const URGENT_TARGET_US: u64 = 500;
const ROUND_RECEIPTS: u32 = 8;
/// A base is remembered for two of these.
const PERIOD_US: u64 = 10_000_000;

/// The peer says that it has received what was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Beyond;

/// When the sync lane between the two sites was last in use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SyncUse {
    /// Never, or long ago.
    None,
    /// Not long ago.
    Lately,
    /// It is.
    Now,
}

impl SyncUse {
    /// The target and the least window.
    fn bounds(self, base_us: u64) -> (u64, u64) {
        match self {
            SyncUse::None => (TARGET_US, FLOOR_BYTES),
            SyncUse::Lately => (READY_TARGET_US, FLOOR_BYTES),
            SyncUse::Now => (URGENT_TARGET_US.max(base_us / 8), URGENT_FLOOR_BYTES),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    /// Bytes sent over the connection up to and with this piece.
    end: u64,
    sent_us: u64,
    /// Sent when the own queue had run empty.
    probe: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Window {
    bytes: u64,
    max_bytes: u64,
    sent: u64,
    received: u64,
    under_way: VecDeque<UnderWay>,
    /// The least delay of this period and of the one before.
    least_us: [u64; 2],
    period_end_us: u64,
    /// Sending less, until the own queue has run empty and a piece has passed.
    probing: bool,
    /// After that: how far the window is open again; at other times `u64::MAX`.
    reopened_bytes: u64,
    target_us: u64,
    sync_use: SyncUse,
    /// The queue at the end of the last round.
    queue_us: u64,
    round_end: u64,
    round_least_us: u64,
    round_receipts: u32,
    /// It has held something back in this round, and in this period.
    held_back: bool,
    busy: bool,
}

impl Window {
    /// For a new connection; at most `max_bytes`.
    pub fn new(max_bytes: u64) -> Self {
        Self {
            bytes: FIRST_BYTES.min(max_bytes),
            max_bytes: max_bytes.max(FLOOR_BYTES),
            sent: 0,
            received: 0,
            under_way: VecDeque::new(),
            least_us: [u64::MAX; 2],
            period_end_us: 0,
            probing: false,
            reopened_bytes: u64::MAX,
            target_us: TARGET_US,
            sync_use: SyncUse::None,
            queue_us: 0,
            round_end: 0,
            round_least_us: u64::MAX,
            round_receipts: 0,
            held_back: false,
            busy: false,
        }
    }

    /// How long the next piece may be; `None` while enough is under way. Ask only when there is something to send.
    pub fn next_piece_bytes(&mut self) -> Option<usize> {
        let bytes = if self.probing { self.probe_bytes() } else { self.bytes.min(self.reopened_bytes) };
        // So short that the time that the piece itself takes doesn't look like a queue.
        let piece = (bytes / 16).clamp(MIN_PIECE_BYTES, MAX_PIECE_BYTES);
        let under_way = self.sent - self.received;
        let room = self.under_way.len() < MAX_PIECES && (under_way == 0 || under_way + piece <= bytes);
        self.held_back |= !room;
        self.busy |= !room;
        room.then_some(piece as usize)
    }

    /// A piece was handed to the connection.
    pub fn sent(&mut self, now_us: u64, bytes: usize) {
        self.sent += bytes as u64;
        let probe = self.probing && self.sent - self.received <= self.probe_bytes();
        self.under_way.push_back(UnderWay { end: self.sent, sent_us: now_us, probe });
    }

    /// The peer has received `total` bytes over the connection.
    pub fn received(&mut self, now_us: u64, total: u64, sync_use: SyncUse) -> Result<(), Beyond> {
        if total > self.sent {
            return Err(Beyond);
        }
        while let Some(piece) = self.under_way.front().copied().filter(|piece| piece.end <= total) {
            self.under_way.pop_front();
            let delay_us = now_us.saturating_sub(piece.sent_us);
            self.least_us[0] = self.least_us[0].min(delay_us);
            if piece.end > self.round_end {
                self.round_least_us = self.round_least_us.min(delay_us);
                self.round_receipts += 1;
            }
            if piece.probe && self.probing {
                self.probing = false;
                self.reopened_bytes = self.probe_bytes();
            }
        }
        self.reopen(total.saturating_sub(self.received));
        self.received = self.received.max(total);
        if now_us >= self.period_end_us {
            self.next_period(now_us);
        }
        let more_urgent = sync_use > self.sync_use;
        self.sync_use = sync_use;
        if more_urgent {
            // At once: a round takes as long as the queue is.
            self.follow_queue();
        } else if self.round_receipts >= ROUND_RECEIPTS && !self.probing && self.reopened_bytes == u64::MAX {
            self.queue_us = self.round_least_us.saturating_sub(self.base_us());
            self.follow_queue();
        }
        Ok(())
    }

    /// Half of what the link itself holds: with so little under way no queue of this stream is left.
    fn probe_bytes(&self) -> u64 {
        let base_us = self.base_us();
        let link = u128::from(self.bytes) * u128::from(base_us) / u128::from(base_us + self.target_us);
        (link as u64 / 2).max(URGENT_FLOOR_BYTES)
    }

    fn base_us(&self) -> u64 {
        // Before anything was received: none is known.
        Some(self.least_us[0].min(self.least_us[1])).filter(|base_us| *base_us < u64::MAX).unwrap_or(0)
    }

    /// A quarter faster than the pieces arrive.
    fn reopen(&mut self, bytes: u64) {
        if self.reopened_bytes < u64::MAX {
            self.reopened_bytes += bytes / 4;
            if self.reopened_bytes >= self.bytes {
                self.reopened_bytes = u64::MAX;
                // What was sent before says nothing of the queue of a whole window.
                self.begin_round(self.sent);
            }
        }
    }

    fn next_period(&mut self, now_us: u64) {
        let first = self.period_end_us == 0;
        self.period_end_us = now_us + PERIOD_US;
        if !first && self.least_us[0] != u64::MAX {
            // What this period saw may have had the own queue in it: the next one begins with a look without.
            self.least_us = [u64::MAX, self.least_us[0]];
            self.probing = self.busy;
            self.busy = false;
        }
    }

    /// Fits the window to the queue, and begins a round.
    fn follow_queue(&mut self) {
        let (base_us, queue_us) = (self.base_us(), self.queue_us);
        let (target_us, floor) = self.sync_use.bounds(base_us);
        self.target_us = target_us;
        let fitting =
            u128::from(self.bytes) * u128::from(base_us + target_us) / u128::from((base_us + queue_us).max(1));
        if queue_us > target_us {
            self.bytes = fitting as u64;
        } else if self.held_back && queue_us <= target_us / 2 {
            // No further than to the target, where a longer queue is somebody's wait.
            let careful = u64::try_from(fitting).unwrap_or(u64::MAX).min(self.bytes + self.bytes / 4);
            self.bytes = if self.sync_use == SyncUse::Now { careful } else { self.bytes * 2 };
        }
        self.bytes = self.bytes.clamp(floor, self.max_bytes);
        self.begin_round(self.sent);
    }

    /// Of pieces after the byte `after`.
    fn begin_round(&mut self, after: u64) {
        self.round_end = after;
        self.round_least_us = u64::MAX;
        self.round_receipts = 0;
        self.held_back = false;
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
