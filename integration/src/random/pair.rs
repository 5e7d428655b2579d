//! One sequence in a mount and on plain ext4: both must answer the same and show the same.
//!
//! What may differ: inode and device numbers, blocks, sizes of directories, access times that reading sets, and which moment "now" was.

use std::path::Path;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::answer::{Answer, Runner};
use super::call::{Call, Step, Time};
use crate::compare::{self, Strictness};
use crate::tree::{self, Tree};

/// Seconds between which a time counts as set by a clock.
const NOW: std::ops::Range<i64> = 1_500_000_000..4_000_000_000;

/// The two sides.
pub struct Pair {
    mount: Runner,
    plain: Runner,
}

/// What stat said of the things that a call is about.
type Looks = Vec<(String, Result<Stat, Errno>)>;

impl Pair {
    /// In these directories, which are equal.
    pub fn new(mount: &Path, plain: &Path) -> Self {
        Self { mount: Runner::new(mount), plain: Runner::new(plain) }
    }

    /// Closes all files at both.
    pub fn close_all(&mut self) {
        self.mount.close_all();
        self.plain.close_all();
    }

    /// Makes the call at both. Says what differs, else whether it succeeded.
    pub fn run(&mut self, step: &Step) -> Result<bool, String> {
        let before = (self.mount.look(&step.call), self.plain.look(&step.call));
        let (mount, plain) = (self.mount.run(step), self.plain.run(step));
        if mount != plain {
            return Err(format!("{step}\n  mount: {mount:.200?}\n  ext4: {plain:.200?}"));
        }
        let after = (self.mount.look(&step.call), self.plain.look(&step.call));
        let done = mount.is_ok();
        for index in 0..after.0.len() {
            let show = |before: &Looks, after: &Looks| shown(&step.call, done, &before[index], &after[index]);
            let (mount, plain) = (show(&before.0, &after.0), show(&before.1, &after.1));
            if mount != plain {
                let what = &after.0[index].0;
                return Err(format!("{step}\n  at {what:?} after it\n  mount: {mount}\n  ext4: {plain}"));
            }
        }
        Ok(matches!(mount, Ok(Answer::Done | Answer::Count(_))))
    }

    /// Says in what the trees differ.
    pub fn compare(&self) -> Result<(), String> {
        let read = |runner: &Runner| tree::read(runner.root()).map(without_now).map_err(|error| error.to_string());
        let found = compare::differences(&read(&self.mount)?, &read(&self.plain)?, Strictness::COPIES);
        if found.is_empty() {
            return Ok(());
        }
        Err(format!("mount (left) and ext4 (right) differ:\n{}", compare::report(&found, 20)))
    }
}

/// What must be equal, as text.
fn shown(
    call: &Call,
    done: bool,
    before: &(String, Result<Stat, Errno>),
    after: &(String, Result<Stat, Errno>),
) -> String {
    let stat = match &after.1 {
        Ok(stat) => stat,
        Err(error) => return format!("{error:?}"),
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mut text = format!("{kind:?} mode {:04o} owner {}:{}", stat.st_mode & 0o7777, stat.st_uid, stat.st_gid);
    text += &format!(" links {} mtime {:?}", stat.st_nlink, moment(stat.st_mtime, stat.st_mtime_nsec as i64));
    if kind != FileType::Directory {
        text += &format!(" size {} device {:#x}", stat.st_size, stat.st_rdev);
    }
    // Only what was set just now: reading sets it at ext4.
    let itself = after.0.starts_with("slot") || call.paths().iter().any(|path| path.display().to_string() == after.0);
    if matches!(call, Call::Utimens { atime, .. } if *atime != Time::Omit) && itself && done {
        text += &format!(" atime {:?}", moment(stat.st_atime, stat.st_atime_nsec as i64));
    }
    // The same thing as before: whether it counts as changed. Not a file just opened: ext4 uses inode numbers again.
    // Nor an attribute set to what it is: that changes nothing at ext4.
    let opened = matches!(call, Call::Open { .. }) && after.0.starts_with("slot");
    let skipped = opened || matches!(call, Call::SetXattr { .. });
    if let Ok(before) = &before.1
        && !skipped
        && before.st_ino == stat.st_ino
    {
        let change = |stat: &Stat| (stat.st_ctime, stat.st_ctime_nsec);
        text += &format!(" changed {}", change(before) != change(stat));
    }
    text
}

fn moment(seconds: i64, nanos: i64) -> Option<(i64, i64)> {
    (!NOW.contains(&seconds)).then_some((seconds, nanos))
}

fn without_now(mut tree: Tree) -> Tree {
    for entry in tree.values_mut() {
        entry.mtime = moment(entry.mtime.0, entry.mtime.1).unwrap_or((NOW.start, 0));
    }
    tree
}
