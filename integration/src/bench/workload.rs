//! The work that is measured, on any directory.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
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
