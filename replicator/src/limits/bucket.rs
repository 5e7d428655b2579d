//! A token bucket: so many bytes a second on average, and a little at once.
//!
//! What is sent is charged in whole, and may put the bucket in debt; it is open again when the debt is repaid. So pieces of any length pass,
//! and the average holds.

/// How much may pass at once, in ms at the bucket's rate.
const BURST_MS: f64 = 100.0;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    bytes_per_second: Option<u64>,
    /// Below 0: debt.
    tokens: f64,
    at_ms: u64,
}

impl Bucket {
    /// Changes the rate. A bucket that had none begins full.
    pub fn set_rate(&mut self, now_ms: u64, bytes_per_second: Option<u64>) {
        if self.bytes_per_second == bytes_per_second {
            return;
        }
        self.fill(now_ms);
        if self.bytes_per_second.is_none() {
            self.tokens = f64::MAX;
        }
        self.bytes_per_second = bytes_per_second;
        self.tokens = self.tokens.min(self.burst());
    }

    /// Bytes were sent.
    pub fn charge(&mut self, now_ms: u64, bytes: u64) {
        if self.bytes_per_second.is_some() {
            self.fill(now_ms);
            self.tokens -= bytes as f64;
        }
    }

    /// When something may be sent that may overdraw the bucket by `overdraft_ms` at its rate; now or later.
    pub fn open_at_ms(&mut self, now_ms: u64, overdraft_ms: u64) -> u64 {
        let Some(rate) = self.bytes_per_second else { return now_ms };
        self.fill(now_ms);
        let bytes_per_ms = rate as f64 / 1_000.0;
        let lacking = -self.tokens - overdraft_ms as f64 * bytes_per_ms;
        if lacking <= 0.0 { now_ms } else { now_ms.saturating_add((lacking / bytes_per_ms).ceil() as u64) }
    }

    fn burst(&self) -> f64 {
        self.bytes_per_second.map_or(0.0, |rate| rate as f64 / 1_000.0 * BURST_MS)
    }

    fn fill(&mut self, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.at_ms) as f64;
        self.at_ms = now_ms.max(self.at_ms);
        if let Some(rate) = self.bytes_per_second {
            self.tokens = (self.tokens + rate as f64 / 1_000.0 * passed_ms).min(self.burst());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whoever sends whenever the bucket is open gets the rate: no more than a burst and a piece above it, and no less.
        #[test]
        fn the_average_is_the_rate_whatever_the_pieces(
            rate in 1_000u64..1_000_000_000, pieces in proptest::collection::vec(1u64..2_000_000, 1..200)
        ) {
            let mut bucket = Bucket::default();
            bucket.set_rate(0, Some(rate));
            let (mut now_ms, mut sent) = (0u64, 0u64);
            for bytes in pieces {
                now_ms = bucket.open_at_ms(now_ms, 0);
                let allowed = (now_ms as f64 + BURST_MS) * rate as f64 / 1_000.0;
                prop_assert!(sent as f64 <= allowed + 1.0, "{sent} of {allowed} after {now_ms} ms");
                bucket.charge(now_ms, bytes);
                sent += bytes;
            }
            // No longer than the bytes take.
            prop_assert!(now_ms as f64 <= sent as f64 / rate as f64 * 1_000.0 + 200.0);
        }
    }

    #[test]
    fn without_a_rate_it_is_always_open_and_a_new_rate_begins_without_debt() {
        let mut bucket = Bucket::default();
        bucket.charge(0, u64::MAX);
        assert_eq!(bucket.open_at_ms(5, 0), 5);
        bucket.set_rate(10, Some(1_000));
        assert_eq!(bucket.open_at_ms(10, 0), 10);
        bucket.charge(10, 1_100);
        assert_eq!(bucket.open_at_ms(10, 0), 1_010);
        // Ten times the rate repays ten times as fast.
        bucket.set_rate(10, Some(10_000));
        assert_eq!(bucket.open_at_ms(10, 0), 110);
        assert_eq!(bucket.open_at_ms(10, 60), 50, "an overdraft opens it earlier");
        bucket.set_rate(10, None);
        assert_eq!(bucket.open_at_ms(10, 0), 10);
    }
}
