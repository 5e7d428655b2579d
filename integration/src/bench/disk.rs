//! A fresh ext4 with a journal, in a file on a loop device.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::FallocateFlags;

use crate::outcome::OrFail;
use crate::reaper::{self, Debris};
use crate::site::{succeed, unmount_dead};

/// A mounted image. Dropping it unmounts and removes it.
pub struct Disk {
    image: PathBuf,
    mountpoint: PathBuf,
}

impl Disk {
    /// Makes and mounts `name` below `directory`. All blocks are allocated beforehand, so that the file system below doesn't
    /// do that in the timed part.
    ///
    /// # Panics
    /// Without root, `mkfs.ext4` or room.
    pub fn make(directory: &Path, name: &str, bytes: u64) -> Self {
        let (image, mountpoint) = (directory.join(format!("{name}.img")), directory.join(format!("{name}.mnt")));
        let file = File::create_new(&image).or_fail(format_args!("cannot make {}", image.display()));
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes)
            .or_fail(format_args!("no room for {bytes} bytes in {}", directory.display()));
        std::fs::create_dir(&mountpoint).or_fail(format_args!("cannot make {}", mountpoint.display()));
        // The kernel must not initialise in the background what is measured in the foreground.
        let options = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        succeed(Command::new("mkfs.ext4").args(options).arg(&image));
        reaper::note(Debris::Mount(&mountpoint));
        succeed(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mountpoint));
        Self { image, mountpoint }
    }

    /// A directory on it.
    pub fn directory(&self, name: &str) -> PathBuf {
        self.mountpoint.join(name)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount_dead(&self.mountpoint);
        reaper::forget(Debris::Mount(&self.mountpoint));
        // What can't be removed goes with the directory.
        let _ = std::fs::remove_file(&self.image);
        let _ = std::fs::remove_dir(&self.mountpoint);
    }
}

/// Empties the kernel's caches of data, names and inodes, after writing out what is dirty. False without the right to.
pub fn drop_caches() -> bool {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

/// Touches this much memory: what a virtual machine has not touched for long is slow the first time.
pub fn touch_memory(bytes: u64) {
    let memory = vec![1u8; bytes as usize];
    std::hint::black_box(&memory);
}
