//! One system call with its arguments.

use std::fmt;
use std::path::PathBuf;

/// How many descriptors a sequence keeps open at most.
pub const SLOTS: usize = 5;

/// A call and who makes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// User and group; 0 may do everything.
    pub user: u32,
    /// What is called.
    pub call: Call,
}

/// What a call is about: a name (links are not followed) or an open file.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum On {
    Path(PathBuf),
    Slot(usize),
}

/// Bytes to write: a pattern that a number decides, so that a printed sequence stays readable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Fill {
    pub number: u64,
    pub len: usize,
}

/// A time for `utimensat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Time {
    Now,
    Omit,
    At { seconds: i64, nanos: i64 },
}

/// What `mknod` makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Node {
    File,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)]
pub struct Opening {
    pub read: bool,
    pub write: bool,
    pub create: bool,
    pub exclusive: bool,
    pub truncate: bool,
    pub append: bool,
    pub synchronous: bool,
}

/// What `rename` does about a name that is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Renaming {
    Replace,
    NoReplace,
    Exchange,
}

/// What `fallocate` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Space {
    Reserve,
    ReserveBeyond,
    Punch,
    Zero,
    ZeroBeyond,
}

/// Whether an attribute must be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Setting {
    Either,
    Create,
    Replace,
}

/// A system call; paths are below the directory that the sequence runs in.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Call {
    /// Opens a file into a slot; what was there is closed. Links are followed only if it is not to be made.
    Open {
        slot: usize,
        path: PathBuf,
        how: Opening,
        mode: u32,
    },
    Close {
        slot: usize,
    },
    Mkdir {
        path: PathBuf,
        mode: u32,
    },
    Mknod {
        path: PathBuf,
        node: Node,
        mode: u32,
        device: u64,
    },
    Symlink {
        target: PathBuf,
        path: PathBuf,
    },
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    Unlink {
        path: PathBuf,
    },
    Rmdir {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
        how: Renaming,
    },
    Chmod {
        on: On,
        mode: u32,
    },
    Chown {
        on: On,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    Utimens {
        on: On,
        atime: Time,
        mtime: Time,
    },
    Truncate {
        slot: usize,
        size: u64,
    },
    /// `truncate` of a name, as a program without that call does it: open, `ftruncate`, close.
    TruncateName {
        path: PathBuf,
        size: u64,
    },
    /// `pwrite`.
    WriteAt {
        slot: usize,
        offset: u64,
        fill: Fill,
    },
    /// `write`.
    Write {
        slot: usize,
        fill: Fill,
    },
    Allocate {
        slot: usize,
        how: Space,
        offset: u64,
        len: u64,
    },
    Copy {
        from: usize,
        from_offset: u64,
        to: usize,
        to_offset: u64,
        len: usize,
    },
    SetXattr {
        on: On,
        name: String,
        value: Vec<u8>,
        how: Setting,
    },
    RemoveXattr {
        on: On,
        name: String,
    },
    Fsync {
        slot: usize,
        data_only: bool,
    },
    ReadAt {
        slot: usize,
        offset: u64,
        len: usize,
    },
    List {
        path: PathBuf,
    },
    GetXattr {
        on: On,
        name: String,
    },
    ListXattr {
        on: On,
    },
    ReadLink {
        path: PathBuf,
    },
}

impl Call {
    /// Names that the call is about.
    pub fn paths(&self) -> Vec<&PathBuf> {
        match self {
            Self::Link { from, to } | Self::Rename { from, to, .. } => vec![from, to],
            Self::Open { path, .. }
            | Self::Mkdir { path, .. }
            | Self::Mknod { path, .. }
            | Self::Symlink { path, .. }
            | Self::Unlink { path }
            | Self::Rmdir { path }
            | Self::TruncateName { path, .. }
            | Self::List { path }
            | Self::ReadLink { path } => vec![path],
            _ => match self.on() {
                Some(On::Path(path)) => vec![path],
                Some(On::Slot(_)) | None => Vec::new(),
            },
        }
    }

    /// What the call is on that may be a name or an open file.
    fn on(&self) -> Option<&On> {
        match self {
            Self::Chmod { on, .. }
            | Self::Chown { on, .. }
            | Self::Utimens { on, .. }
            | Self::SetXattr { on, .. }
            | Self::RemoveXattr { on, .. }
            | Self::GetXattr { on, .. }
            | Self::ListXattr { on } => Some(on),
            _ => None,
        }
    }

    /// Open files that the call is about.
    pub fn slots(&self) -> Vec<usize> {
        match self {
            Self::Copy { from, to, .. } => vec![*from, *to],
            Self::Open { slot, .. }
            | Self::Truncate { slot, .. }
            | Self::WriteAt { slot, .. }
            | Self::Write { slot, .. }
            | Self::Allocate { slot, .. }
            | Self::Fsync { slot, .. }
            | Self::ReadAt { slot, .. } => vec![*slot],
            _ => match self.on() {
                Some(On::Slot(slot)) => vec![*slot],
                Some(On::Path(_)) | None => Vec::new(),
            },
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>4} {:?}", self.user, self.call)
    }
}
