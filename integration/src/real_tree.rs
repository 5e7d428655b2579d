//! Makes a tree like those that people keep, with the odd things in it that replication tools lose: the same tree for
//! the same seed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::seed::Seed;

/// How much to make.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Regular files; links and special files come on top.
    pub files: u64,
    /// Bytes in them together, about.
    pub bytes: u64,
}

/// Files of one directory, about.
const FILES_PER_DIRECTORY: u64 = 40;
/// One file in so many is large.
const LARGE_ONE_IN: u64 = 200;

/// Makes the tree at `root`, which must not exist. Owners, devices and `trusted.` attributes need root, and are left out without.
pub fn make(root: &Path, amount: Amount, seed: u64) -> io::Result<()> {
    let mut maker = Maker {
        seed: Seed::new(seed),
        directories: vec![root.to_owned()],
        files: Vec::new(),
        mean_bytes: amount.bytes / amount.files.max(1),
        privileged: rustix::process::geteuid().is_root(),
    };
    fs::create_dir(root)?;
    for number in 0..amount.files {
        if number % FILES_PER_DIRECTORY == FILES_PER_DIRECTORY - 1 {
            maker.directory(number)?;
        }
        maker.file(number)?;
        if number % 50 == 7 {
            maker.other_kinds(number)?;
        }
    }
    maker.finish()
}

struct Maker {
    seed: Seed,
    directories: Vec<PathBuf>,
    files: Vec<PathBuf>,
    mean_bytes: u64,
    privileged: bool,
}

impl Maker {
    fn directory(&mut self, number: u64) -> io::Result<()> {
        let parent = self.some_directory();
        // Deep enough to be like a source tree, not so deep that paths get too long for the programs that copy it.
        let parent = if parent.components().count() > self.directories[0].components().count() + 8 {
            self.directories[0].clone()
        } else {
            parent
        };
        let path = parent.join(self.name(number, "d"));
        fs::create_dir(&path)?;
        self.directories.push(path);
        Ok(())
    }

    fn file(&mut self, number: u64) -> io::Result<()> {
        let path = self.some_directory().join(self.name(number, "f"));
        let mut file = File::create_new(&path)?;
        match self.seed.below(100) {
            0..2 => {}
            2..4 => self.sparse(&file)?,
            _ => self.content(&mut file, number)?,
        }
        drop(file);
        let modes = [0o644, 0o600, 0o755, 0o444, 0o640, 0o4755, 0o2755, 0o6711, 0o1644, 0o000];
        let mode = if self.seed.one_in(4) { *self.seed.pick(&modes).unwrap_or(&0o644) } else { 0o644 };
        self.attributes(&path, number)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        self.time(&path)?;
        self.files.push(path);
        Ok(())
    }

    /// Half of the bytes lie in the few large files. Every other file compresses, like text; the rest doesn't, like weights.
    fn content(&mut self, file: &mut File, number: u64) -> io::Result<()> {
        let mean =
            if number.is_multiple_of(LARGE_ONE_IN) { self.mean_bytes * LARGE_ONE_IN / 2 } else { self.mean_bytes / 2 };
        let mut left = self.seed.between(mean / 2, mean * 3 / 2);
        let word = self.seed.bytes(24);
        let mut chunk = vec![0; 1 << 16];
        while left > 0 {
            let len = left.min(chunk.len() as u64) as usize;
            if number.is_multiple_of(2) {
                for piece in chunk[..len].chunks_mut(32) {
                    let (from, to) = (&word[..piece.len().min(24)], piece.len().min(24));
                    piece[..to].copy_from_slice(from);
                    if piece.len() == 32 {
                        piece[24..].copy_from_slice(&left.to_le_bytes());
                    }
                }
            } else {
                self.seed.fill(&mut chunk[..len]);
            }
            file.write_all(&chunk[..len])?;
            left -= len as u64;
        }
        Ok(())
    }

    fn sparse(&mut self, file: &File) -> io::Result<()> {
        let size = self.seed.between(1, 8 << 20);
        file.set_len(size)?;
        for _ in 0..self.seed.below(4) {
            let at = self.seed.below(size);
            let len = self.seed.between(1, 20_000).min(size - at) as usize;
            file.write_all_at(&self.seed.bytes(len), at)?;
        }
        Ok(())
    }

