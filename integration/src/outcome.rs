//! How the harness fails: by panic, with a message that names the thing and the cause, so that a test reads as a story.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// `or_fail`: the value, or a panic that says what was being done.
pub trait OrFail<T> {
    /// The value; panics with `what` and the cause when there is none.
    fn or_fail(self, what: impl Display) -> T;
}

impl<T, E: Display> OrFail<T> for Result<T, E> {
    #[track_caller]
    fn or_fail(self, what: impl Display) -> T {
        match self {
            Ok(value) => value,
            Err(cause) => panic!("{what}: {cause}"),
        }
    }
}

impl<T> OrFail<T> for Option<T> {
    #[track_caller]
    fn or_fail(self, what: impl Display) -> T {
        match self {
            Some(value) => value,
            None => panic!("{what}"),
        }
    }
}

/// Asks `condition` again and again until it gives a value.
///
/// # Panics
/// When it hasn't within `limit`; the message carries the last reason that `condition` gave.
#[track_caller]
pub fn eventually<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        match condition() {
            Ok(value) => return value,
            Err(reason) if start.elapsed() >= limit => panic!("{what}: not within {limit:?}: {reason}"),
            Err(_) => {}
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// A number of the environment, for scaling a test up or down.
///
/// # Panics
/// When the variable is set and is not a number.
pub fn number_from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().or_fail(format_args!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eventually_waits_for_the_condition() {
        let mut asked = 0;
        let answer = eventually(Duration::from_secs(5), "third time", || {
            asked += 1;
            if asked == 3 { Ok(asked) } else { Err("not yet".into()) }
        });
        assert_eq!(answer, 3);
    }

    #[test]
    #[should_panic(expected = "never: not within 5ms: still no")]
    fn eventually_gives_up_with_the_reason() {
        eventually(Duration::from_millis(5), "never", || Err::<(), _>("still no".into()));
    }
}
