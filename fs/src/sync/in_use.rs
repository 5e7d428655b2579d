//! Whether anybody has waited for other sites lately, here or there: then other work goes about the disk more gently.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// For how long after a wait.
const LATELY: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct InUse {
    start: Instant,
    /// After the start, of the end of the time in use; 0 if there was none.
    until_ms: AtomicU64,
}

impl Default for InUse {
    fn default() -> Self {
        Self { start: Instant::now(), until_ms: AtomicU64::new(0) }
    }
}

impl InUse {
    /// Somebody waits, or will.
    pub fn note(&self) {
        self.until_ms.store(self.ms_at(Instant::now() + LATELY), Ordering::Relaxed);
    }

    /// Whether somebody did lately.
    pub fn lately(&self) -> bool {
        self.is_at(Instant::now())
    }

    fn is_at(&self, now: Instant) -> bool {
        self.ms_at(now) < self.until_ms.load(Ordering::Relaxed)
    }

    fn ms_at(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_in_use_for_a_while_after_a_wait() {
        let in_use = InUse::default();
        assert!(!in_use.lately());
        in_use.note();
        assert!(in_use.is_at(in_use.start + LATELY - Duration::from_millis(1)));
        assert!(!in_use.is_at(Instant::now() + LATELY + Duration::from_millis(1)));
    }
}