    fn other_kinds(&mut self, number: u64) -> io::Result<()> {
        let directory = self.some_directory();
        let name = self.name(number, "o");
        let path = directory.join(&name);
        match self.seed.below(6) {
            0 | 1 => {
                let targets = ["../somewhere/else", "/absolute/nowhere", "x", "\u{e9}"];
                symlink(self.seed.pick(&targets).unwrap_or(&"x"), &path)?;
            }
            2 => {
                let mut target = vec![b't'; 1023];
                target[500] = 0xfe;
                symlink(OsStr::from_bytes(&target), &path)?;
            }
            3 => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o622), 0)?,
            4 if self.privileged => {
                let device = rustix::fs::makedev(1, 3);
                rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o600), device)?;
            }
            _ => match self.seed.pick(&self.files).cloned() {
                Some(file) => fs::hard_link(file, &path)?,
                None => return Ok(()),
            },
        }
        if self.privileged && self.seed.one_in(2) {
            lchown(&path, Some(self.seed.below(70_000) as u32), Some(100))?;
        }
        self.time(&path)
    }

    fn attributes(&mut self, path: &Path, number: u64) -> io::Result<()> {
        if self.privileged && self.seed.one_in(5) {
            let ids = [0, 1, 1000, 65534, 100_000, 4_000_000_000];
            chown(path, self.seed.pick(&ids).copied(), self.seed.pick(&ids).copied())?;
        }
        if self.seed.one_in(10) {
            let len = self.seed.below(300) as usize;
            let value = self.seed.bytes(len);
            rustix::fs::lsetxattr(path, "user.checksum", &value, XattrFlags::empty())?;
            rustix::fs::lsetxattr(path, "user.empty", b"", XattrFlags::empty())?;
        }
        if self.privileged && number % 37 == 3 {
            rustix::fs::lsetxattr(path, "trusted.origin", b"\0\xff", XattrFlags::empty())?;
        }
        Ok(())
    }

    /// Now and then long ago, before 1970, or in the far future; always with nanoseconds.
    fn time(&mut self, path: &Path) -> io::Result<()> {
        let seconds = match self.seed.below(20) {
            0 => -(self.seed.below(2_000_000_000) as i64),
            1 => self.seed.between(2_500_000_000, 4_000_000_000) as i64,
            _ => self.seed.between(900_000_000, 1_700_000_000) as i64,
        };
        let time = Timespec { tv_sec: seconds, tv_nsec: self.seed.below(1_000_000_000) as i64 };
        let times = Timestamps { last_access: time, last_modification: time };
        Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Every name is different by its number; one in twenty is odd.
    fn name(&mut self, number: u64, kind: &str) -> OsString {
        let plain = format!("{kind}{number}");
        let mut bytes = match self.seed.below(120) {
            0 => format!("with space {plain}").into_bytes(),
            1 => format!("line\nbreak{plain}").into_bytes(),
            2 => [b"not\xffutf8\xc3".as_slice(), plain.as_bytes()].concat(),
            3 => format!("{plain}{}", "n".repeat(255 - plain.len())).into_bytes(),
            4 => format!("-{plain}").into_bytes(),
            5 => format!("quote\"'\\{plain}*?[").into_bytes(),
            _ => format!("{plain}.dat").into_bytes(),
        };
        bytes.truncate(255);
        OsString::from_vec(bytes)
    }

    fn some_directory(&mut self) -> PathBuf {
        self.seed.pick(&self.directories).or(self.directories.first()).cloned().unwrap_or_default()
    }

    /// Modes, owners, attributes and times of directories come last: filling a directory changes its time.
    fn finish(mut self) -> io::Result<()> {
        for path in std::mem::take(&mut self.directories).into_iter().rev() {
            if self.seed.one_in(8) {
                let mode = *self.seed.pick(&[0o700, 0o1777, 0o2775, 0o750]).unwrap_or(&0o755);
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
                rustix::fs::lsetxattr(&path, "user.dir", b"yes", XattrFlags::empty())?;
            }
            self.time(&path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::compare::{Strictness, compare, report};
    use crate::tree::{self, Kind};

    const SMALL: Amount = Amount { files: 1200, bytes: 6 << 20 };

    #[test]
    fn the_same_seed_makes_the_same_tree_and_another_one_another() {
        let dir = tempfile::tempdir().unwrap();
        let made = |name: &str, seed| {
            let path = dir.path().join(name);
            make(&path, SMALL, seed).unwrap();
            path
        };
        let (a, b, c) = (made("a", 1), made("b", 1), made("c", 2));
        let found = compare(&a, &b, Strictness { holes: true, identity: false }).unwrap();
        assert!(found.is_empty(), "{}", report(&found, 20));
        assert!(!compare(&a, &c, Strictness::COPIES).unwrap().is_empty());
    }

    #[test]
    fn the_odd_things_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("t");
        make(&root, Amount { files: 3000, bytes: 30 << 20 }, 3).unwrap();
        let tree = tree::read(&root).unwrap();
        let some = |what: &str, test: &dyn Fn(&Path, &tree::Entry) -> bool| {
            assert!(tree.iter().any(|(path, entry)| test(path, entry)), "no {what}");
        };
        let name = |p: &Path| p.file_name().map(|n| n.as_bytes().to_vec()).unwrap_or_default();
        some("symlink", &|_, e| e.kind == Kind::Symlink);
        some("fifo", &|_, e| e.kind == Kind::Fifo);
        some("hard link", &|_, e| e.kind == Kind::File && e.nlink > 1);
        some("suid", &|_, e| e.mode & 0o4000 != 0);
        some("sticky directory", &|_, e| e.kind == Kind::Directory && e.mode & 0o1000 != 0);
        some("sparse file", &|_, e| e.size > 100_000 && e.data.len() > 1);
        some("time before 1970", &|_, e| e.mtime.0 < 0 && e.mtime.1 > 0);
        some("newline in a name", &|p, _| name(p).contains(&b'\n'));
        some("name that is not UTF-8", &|p, _| p.to_str().is_none());
        some("name of 255 bytes", &|p, _| name(p).len() == 255);
        some("attribute", &|_, e| e.xattrs.contains_key(b"user.checksum".as_slice()));
        some("large file", &|_, e| e.kind == Kind::File && e.content.is_some() && e.size > 400_000);
        let files = tree.values().filter(|e| e.kind == Kind::File).count();
        assert!(files >= 3000, "{files} files");
    }
}
