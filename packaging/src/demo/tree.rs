//! A small tree with one of everything: the same each time.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{XattrFlags, setxattr};

/// Text to fill files with: the sources of this directory.
const TEXT: &str = concat!(include_str!("tree.rs"), include_str!("compare.rs"), include_str!("site.rs"));
const DIRECTORIES: usize = 12;
const FILES_EACH: usize = 16;
/// Does not compress.
const CHECKPOINT_BYTES: usize = 16 << 20;
/// Mostly a hole.
const SPARSE_BYTES: u64 = 256 << 20;

/// What was written.
#[derive(Clone, Copy, Default, Debug)]
pub struct Written {
    /// Regular files.
    pub files: usize,
    /// Their bytes, without holes.
    pub bytes: u64,
}

/// Writes it below `root`; `progress` counts the files.
pub fn write(root: &Path, progress: &AtomicUsize) -> io::Result<Written> {
    let mut written = Written::default();
    let mut file = |path: &Path, bytes: &[u8]| {
        fs::write(path, bytes)?;
        written.files += 1;
        written.bytes += bytes.len() as u64;
        progress.fetch_add(1, Ordering::Relaxed);
        io::Result::Ok(())
    };
    for number in 0..DIRECTORIES {
        let directory = root.join(format!("project/module-{number:02}/src"));
        fs::create_dir_all(&directory)?;
        for part in 0..FILES_EACH {
            let len = TEXT.len() * (part + 1) / FILES_EACH;
            let text = TEXT.as_bytes().get(..len).unwrap_or_default();
            file(&directory.join(format!("part-{part:02}.txt")), text)?;
        }
    }
    let project = root.join("project");
    file(&project.join("run.sh"), b"#!/bin/sh\necho Hello from both sites\n")?;
    fs::set_permissions(project.join("run.sh"), fs::Permissions::from_mode(0o755))?;
    file(&project.join("empty"), b"")?;
    file(&project.join("a name with spaces, and ümläuts"), b"names are bytes\n")?;

    // As training jobs publish what they have: never seen half.
    fs::create_dir(root.join("checkpoints"))?;
    let unfinished = root.join("checkpoints/.step-1000.tmp");
    file(&unfinished, &noise(CHECKPOINT_BYTES))?;
    File::open(&unfinished)?.sync_all()?;
    fs::rename(&unfinished, root.join("checkpoints/step-1000"))?;
    symlink("step-1000", root.join("checkpoints/latest"))?;
    fs::hard_link(root.join("checkpoints/step-1000"), root.join("checkpoints/best"))?;
    setxattr(root.join("checkpoints/best"), "user.demo.score", b"0.97", XattrFlags::empty())?;

    let sparse = File::create(root.join("sparse.img"))?;
    sparse.set_len(SPARSE_BYTES)?;
    sparse.write_all_at(b"the beginning", 0)?;
    sparse.write_all_at(b"the middle", SPARSE_BYTES / 2)?;
    written.files += 1;
    fs::create_dir(root.join("an-empty-directory"))?;
    File::create(root.join("README"))?.write_all(b"Written by `syncline demo`.\n")?;
    written.files += 1;
    Ok(written)
}

/// Bytes without a pattern (xorshift).
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| next().to_le_bytes()).take(len.div_ceil(8)).flatten().collect();
    bytes.truncate(len);
    bytes
}
