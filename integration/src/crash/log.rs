//! The writer's notes: one line before each operation (`intent N`), one after its system call returned (`done N`).
//!
//! A note is written by one appending `write(2)` to a file outside the mount, which `kill -9` of the daemon can't touch.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// The log as the writer sees it.
pub struct Log {
    file: File,
}

impl Log {
    /// A new log; refuses one that exists.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().append(true).create_new(true).open(path)? })
    }

    /// Notes that operation `number` is about to be made.
    pub fn intent(&mut self, number: u64) -> io::Result<()> {
        self.file.write_all(format!("intent {number}\n").as_bytes())
    }

    /// Notes that it was acknowledged.
    pub fn done(&mut self, number: u64) -> io::Result<()> {
        self.file.write_all(format!("done {number}\n").as_bytes())
    }
}

/// What a log says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Operations `0..acknowledged` were acknowledged.
    pub acknowledged: u64,
    /// Whether one more was in flight.
    pub in_flight: bool,
}

/// Reads a log; a last line without its end, or missing, is as if it had not been noted.
///
/// # Errors
/// When it is not a log: the numbers must follow each other.
pub fn read(path: &Path) -> io::Result<Progress> {
    parse(&std::fs::read_to_string(path)?).map_err(|reason| {
        let reason = format!("{}: {reason}", path.display());
        io::Error::new(io::ErrorKind::InvalidData, reason)
    })
}

fn parse(text: &str) -> Result<Progress, String> {
    let mut progress = Progress { acknowledged: 0, in_flight: false };
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let expected = if progress.in_flight { "done" } else { "intent" };
        if line != format!("{expected} {}", progress.acknowledged) {
            return Err(format!("{line:?} where {expected} {} was due", progress.acknowledged));
        }
        progress.acknowledged += u64::from(progress.in_flight);
        progress.in_flight = !progress.in_flight;
    }
    Ok(progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says() {
        let says = |acknowledged, in_flight| Ok(Progress { acknowledged, in_flight });
        assert_eq!(parse(""), says(0, false));
        assert_eq!(parse("intent 0\n"), says(0, true));
        assert_eq!(parse("intent 0\ndone 0\n"), says(1, false));
        assert_eq!(parse("intent 0\ndone 0\nintent 1\ndon"), says(1, true));
        assert!(parse("intent 0\nintent 1\n").is_err());
        assert!(parse("intent 0\ndone 1\n").is_err());
    }
}
