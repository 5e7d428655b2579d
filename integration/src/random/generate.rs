//! Decides the next call. Pure: the same seed and names give the same call.

use std::path::PathBuf;

use super::call::{Call, Fill, Node, On, Opening, Renaming, SLOTS, Setting, Space, Step, Time};
use super::names::Names;
use crate::seed::Seed;
use crate::tree::Kind;

/// Above so many names, calls that remove some become frequent.
const MANY_NAMES: usize = 80;
/// Bytes that most files stay below; a few writes go beyond, so that files with holes come about.
const USUAL_BYTES: u64 = 40_000;
const FAR_BYTES: u64 = 3 << 20;
/// Not a device that exists.
const DEVICES: [u64; 2] = [0xf003, 0xf1_00fe];
/// Who calls, besides root.
pub const USERS: [u32; 2] = [1001, 1002];

/// What a sequence is made of.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Whether policies are set on directories, which moves later calls to other lanes.
    pub policies: bool,
    /// Whether space is reserved, which makes it the file system's own choice which zeros are holes.
    pub reservations: bool,
}

/// The next call.
pub fn next(seed: &mut Seed, names: &Names, mix: Mix) -> Step {
    let user = if seed.one_in(4) { USERS[seed.below(2) as usize] } else { 0 };
    let call = Chooser { seed, names, mix }.call();
    // To FUSE this is what it is told before a write, too: who may do it can't be asked there.
    let sets_nothing = matches!(call, Call::Chown { uid: None, gid: None, .. });
    Step { user: if sets_nothing { 0 } else { user }, call }
}

struct Chooser<'a> {
    seed: &'a mut Seed,
    names: &'a Names,
    mix: Mix,
}

