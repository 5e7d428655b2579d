//! Makes a failing sequence short.

use std::time::{Duration, Instant};

/// Leaves out runs of steps, long ones first, as long as what is left still `fails`; stops after `limit`.
pub fn shrink<T: Clone>(steps: &[T], limit: Duration, mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let begin = Instant::now();
    let mut best = steps.to_vec();
    let mut run = best.len().div_ceil(2);
    while run > 0 {
        // From the end: what comes last is the least likely to be needed by the rest.
        let mut end = best.len();
        while end > 0 {
            if begin.elapsed() > limit {
                return best;
            }
            let start = end.saturating_sub(run);
            let shorter = [&best[..start], &best[end..]].concat();
            if fails(&shorter) {
                best = shorter;
            }
            end = start;
        }
        run = if run == 1 { 0 } else { run.div_ceil(2) };
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_stays() {
        let steps: Vec<u32> = (0..100).collect();
        let fails = |steps: &[u32]| [3, 50, 97].iter().all(|needed| steps.contains(needed));
        assert_eq!(shrink(&steps, Duration::from_secs(60), fails), [3, 50, 97]);
    }

    #[test]
    fn it_stops_in_time() {
        let steps: Vec<u32> = (0..100).collect();
        assert_eq!(shrink(&steps, Duration::ZERO, |_| true).len(), 100);
    }
}
