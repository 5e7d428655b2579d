//! How late one small file is seen at the other site.

use std::fs;
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::outcome::OrFail;

/// Between two files.
const INTERVAL: Duration = Duration::from_millis(100);
/// Between two looks at the other site: the resolution, and what leaves the processors to the daemons.
const LOOK_INTERVAL: Duration = Duration::from_micros(50);
/// A file that isn't seen after so long never comes.
const LIMIT: Duration = Duration::from_secs(60);
const CONTENT: &[u8] = b"a small file, seen whole or not at all";

/// Makes a file in `here` every 100 ms for `length`, while a reader looks for it in `there`, by opening its name; for each
/// the time from before the call that creates it until the reader has read its whole content.
pub fn measure(here: &Path, there: &Path, length: Duration) -> Vec<Duration> {
    let count = (length.as_millis() / INTERVAL.as_millis()) as u32;
    let (made, to_see) = channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            let first = Instant::now();
            for number in 0..count {
                // By the schedule, not by when the last one was seen: a slow one must not hide the next.
                thread::sleep((first + INTERVAL * number).saturating_duration_since(Instant::now()));
                let path = here.join(number.to_string());
                if made.send((number, Instant::now())).is_err() {
                    return;
                }
                fs::write(&path, CONTENT).or_fail(path.display());
            }
        });
        let see = |(number, start): (u32, Instant)| {
            let path = there.join(number.to_string());
            while fs::read(&path).ok().as_deref() != Some(CONTENT) {
                assert!(start.elapsed() < LIMIT, "{} is not seen after {LIMIT:?}", path.display());
                thread::sleep(LOOK_INTERVAL);
            }
            start.elapsed()
        };
        to_see.iter().map(see).collect()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_directory_has_hardly_any_lag() {
        let dir = tempfile::tempdir().unwrap();
        let lags = measure(dir.path(), dir.path(), Duration::from_millis(350));
        assert_eq!(lags.len(), 3);
    }
}