impl Chooser<'_> {
    fn call(&mut self) -> Call {
        if self.names.len() > MANY_NAMES && self.seed.one_in(2) {
            return self.removal();
        }
        match self.seed.below(100) {
            0..10 => self.open(),
            10..12 => Call::Close { slot: self.slot() },
            12..17 => Call::Mkdir { path: self.new_path(), mode: self.mode() },
            17..20 => self.node(),
            20..23 => Call::Symlink { target: self.target(), path: self.new_path() },
            23..27 => Call::Link { from: self.path(), to: self.new_path() },
            27..32 => self.removal(),
            32..41 => self.rename(),
            41..45 => Call::Chmod { on: self.on_but_links(), mode: self.mode() },
            45..49 => {
                let mut id = || [None, Some(0), Some(USERS[0]), Some(USERS[1])][self.seed.below(4) as usize];
                let (uid, gid) = (id(), id());
                Call::Chown { on: self.on(), uid, gid }
            }
            49..55 => Call::Utimens { on: self.on(), atime: self.time(), mtime: self.time() },
            55..58 => Call::Truncate { slot: self.slot(), size: self.offset() },
            58..60 => Call::TruncateName { path: self.file_path(), size: self.offset() },
            60..69 => Call::WriteAt { slot: self.slot(), offset: self.offset(), fill: self.fill() },
            69..73 => Call::Write { slot: self.slot(), fill: self.fill() },
            73..79 => self.allocate(),
            79..82 => self.copy(),
            82..88 => self.set_xattr(),
            88..91 => Call::RemoveXattr { on: self.on(), name: self.xattr_name() },
            91..93 => Call::Fsync { slot: self.slot(), data_only: self.seed.one_in(2) },
            93..96 => {
                let (slot, offset) = (self.slot(), self.offset());
                Call::ReadAt { slot, offset, len: self.seed.between(1, 100_000) as usize }
            }
            96..97 => Call::List { path: self.directory() },
            97..98 => Call::GetXattr { on: self.on(), name: self.xattr_name() },
            98..99 => Call::ListXattr { on: self.on() },
            _ => Call::ReadLink { path: self.path() },
        }
    }

    fn slot(&mut self) -> usize {
        self.seed.below(SLOTS as u64) as usize
    }

    /// Mostly something that is there.
    fn path(&mut self) -> PathBuf {
        self.path_of(|_| true)
    }

    fn file_path(&mut self) -> PathBuf {
        // Through links too, but not what would wait for somebody else.
        self.path_of(|kind| matches!(kind, Kind::File | Kind::Symlink | Kind::Directory))
    }

    fn path_of(&mut self, wanted: impl Fn(Kind) -> bool) -> PathBuf {
        if self.seed.one_in(12) {
            return self.new_path();
        }
        let there = self.names.of(wanted);
        self.seed.pick(&there).map_or_else(|| self.new_path(), |path| path.to_path_buf())
    }

    fn directory(&mut self) -> PathBuf {
        let directories = self.names.directories();
        self.seed.pick(&directories).map_or_else(PathBuf::new, |path| path.to_path_buf())
    }

    /// A name in a directory that is there, free or not.
    fn new_path(&mut self) -> PathBuf {
        let name = self.name();
        let directory = if self.seed.one_in(30) { self.path_inside() } else { self.directory() };
        if directory.components().count() >= 5 { PathBuf::from(name) } else { directory.join(name) }
    }

    /// Anything as if it were a directory.
    fn path_inside(&mut self) -> PathBuf {
        let there = self.names.of(|_| true);
        self.seed.pick(&there).map_or_else(PathBuf::new, |path| path.to_path_buf())
    }

    fn name(&mut self) -> String {
        match self.seed.below(60) {
            0 => "n".repeat(255),
            1 => "n".repeat(256),
            2 => "with space\nand line, ünïcode 文件".into(),
            3 => "-rf *".into(),
            n => char::from(b'a' + (n % 12) as u8).to_string(),
        }
    }

    fn target(&mut self) -> PathBuf {
        match self.seed.below(10) {
            0 => PathBuf::from("x".repeat(self.seed.between(1, 4095) as usize)),
            1 => PathBuf::from("y".repeat(4096)),
            2 => PathBuf::new(),
            // Names beside the link, so that some lead somewhere.
            _ => PathBuf::from(self.name()),
        }
    }

    fn mode(&mut self) -> u32 {
        let mode = match self.seed.below(3) {
            0 => self.seed.below(0o10000) as u32,
            1 => [0o755, 0o777, 0o1777, 0o2775, 0o4755, 0o6777][self.seed.below(6) as usize],
            _ => [0o644, 0o666, 0o777, 0o600][self.seed.below(4) as usize],
        };
        // Without the group's execute bit, whether a write clears sgid hangs on all groups of the writer, which FUSE does not tell.
        if mode & 0o2000 != 0 { mode | 0o010 } else { mode }
    }

    fn on(&mut self) -> On {
        if self.seed.one_in(4) { On::Slot(self.slot()) } else { On::Path(self.path()) }
    }

    /// `chmod` follows links: not to where it would leave the directory, which no target here does.
    fn on_but_links(&mut self) -> On {
        if self.seed.one_in(4) {
            return On::Slot(self.slot());
        }
        On::Path(self.path_of(|kind| kind != Kind::Symlink))
    }

    fn time(&mut self) -> Time {
        match self.seed.below(6) {
            0 => Time::Now,
            1 => Time::Omit,
            // What ext4 can hold, and never near to the time that the test runs.
            2 => Time::At { seconds: -(self.seed.below(1 << 31) as i64), nanos: self.seed.below(1_000_000_000) as i64 },
            3 => Time::At { seconds: self.seed.between(5 << 30, 14 << 30) as i64, nanos: 999_999_999 },
            4 => Time::At { seconds: self.seed.below(1_400_000_000) as i64, nanos: 0 },
            _ => Time::At {
                seconds: self.seed.below(1_400_000_000) as i64,
                nanos: self.seed.below(1_000_000_000) as i64,
            },
        }
    }

    fn offset(&mut self) -> u64 {
        let offset = if self.seed.one_in(12) { self.seed.below(FAR_BYTES) } else { self.seed.below(USUAL_BYTES) };
        // Half of them where blocks begin: blocks are what holes are made of.
        if self.seed.one_in(2) { offset & !4095 } else { offset }
    }

    fn fill(&mut self) -> Fill {
        let len = match self.seed.below(12) {
            0 => 0,
            1 => 4096,
            2 => self.seed.below(300_000),
            3..6 => self.seed.below(30_000),
            _ => self.seed.below(700),
        };
        Fill { number: self.seed.next_u64() % 1_000_000, len: len as usize }
    }

    fn open(&mut self) -> Call {
        let create = self.seed.one_in(2);
        let path = if create { self.new_path() } else { self.file_path() };
        let mut how = Opening { create, ..Opening::default() };
        (how.read, how.write) = [(true, false), (false, true), (true, true), (true, true)][self.seed.below(4) as usize];
        how.exclusive = create && self.seed.one_in(3);
        how.truncate = how.write && self.seed.one_in(4);
        how.append = self.seed.one_in(6);
        how.synchronous = self.seed.one_in(20);
        Call::Open { slot: self.slot(), path, how, mode: self.mode() }
    }

    fn node(&mut self) -> Call {
        let kinds = [Node::File, Node::Fifo, Node::Fifo, Node::Socket, Node::CharDevice, Node::BlockDevice];
        let node = kinds[self.seed.below(6) as usize];
        let device = match node {
            Node::CharDevice | Node::BlockDevice => DEVICES[self.seed.below(2) as usize],
            _ => 0,
        };
        Call::Mknod { path: self.new_path(), node, mode: self.mode(), device }
    }

    fn removal(&mut self) -> Call {
        // Now and then the wrong one of the two.
        let wrong = self.seed.one_in(15);
        let directory = self.seed.one_in(2);
        let path = self.path_of(|kind| (kind == Kind::Directory) == (directory != wrong));
        if directory { Call::Rmdir { path } } else { Call::Unlink { path } }
    }

    fn rename(&mut self) -> Call {
        let how = match self.seed.below(6) {
            0 => Renaming::NoReplace,
            1 | 2 => Renaming::Exchange,
            _ => Renaming::Replace,
        };
        let from = self.path();
        let taken = how == Renaming::Exchange || self.seed.one_in(2);
        let to = if taken { self.path() } else { self.new_path() };
        Call::Rename { from, to, how }
    }

    fn allocate(&mut self) -> Call {
        let kinds = [Space::Reserve, Space::ReserveBeyond, Space::Punch, Space::Punch, Space::Zero, Space::ZeroBeyond];
        let kinds = if self.mix.reservations { &kinds[..] } else { &kinds[2..] };
        let how = kinds[self.seed.below(kinds.len() as u64) as usize];
        let (slot, offset) = (self.slot(), self.offset());
        let len = if self.seed.one_in(2) { self.seed.between(1, 8) * 4096 } else { self.seed.between(1, 50_000) };
        Call::Allocate { slot, how, offset, len }
    }

    fn copy(&mut self) -> Call {
        let (from, to) = (self.slot(), self.slot());
        let (from_offset, to_offset) = (self.offset(), self.offset());
        // Long ones to the end of a file are copied by the file system below.
        let most = if self.seed.one_in(3) { 200_000 } else { 60_000 };
        Call::Copy { from, from_offset, to, to_offset, len: self.seed.between(1, most) as usize }
    }

    fn set_xattr(&mut self) -> Call {
        if self.mix.policies && self.seed.one_in(4) {
            return self.policy();
        }
        let how = [Setting::Either, Setting::Either, Setting::Create, Setting::Replace][self.seed.below(4) as usize];
        let (on, name) = (self.on(), self.xattr_name());
        let len = if self.seed.one_in(8) { 0 } else { self.seed.between(1, 200) };
        Call::SetXattr { on, name, value: self.seed.bytes(len as usize), how }
    }

    fn policy(&mut self) -> Call {
        let (key, values): (&str, &[&str]) = match self.seed.below(3) {
            0 => ("mode", &["async", "async", "sync"]),
            1 => ("compress", &["auto", "on", "off"]),
            _ => ("priority", &["high", "normal", "bulk"]),
        };
        let (on, name) = (On::Path(self.directory()), format!("user.syncline.{key}"));
        if self.seed.one_in(4) {
            return Call::RemoveXattr { on, name };
        }
        let value = values[self.seed.below(3) as usize].as_bytes().to_vec();
        Call::SetXattr { on, name, value, how: Setting::Either }
    }

    fn xattr_name(&mut self) -> String {
        let space = ["user", "user", "user", "trusted", "security", "unknown"][self.seed.below(6) as usize];
        let name = ["one", "two", "three with space"][self.seed.below(3) as usize];
        match self.seed.below(40) {
            0 => format!("user.{}", "k".repeat(250)),
            1 => format!("user.{}", "k".repeat(251)),
            _ => format!("{space}.{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_calls() {
        let sequence = || {
            let (mut seed, mut names) = (Seed::new(5), Names::default());
            let mut next = || {
                let step = next(&mut seed, &names, Mix { policies: true, reservations: true });
                names.take(&step.call);
                step
            };
            (0..500).map(|_| next()).collect::<Vec<_>>()
        };
        assert_eq!(sequence(), sequence());
    }
}
