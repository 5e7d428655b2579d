//! Random calls, among few names and inodes, so that they meet.

use fs::types::{Allocate, Caller, OpenFlags, RenameMode, SetAttr, SetTime, Whence, XattrMode};
use proto::record::{Kind, Time};

use super::{Call, Fill, Text};
use crate::common::Rng;
use crate::common::posix::attributes::{COMPUTED, POLICIES};
use crate::common::posix::{Fd, Ino, Posix};

const NAMES: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b"a name with \xff and \n"];
const CALLERS: [Caller; 3] = [Caller { uid: 0, gid: 0 }, Caller { uid: 0, gid: 0 }, Caller { uid: 1000, gid: 100 }];
const XATTRS: [&[u8]; 6] =
    [b"user.a", b"user.b", b"trusted.t", b"security.capability", b"system.posix_acl_access", b"nonsense"];

/// Of the root; it stays.
pub const TIMEOUT: &[u8] = b"user.syncline.timeout";

pub struct Generator {
    pub rng: Rng,
    /// No write is longer.
    pub max_write: u64,
    next: u32,
}

impl Generator {
    pub fn new(rng: Rng, max_write: u64) -> Self {
        Self { rng, max_write, next: 0 }
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        self.rng.pick(items).expect("something to pick").clone()
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn name(&mut self) -> Text {
        Text(match self.rng.below(120) {
            0 => b".".to_vec(),
            1 => b"a/b".to_vec(),
            2 => vec![b'n'; 255],
            3 => vec![b'n'; 256],
            _ => self.pick(&NAMES).to_vec(),
        })
    }

    /// Mostly one that is there.
    fn name_in(&mut self, model: &Posix, dir: Ino) -> Text {
        let names: Vec<&Vec<u8>> = model.nodes[&dir].names.keys().collect();
        if names.is_empty() || self.rng.one_in(8) { self.name() } else { Text(self.pick(&names).clone()) }
    }

    fn dir(&mut self, model: &Posix) -> Ino {
        let all: Vec<Ino> = model.nodes.keys().copied().collect();
        let dirs: Vec<Ino> = all.iter().copied().filter(|ino| model.nodes[ino].is_dir()).collect();
        if self.rng.one_in(40) { self.pick(&all) } else { self.pick(&dirs) }
    }

    fn any(&mut self, model: &Posix) -> Ino {
        let all: Vec<Ino> = model.nodes.keys().copied().collect();
        self.pick(&all)
    }

    fn regular(&mut self, model: &Posix) -> Ino {
        let is_regular = |ino: &Ino| model.nodes[ino].kind == Kind::Regular;
        let regular: Vec<Ino> = model.nodes.keys().copied().filter(is_regular).collect();
        if regular.is_empty() || self.rng.one_in(30) { self.any(model) } else { self.pick(&regular) }
    }

    fn fd(&mut self, model: &Posix) -> Fd {
        let fds: Vec<Fd> = model.opens.keys().copied().collect();
        if fds.is_empty() || self.rng.one_in(60) { Fd(u32::MAX) } else { self.pick(&fds) }
    }

    fn flags(&mut self) -> OpenFlags {
        let (read, write) = self.pick(&[(true, true), (true, true), (true, true), (true, false), (false, true)]);
        let (append, truncate) = (self.rng.one_in(5), self.rng.one_in(6));
        OpenFlags { read, write, append, truncate, sync: self.rng.one_in(12) }
    }

    /// Within the file, at its ends, at those of pages, or beyond.
    fn offset(&mut self, model: &Posix, fd: Fd) -> u64 {
        let size = model.opens.get(&fd).map_or(0, |open| model.size(open.ino));
        match self.rng.below(40) {
            // Where not a byte can be written.
            0 => i64::MAX as u64,
            1..6 => 0,
            6..16 => size,
            16..28 => self.rng.below(size + 1),
            28..34 => self.rng.below(size / 4096 + 2) * 4096,
            _ => size + self.rng.below(3 * self.max_write),
        }
    }

    fn len(&mut self) -> u64 {
        match self.rng.below(12) {
            0 => 0,
            1..6 => 1 + self.rng.below(200),
            6..9 => 4096 * (1 + self.rng.below(4)).min(self.max_write / 4096),
            _ => 1 + self.rng.below(self.max_write),
        }
    }

    fn kind(&mut self) -> Kind {
        match self.rng.below(24) {
            0..9 => Kind::Directory,
            9..12 => Kind::Symlink(b"over/there"[..].into()),
            12 => Kind::Symlink(vec![b's'; 4094 + self.rng.below(3) as usize].into()),
            13 => Kind::Symlink(bytes::Bytes::new()),
            14 => Kind::Fifo,
            15 => Kind::Socket,
            16 => Kind::CharDevice(0x103),
            17 => Kind::BlockDevice(0x801),
            _ => Kind::Regular,
        }
    }

    fn set_attr(&mut self, model: &Posix, ino: Ino) -> SetAttr {
        let size = model.size(ino);
        let mut time = || match self.rng.below(6) {
            0 => Some(SetTime::Now),
            1 => {
                let secs = self.rng.below(6_000_000_000) as i64 - 2_000_000_000;
                Some(SetTime::At(Time { secs, nanos: self.rng.below(1_000_000_000) as u32 }))
            }
            _ => None,
        };
        let (atime, mtime) = (time(), time());
        let mut set = SetAttr { atime, mtime, ..SetAttr::default() };
        if self.rng.one_in(3) {
            set.mode = Some(self.rng.below(0o10000) as u32);
        }
        if self.rng.one_in(4) {
            set.uid = Some(self.rng.below(3) as u32);
        }
        if self.rng.one_in(4) {
            set.gid = Some(self.rng.below(3) as u32);
        }
        if self.rng.one_in(3) {
            set.size = Some(match self.rng.below(20) {
                0 => i64::MAX as u64 + 1,
                1..6 => 0,
                6..9 => size,
                9..15 => self.rng.below(size + 1),
                _ => size + self.rng.below(2 * self.max_write),
            });
        }
        set
    }

    fn xattr(&mut self, model: &Posix, ino: Ino) -> (Text, Text) {
        let len = if self.rng.one_in(30) { 65_535 + self.rng.below(3) } else { self.rng.below(100) };
        let mut value = self.rng.bytes(len as usize);
        let name = match self.rng.below(40) {
            0 => self.pick(&COMPUTED).to_vec(),
            1 => b"user.syncline.nonsense".to_vec(),
            2 => [&b"user."[..], &[b'x'; 251]].concat(),
            3 => [&b"user."[..], &[b'x'; 250]].concat(),
            4..12 => {
                let policy = self.pick(&POLICIES);
                value = self.pick(&policy[1..]).to_vec();
                policy[0].to_vec()
            }
            12..22 if !model.nodes[&ino].xattrs.is_empty() => {
                // Nobody ever waits long for other sites.
                let names = model.nodes[&ino].xattrs.keys().filter(|name| *name != TIMEOUT);
                let names: Vec<&Vec<u8>> = names.collect();
                self.rng.pick(&names).map_or(b"user.a".to_vec(), |name| name.to_vec())
            }
            _ => self.pick(&XATTRS).to_vec(),
        };
        (Text(name), Text(value))
    }

    pub fn call(&mut self, model: &Posix) -> Call {
        let by = self.pick(&CALLERS);
        let kill_suid = self.rng.one_in(3);
        match self.rng.below(200) {
            0..16 => {
                let (dir, kind, mode) = (self.dir(model), self.kind(), self.rng.below(0o10000) as u32);
                Call::Make { new: Ino(self.number()), by, dir, name: self.name(), kind, mode }
            }
            16..34 => {
                let (dir, mode, flags) = (self.dir(model), self.rng.below(0o10000) as u32, self.flags());
                let (new, fd) = (Ino(self.number()), Fd(self.next));
                Call::Create { new, fd, by, dir, name: self.name(), mode, flags }
            }
            34..40 => Call::Link { ino: self.any(model), dir: self.dir(model), name: self.name() },
            40..48 => {
                let dir = self.dir(model);
                Call::Unlink { dir, name: self.name_in(model, dir) }
            }
            48..53 => {
                let dir = self.dir(model);
                Call::Rmdir { dir, name: self.name_in(model, dir) }
            }
            53..70 => {
                let modes = [RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
                let (dir, to, mode) = (self.dir(model), self.dir(model), self.pick(&modes));
                let (name, to_old) = (self.name_in(model, dir), self.rng.one_in(2));
                let new_name = if to_old { self.name_in(model, to) } else { self.name() };
                Call::Rename { dir, name, to, new_name, mode }
            }
            70..74 => {
                let dir = self.dir(model);
                Call::Lookup { dir, name: self.name_in(model, dir) }
            }
            74..76 => Call::List { dir: self.dir(model) },
            76..78 => Call::Readlink { ino: self.any(model) },
            78..81 => Call::Remember { ino: self.any(model) },
            81..83 => Call::Forget { ino: self.any(model) },
            83..100 => {
                let ino = if self.rng.one_in(2) { self.regular(model) } else { self.any(model) };
                Call::SetAttr { by, ino, set: self.set_attr(model, ino) }
            }
            100..111 => {
                let ino = if self.rng.one_in(2) { self.regular(model) } else { self.any(model) };
                let mode = self.pick(&[XattrMode::Set, XattrMode::Set, XattrMode::Create, XattrMode::Replace]);
                let (name, value) = self.xattr(model, ino);
                Call::SetXattr { ino, name, value, mode }
            }
            111..115 => {
                let ino = self.any(model);
                Call::RemoveXattr { ino, name: self.xattr(model, ino).0 }
            }
            115..117 => {
                let ino = self.any(model);
                Call::GetXattr { ino, name: self.xattr(model, ino).0 }
            }
            117..130 => Call::Open { fd: Fd(self.number()), ino: self.regular(model), flags: self.flags() },
            130..138 => Call::Release { fd: self.fd(model) },
            138..140 => Call::Flush { fd: self.fd(model) },
            140..142 => Call::Fsync { fd: self.fd(model) },
            142 => Call::FsyncDir { dir: self.dir(model) },
            143 => Call::StatFs,
            144..148 => {
                let fd = self.fd(model);
                let offset = self.offset(model, fd).min(1 << 40);
                Call::Read { fd, offset, len: self.len() as u32 }
            }
            148..177 => {
                let fd = self.fd(model);
                let fill = Fill { len: self.len() as u32, seed: self.rng.next() as u8 };
                Call::Write { fd, offset: self.offset(model, fd), fill, kill_suid }
            }
            177..187 => {
                let fd = self.fd(model);
                let keep_size = self.rng.one_in(2);
                let how = self.pick(&[
                    Allocate::Punch,
                    Allocate::Punch,
                    Allocate::Zero { keep_size },
                    Allocate::Reserve { keep_size },
                ]);
                Call::Allocate { fd, offset: self.offset(model, fd), len: self.len(), how, kill_suid }
            }
            187..194 => {
                let (fd, whence) = (self.fd(model), self.pick(&[Whence::Data, Whence::Hole]));
                Call::Seek { fd, offset: self.offset(model, fd), whence }
            }
            _ => {
                let (from, to) = (self.fd(model), self.fd(model));
                let (at, to_at) = (self.offset(model, from).min(1 << 40), self.offset(model, to));
                Call::Copy { from, at, to, to_at, len: self.len(), kill_suid }
            }
        }
    }
}
