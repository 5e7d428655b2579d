//! What the operations take and answer.

use proto::ids::FileId;
use proto::name::Name;
use proto::record::{Kind, Perms, Time};

use crate::tree::entry::KindTag;

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// An inode's attributes, as `stat` shows them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attr {
    /// Inode number.
    pub file: FileId,
    /// Kind, with device number or symlink target.
    pub kind: Kind,
    /// Permissions and owner.
    pub perms: Perms,
    /// Link count.
    pub nlink: u32,
    /// Bytes.
    pub size: u64,
    /// Blocks of 512 bytes that it takes on the disk.
    pub blocks: u64,
    /// Access time.
    pub atime: Time,
    /// Modification time.
    pub mtime: Time,
    /// Change time.
    pub ctime: Time,
    /// Birth time.
    pub btime: Time,
}

/// One line of a directory's listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// The name.
    pub name: Name,
    /// The inode.
    pub file: FileId,
    /// Its kind.
    pub kind: KindTag,
}

/// An open file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HandleId(pub u64);

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenFlags {
    /// Reads allowed.
    pub read: bool,
    /// Writes allowed.
    pub write: bool,
    /// Each write goes to the end.
    pub append: bool,
    /// Emptied by the open.
    pub truncate: bool,
    /// O_SYNC or O_DSYNC: each write is durable when it returns.
    pub sync: bool,
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// Now.
    Now,
    /// This.
    At(Time),
}

/// What `setattr` changes; `None` stays.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SetAttr {
    /// Permission bits (07777).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
}

/// What `rename` does with what stands at the new name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameMode {
    /// Overwrites it.
    Replace,
    /// Fails with EEXIST.
    NoReplace,
    /// Both change places.
    Exchange,
}

/// What `setxattr` expects to find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XattrMode {
    /// Anything.
    Set,
    /// Nothing (EEXIST).
    Create,
    /// A value (ENODATA).
    Replace,
}

/// What `fallocate` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allocate {
    /// Reserves, and grows the file unless `keep_size`.
    Reserve {
        /// The size stays.
        keep_size: bool,
    },
    /// Makes a hole; the size stays.
    Punch,
    /// Makes the range read as zeros, and grows the file unless `keep_size`.
    Zero {
        /// The size stays.
        keep_size: bool,
    },
}

/// What `lseek` looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whence {
    /// SEEK_DATA
    Data,
    /// SEEK_HOLE
    Hole,
}

/// What `statfs` shows, in units of `block_bytes`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatFs {
    /// Block size in bytes.
    pub block_bytes: u32,
    /// All blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Free blocks for unprivileged users.
    pub available: u64,
    /// All inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
}

/// What the kernel must forget after replay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Invalidation {
    /// A name in a directory (also one known not to be there).
    Entry {
        /// The directory.
        parent: FileId,
        /// The name.
        name: Name,
    },
    /// An inode's attributes.
    Attr {
        /// The inode.
        file: FileId,
    },
    /// An inode's attributes and a range of its content; `len` 0 is up to the end.
    Content {
        /// The inode.
        file: FileId,
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
}
