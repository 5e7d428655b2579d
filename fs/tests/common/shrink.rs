//! Finds a short sequence that still fails.

use std::time::{Duration, Instant};

/// Not longer: a long run goes on with what it has.
const LIMIT: Duration = Duration::from_secs(60);

/// Leaves out ever smaller pieces as long as the rest fails.
pub fn shrink<T: Clone>(mut steps: Vec<T>, fails: impl Fn(&[T]) -> bool) -> Vec<T> {
    let until = Instant::now() + LIMIT;
    let mut piece = steps.len().div_ceil(2);
    while piece > 0 {
        let (mut at, mut shorter) = (0, false);
        while at < steps.len() && Instant::now() < until {
            let mut rest = steps.clone();
            rest.drain(at..(at + piece).min(steps.len()));
            if fails(&rest) {
                (steps, shorter) = (rest, true);
            } else {
                at += piece;
            }
        }
        if Instant::now() >= until {
            break;
        }
        if !shorter || piece > 1 {
            piece /= 2;
        }
    }
    steps
}
