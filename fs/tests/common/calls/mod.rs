//! Calls of programs, as values: made at random, shown, and made again with some of them left out. What a call names by number and is not
//! there is not called.

pub mod case;
pub mod check;
pub mod generate;
pub mod perform;

use std::fmt;

use fs::types::{Allocate, Caller, OpenFlags, RenameMode, SetAttr, Whence, XattrMode};
use proto::record::Kind;

use super::posix::{Fd, Ino, Posix};

/// A name or a value.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(pub Vec<u8>);

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            0..60 => write!(f, "\"{}\"", self.0.escape_ascii()),
            len => write!(f, "\"{}…\" ({len} bytes)", self.0[..8].escape_ascii()),
        }
    }
}

/// So many bytes that depend on the seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fill {
    pub len: u32,
    pub seed: u8,
}

impl Fill {
    pub fn bytes(self) -> Vec<u8> {
        (0..self.len).map(|at| (at as u8).wrapping_mul(self.seed | 1) ^ (at >> 8) as u8 ^ self.seed).collect()
    }
}

#[derive(Clone, Debug)]
pub enum Call {
    Make { new: Ino, by: Caller, dir: Ino, name: Text, kind: Kind, mode: u32 },
    Create { new: Ino, fd: Fd, by: Caller, dir: Ino, name: Text, mode: u32, flags: OpenFlags },
    Link { ino: Ino, dir: Ino, name: Text },
    Unlink { dir: Ino, name: Text },
    Rmdir { dir: Ino, name: Text },
    Rename { dir: Ino, name: Text, to: Ino, new_name: Text, mode: RenameMode },
    Lookup { dir: Ino, name: Text },
    List { dir: Ino },
    Readlink { ino: Ino },
    Remember { ino: Ino },
    Forget { ino: Ino },
    SetAttr { by: Caller, ino: Ino, set: SetAttr },
    SetXattr { ino: Ino, name: Text, value: Text, mode: XattrMode },
    GetXattr { ino: Ino, name: Text },
    RemoveXattr { ino: Ino, name: Text },
    Open { fd: Fd, ino: Ino, flags: OpenFlags },
    Release { fd: Fd },
    Flush { fd: Fd },
    Fsync { fd: Fd },
    FsyncDir { dir: Ino },
    Read { fd: Fd, offset: u64, len: u32 },
    Write { fd: Fd, offset: u64, fill: Fill, kill_suid: bool },
    Allocate { fd: Fd, offset: u64, len: u64, how: Allocate, kill_suid: bool },
    Seek { fd: Fd, offset: u64, whence: Whence },
    Copy { from: Fd, at: u64, to: Fd, to_at: u64, len: u64, kill_suid: bool },
    StatFs,
}

impl Call {
    /// Whether all that it names by number is there. Where only an open descriptor is missing the call is made, and fails.
    pub fn can_be_made(&self, model: &Posix) -> bool {
        let is = |ino: &Ino| model.nodes.contains_key(ino);
        match self {
            Call::Make { dir, .. }
            | Call::Create { dir, .. }
            | Call::Unlink { dir, .. }
            | Call::Rmdir { dir, .. }
            | Call::Lookup { dir, .. }
            | Call::FsyncDir { dir }
            | Call::List { dir } => is(dir),
            Call::Link { ino, dir, .. } => is(ino) && is(dir),
            Call::Rename { dir, to, .. } => is(dir) && is(to),
            Call::Forget { ino } => model.nodes.get(ino).is_some_and(|node| node.lookups > 0),
            Call::Readlink { ino }
            | Call::Remember { ino }
            | Call::SetAttr { ino, .. }
            | Call::SetXattr { ino, .. }
            | Call::GetXattr { ino, .. }
            | Call::RemoveXattr { ino, .. }
            | Call::Open { ino, .. } => is(ino),
            _ => true,
        }
    }
}
