//! The work that is measured, on any directory.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::outcome::OrFail;
use crate::seed::Seed;

/// Bytes of one write of large files.
const LARGE_WRITE_BYTES: usize = 1 << 20;
/// Bytes of a small file and of an append.
const SMALL_BYTES: usize = 4096;
/// Directories over which small files are spread.
const DIRECTORIES: u64 = 100;

/// Writes a file of `mib` MiB in 1 MiB writes, flushes it once, closes it. Its bytes don't compress, as of trained weights,
/// and differ from one seed to the next.
pub fn write_large(path: &Path, mib: u64, seed: u64) -> Duration {
    let mut bytes = Seed::new(seed).bytes(LARGE_WRITE_BYTES);
    let start = Instant::now();
    let mut file = File::create(path).or_fail(path.display());
    for number in 0..mib {
        // A block that is the same as the one before could be taken for a repetition.
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all(&bytes).or_fail(path.display());
    }
    file.sync_all().or_fail(path.display());
    drop(file);
    start.elapsed()
}

fn small_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("d{}/f{number}", number % DIRECTORIES))
}

/// Makes `count` files of 4 KiB in 100 directories.
pub fn write_small(directory: &Path, count: u64, seed: u64) -> Duration {
    let mut bytes = Seed::new(seed).bytes(SMALL_BYTES);
    let start = Instant::now();
    fs::create_dir(directory).or_fail(directory.display());
    for number in 0..DIRECTORIES {
        let path = directory.join(format!("d{number}"));
        fs::create_dir(&path).or_fail(path.display());
    }
    for number in 0..count {
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        let path = small_path(directory, number);
        fs::write(&path, &bytes).or_fail(path.display());
    }
    start.elapsed()
}

/// Appends 4 KiB and flushes, `count` times; how long each took.
pub fn append_and_flush(path: &Path, count: u64, seed: u64) -> Vec<Duration> {
    let bytes = Seed::new(seed).bytes(SMALL_BYTES);
    let mut file = OpenOptions::new().create(true).append(true).open(path).or_fail(path.display());
    let one = |_| {
        let start = Instant::now();
        file.write_all(&bytes).or_fail(path.display());
        file.sync_all().or_fail(path.display());
        start.elapsed()
    };
    (0..count).map(one).collect()
}

/// `writers` threads append 4 KiB and flush, each in a file of its own, for `length`; how many appends a second they did together.
pub fn append_at_once(directory: &Path, writers: usize, length: Duration) -> f64 {
    fs::create_dir_all(directory).or_fail(directory.display());
    let (ready, bytes) = (Barrier::new(writers + 1), Seed::new(writers as u64).bytes(SMALL_BYTES));
    let open = |number: usize| {
        let path = directory.join(number.to_string());
        OpenOptions::new().create(true).append(true).open(&path).or_fail(path.display())
    };
    // All before the first thread: one that failed would leave the others at the barrier.
    let files: Vec<File> = (0..writers).map(open).collect();
    thread::scope(|scope| {
        let append = |mut file: File| {
            let (ready, bytes) = (&ready, &bytes);
            scope.spawn(move || {
                ready.wait();
                let (start, mut count) = (Instant::now(), 0u64);
                while start.elapsed() < length {
                    file.write_all(bytes).or_fail("cannot append");
                    file.sync_all().or_fail("cannot flush");
                    count += 1;
                }
                count
            })
        };
        let running: Vec<_> = files.into_iter().map(append).collect();
        ready.wait();
        let start = Instant::now();
        let counts = running.into_iter().map(|thread| thread.join().ok().or_fail("a writer failed"));
        let count: u64 = counts.sum();
        count as f64 / start.elapsed().as_secs_f64()
    })
}

/// Reads a file to its end in 1 MiB reads.
pub fn read_large(path: &Path, mib: u64) -> Duration {
    let mut buffer = vec![0; LARGE_WRITE_BYTES];
    let start = Instant::now();
    let mut file = File::open(path).or_fail(path.display());
    let mut total = 0;
    loop {
        match file.read(&mut buffer).or_fail(path.display()) {
            0 => break,
            n => total += n as u64,
        }
    }
    let elapsed = start.elapsed();
    assert_eq!(total, mib << 20, "{} has not all its bytes", path.display());
    elapsed
}

/// Reads what [`write_small`] made.
pub fn read_small(directory: &Path, count: u64) -> Duration {
    let mut buffer = Vec::with_capacity(SMALL_BYTES);
    let start = Instant::now();
    for number in 0..count {
        let path = small_path(directory, number);
        buffer.clear();
        File::open(&path).and_then(|mut file| file.read_to_end(&mut buffer)).or_fail(path.display());
        assert_eq!(buffer.len(), SMALL_BYTES, "{} has not all its bytes", path.display());
    }
    start.elapsed()
}

/// Asks for the attributes of what [`write_small`] made.
pub fn stat_small(directory: &Path, count: u64) -> Duration {
    let start = Instant::now();
    for number in 0..count {
        let path = small_path(directory, number);
        fs::symlink_metadata(&path).or_fail(path.display());
    }
    start.elapsed()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn several_writers_append_what_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let rate = append_at_once(dir.path(), 3, Duration::from_millis(50));
        let sizes: Vec<u64> = (0..3).map(|n| fs::metadata(dir.path().join(n.to_string())).unwrap().len()).collect();
        assert!(
            rate > 0.0 && sizes.iter().all(|size| *size > 0 && size % SMALL_BYTES as u64 == 0),
            "{rate}: {sizes:?}"
        );
    }
}
