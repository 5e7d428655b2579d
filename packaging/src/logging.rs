//! Where log lines go: standard error in the foreground, a file of bounded size in the background.
//!
//! `SYNCLINE_LOG` overrides the configured level. Under journald no time is written: it knows better.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The variable that overrides the level, in the syntax of `tracing_subscriber::EnvFilter`.
pub const VARIABLE: &str = "SYNCLINE_LOG";

/// When the log has become this large, it is set aside (and what was aside before is dropped).
const ROTATE_BYTES: u64 = 8 << 20;

/// The variable says something that is no filter.
#[derive(Debug, thiserror::Error)]
#[error("{VARIABLE}: {0}; write for example `{VARIABLE}=info,replicator=debug`")]
pub struct FilterError(tracing_subscriber::filter::ParseError);

/// Logs to standard error.
pub fn to_stderr(level: Level) -> Result<(), FilterError> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(level)?).with_writer(io::stderr);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        // A second initialisation is the caller's mistake and harmless: the first stays.
        let _ = builder.without_time().with_ansi(false).try_init();
    } else {
        let _ = builder.with_ansi(rustix::termios::isatty(io::stderr())).try_init();
    }
    Ok(())
}

/// Logs to a file; standard output and error go there too, for what doesn't pass through the log.
pub fn to_file(level: Level, log: LogFile) -> Result<(), FilterError> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(level)?).with_ansi(false);
    let _ = builder.with_writer(SharedLog(Mutex::new(log))).try_init();
    Ok(())
}

fn filter(level: Level) -> Result<EnvFilter, FilterError> {
    match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(text).map_err(FilterError),
        _ => EnvFilter::try_new(level.to_string()).map_err(FilterError),
    }
}

/// A log file that is renamed to `NAME.1` when it is full.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    len: u64,
    limit: u64,
    takes_stdio: bool,
}

impl LogFile {
    /// Opens or makes the file (mode 0640) and its directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let file = append(path)?;
        let len = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, len, limit: ROTATE_BYTES, takes_stdio: false })
    }

    /// Makes it standard output and error as well, from now on.
    pub fn take_stdio(&mut self) -> io::Result<()> {
        self.takes_stdio = true;
        rustix::stdio::dup2_stdout(&self.file)?;
        rustix::stdio::dup2_stderr(&self.file)?;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut aside = self.path.clone().into_os_string();
        aside.push(".1");
        std::fs::rename(&self.path, aside)?;
        self.file = append(&self.path)?;
        self.len = 0;
        if self.takes_stdio { self.take_stdio() } else { Ok(()) }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.len >= self.limit {
            // A log that can't be rotated goes on where it is: a lost line is worse than a long file.
            let _ = self.rotate();
        }
        let written = self.file.write(line)?;
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct SharedLog(Mutex<LogFile>);

/// Writes one event under the lock.
pub struct LogGuard<'a>(std::sync::MutexGuard<'a, LogFile>);

impl<'a> MakeWriter<'a> for SharedLog {
    type Writer = LogGuard<'a>;
    fn make_writer(&'a self) -> LogGuard<'a> {
        LogGuard(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for LogGuard<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_full_log_is_set_aside_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log/syncline.log");
        let mut log = LogFile::open(&path).unwrap();
        log.limit = 100;
        for number in 0..100 {
            log.write_all(format!("line {number}\n").as_bytes()).unwrap();
        }
        let now = std::fs::read_to_string(&path).unwrap();
        let before = std::fs::read_to_string(path.with_extension("log.1")).unwrap();
        assert!(now.ends_with("line 99\n") && now.len() < 120);
        assert!(before.len() < 120 && before.lines().count() > 5);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);
    }

    #[test]
    fn a_log_is_continued() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("l");
        LogFile::open(&path).unwrap().write_all(b"one\n").unwrap();
        let mut log = LogFile::open(&path).unwrap();
        assert_eq!(log.len, 4);
        log.write_all(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    }
}
