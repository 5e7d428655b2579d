use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::*;

/// A link of one rate with one queue, on which a stream sends as fast as its window lets it.
struct Link {
    window: Window,
    now_us: u64,
    bytes_per_us: f64,
    one_way_us: u64,
    free_at_us: f64,
    /// When receipts arrive, the earliest first, and what they say.
    receipts: BinaryHeap<std::cmp::Reverse<(u64, u64)>>,
    sent: u64,
    received: u64,
    /// The longest that a byte of another connection would have waited in the queue, since it was last looked at.
    longest_queue_us: u64,
}

impl Link {
    fn new(megabytes_per_second: f64, one_way_us: u64) -> Self {
        Self {
            window: Window::new(32 << 20),
            now_us: 0,
            bytes_per_us: megabytes_per_second,
            one_way_us,
            free_at_us: 0.0,
            receipts: BinaryHeap::new(),
            sent: 0,
            received: 0,
            longest_queue_us: 0,
        }
    }

    /// Runs for a time; `noise` delays each receipt by so many µs.
    fn run(&mut self, seconds: f64, sync_use: SyncUse, mut noise: impl FnMut(u64) -> u64) -> f64 {
        let (end_us, before) = (self.now_us + (seconds * 1e6) as u64, self.received);
        self.longest_queue_us = 0;
        while self.now_us < end_us {
            while let Some(piece) = self.window.next_piece_bytes() {
                self.window.sent(self.now_us, piece);
                self.sent += piece as u64;
                self.free_at_us = self.free_at_us.max(self.now_us as f64) + piece as f64 / self.bytes_per_us;
                let arrives_us = self.free_at_us as u64 + 2 * self.one_way_us + 100 + noise(self.sent);
                self.receipts.push(std::cmp::Reverse((arrives_us, self.sent)));
            }
            let queue_us = self.free_at_us as u64 - (self.now_us).min(self.free_at_us as u64);
            self.longest_queue_us = self.longest_queue_us.max(queue_us);
            let Some(std::cmp::Reverse((at_us, total))) = self.receipts.pop() else { panic!("stuck") };
            self.now_us = self.now_us.max(at_us);
            self.received = self.received.max(total);
            self.window.received(self.now_us, total, sync_use).expect("it was sent");
        }
        (self.received - before) as f64 / seconds / self.bytes_per_us / 1e6
    }
}

#[test]
fn while_the_sync_lane_is_in_use_the_queue_is_short_and_the_link_is_full() {
    // 200 Mbit/s on one host, and across a country.
    for one_way_us in [0, 10_000] {
        let mut link = Link::new(25.0, one_way_us);
        let used = link.run(5.0, SyncUse::None, |_| 0);
        assert!(used > 0.95, "{used} of the link is used");
        assert!(link.longest_queue_us < 250_000, "{} us", link.longest_queue_us);
        // It settles in less than a second.
        link.run(1.0, SyncUse::Now, |_| 0);
        let used = link.run(30.0, SyncUse::Now, |_| 0);
        assert!(used > 0.9, "{used} of the link is used at {one_way_us}");
        assert!(link.longest_queue_us < 5_500, "{} us at {one_way_us}", link.longest_queue_us);
    }
}

#[test]
fn a_long_fast_link_is_filled() {
    let mut link = Link::new(125.0, 50_000);
    link.run(3.0, SyncUse::None, |_| 0);
    let used = link.run(20.0, SyncUse::None, |_| 0);
    assert!(used > 0.9, "{used} of the link is used");
}

#[test]
fn hiccups_are_not_taken_for_a_queue() {
    let mut link = Link::new(400.0, 0);
    // Every third receipt is up to 8 ms late.
    let noise = |sent: u64| if sent.is_multiple_of(3) { sent % 8_000 } else { 0 };
    link.run(2.0, SyncUse::Now, noise);
    let used = link.run(5.0, SyncUse::Now, noise);
    assert!(used > 0.5, "{used} of the link is used");
}

#[test]
fn a_queue_of_others_makes_it_yield_but_never_stop() {
    let mut link = Link::new(25.0, 0);
    link.run(2.0, SyncUse::Now, |_| 0);
    let before = link.received;
    link.run(3.0, SyncUse::Now, |_| 50_000);
    assert!(link.window.bytes == URGENT_FLOOR_BYTES && link.received > before + (500 << 10));
    // The others are gone.
    link.run(1.0, SyncUse::Now, |_| 0);
    let used = link.run(2.0, SyncUse::Now, |_| 0);
    assert!(used > 0.9, "{used} of the link is used");
}

#[test]
fn a_longer_route_is_the_base_after_a_while() {
    let mut link = Link::new(25.0, 1_000);
    link.run(5.0, SyncUse::Now, |_| 0);
    link.one_way_us = 20_000;
    link.run(25.0, SyncUse::Now, |_| 0);
    let used = link.run(5.0, SyncUse::Now, |_| 0);
    assert!(used > 0.9, "{used} of the link is used");
}

#[test]
fn what_was_not_sent_can_not_have_been_received() {
    let mut window = Window::new(1 << 20);
    window.sent(0, 10);
    assert_eq!(window.received(1, 11, SyncUse::None), Err(Beyond));
    assert_eq!(window.received(1, 10, SyncUse::None), Ok(()));
}

proptest! {
    #[test]
    fn what_is_under_way_is_bounded_and_never_nothing(
        steps in proptest::collection::vec((0u8..3, 0u64..100_000, any::<bool>()), 1..400)
    ) {
        let mut window = Window::new(1 << 20);
        let (mut now_us, mut sent, mut received) = (0, 0, 0);
        let mut ends = VecDeque::new();
        for (choice, amount, urgent) in steps {
            let sync_use = if urgent { SyncUse::Now } else { SyncUse::Lately };
            now_us += amount;
            if choice == 0 && !ends.is_empty() {
                let at = amount as usize % ends.len();
                received = ends[at];
                ends.drain(..=at);
                window.received(now_us, received, sync_use).expect("it was sent");
            } else if let Some(max) = window.next_piece_bytes() {
                let bytes = (amount as usize % max) + 1;
                window.sent(now_us, bytes);
                sent += bytes as u64;
                ends.push_back(sent);
            } else {
                prop_assert!(sent > received, "held back though nothing is under way");
            }
            prop_assert!(sent - received <= 1 << 20);
            prop_assert!(ends.len() <= MAX_PIECES);
        }
    }
}
