//! A small random generator whose sequence is fixed for ever by its seed, so that a printed seed replays a run.

/// SplitMix64. Not for secrets.
#[derive(Clone, Debug)]
pub struct Seed {
    state: u64,
}

impl Seed {
    /// The generator that starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The seed in the environment variable `name`, else a fresh one; printed, so that a failure can be replayed.
    ///
    /// # Panics
    /// When the variable is set and is not a number.
    pub fn from_env(name: &str) -> u64 {
        let seed = match std::env::var(name) {
            Ok(text) => text.parse().unwrap_or_else(|e| panic!("{name}={text} is not a number: {e}")),
            Err(_) => {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                let nanos = now.map_or(0, |d| d.as_nanos() as u64);
                Seed::new(nanos ^ u64::from(std::process::id())).next_u64()
            }
        };
        eprintln!("seed: {name}={seed}");
        seed
    }

    /// The seed of one part of a run. Neighbouring seeds and parts have nothing in common.
    pub fn of_part(seed: u64, part: u64) -> u64 {
        Self::new(Self::new(seed).next_u64() ^ part).next_u64()
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True once in `n` times on average.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `items`, or none when there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len() as u64) as usize)
    }

    /// Fills `buffer`.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let bytes = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }

    /// `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut buffer = vec![0; len];
        self.fill(&mut buffer);
        buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_fixed() {
        let mut seed = Seed::new(0);
        assert_eq!(seed.next_u64(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(seed.next_u64(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn between_reaches_both_ends_only() {
        let mut seed = Seed::new(7);
        let seen: std::collections::BTreeSet<u64> = (0..200).map(|_| seed.between(3, 5)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [3, 4, 5]);
    }
}
