//! Types of the volume as types of fuser, and back.
//!
//! Nothing here may panic on a value that came from a peer, the disk or the kernel: what has no counterpart becomes the
//! nearest value that has.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileHandle, FileType, Generation, INodeNo, Request};
use proto::ids::FileId;
use proto::record::{Kind, Time};

use crate::error::FsError;
use crate::tree::entry::KindTag;
use crate::types::{Attr, Caller, HandleId};

/// How long the kernel may keep names, missing names and attributes. Any long time would do, since whatever changes
/// without the kernel's doing is invalidated; a day bounds the damage should one invalidation be missed.
pub const TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Inode numbers are never used twice, so that no generation is needed to tell two uses apart.
pub const GENERATION: Generation = Generation(0);

/// The block size that `stat` recommends for reads and writes, in bytes.
const BLOCK_BYTES: u32 = 4096;
const NANOS_MAX: u32 = 999_999_999;

/// The inode number as the kernel knows it.
pub fn ino(file: FileId) -> INodeNo {
    INodeNo(file.0)
}

/// The file that the kernel means.
pub fn file(ino: INodeNo) -> FileId {
    FileId(ino.0)
}

/// Who asks.
pub fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid() }
}

/// The volume's handle of an open file.
pub fn handle(handle: FileHandle) -> HandleId {
    OpenHandle::decode(handle).handle
}

/// Attributes as the kernel takes them.
pub fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: ino(attr.file),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.btime),
        kind: file_type(KindTag::from(&attr.kind)),
        perm: (attr.perms.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.perms.uid,
        gid: attr.perms.gid,
        rdev: match attr.kind {
            Kind::CharDevice(device) | Kind::BlockDevice(device) => kernel_device(device),
            _ => 0,
        },
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// Attributes of nothing: inode 0 in an entry reply means "no such name", and unlike ENOENT it may be kept.
pub fn no_entry() -> FileAttr {
    bare_attr(FileId(0), FileType::RegularFile)
}

/// Attributes that say no more than number and type.
pub fn bare_attr(file: FileId, kind: FileType) -> FileAttr {
    FileAttr {
        ino: ino(file),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// The type without what belongs to it.
pub fn file_type(kind: KindTag) -> FileType {
    match kind {
        KindTag::Regular => FileType::RegularFile,
        KindTag::Directory => FileType::Directory,
        KindTag::Symlink => FileType::Symlink,
        KindTag::Fifo => FileType::NamedPipe,
        KindTag::Socket => FileType::Socket,
        KindTag::CharDevice => FileType::CharDevice,
        KindTag::BlockDevice => FileType::BlockDevice,
    }
}

/// What mknod shall make, from the type bits of its mode; `None` for bits that name no such kind.
pub fn node_kind(mode: u32, kernel_device: u32) -> Option<Kind> {
    use rustix::fs::FileType as Type;
    match Type::from_raw_mode(mode) {
        Type::RegularFile => Some(Kind::Regular),
        Type::Fifo => Some(Kind::Fifo),
        Type::Socket => Some(Kind::Socket),
        Type::CharacterDevice => Some(Kind::CharDevice(device(kernel_device))),
        Type::BlockDevice => Some(Kind::BlockDevice(device(kernel_device))),
        _ => None,
    }
}

/// A device number as programs see it, from the 32 bits that the kernel sends: 12 of major, 20 of minor.
pub fn device(kernel: u32) -> u64 {
    rustix::fs::makedev((kernel >> 8) & 0xfff, (kernel & 0xff) | ((kernel >> 12) & 0xf_ff00))
}

/// The kernel's 32 bits of a device number. Bits that the kernel has no room for are dropped, as by its own encoder.
pub fn kernel_device(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

/// A time for fuser, which sends it on to the kernel exactly.
pub fn system_time(time: Time) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos.min(NANOS_MAX)));
    let secs = Duration::from_secs(time.secs.unsigned_abs());
    let whole = if time.secs < 0 { UNIX_EPOCH.checked_sub(secs) } else { UNIX_EPOCH.checked_add(secs) };
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

/// A time that fuser made of what the kernel sent.
///
/// The kernel's `secs + nanos` before 1970 arrives as `epoch - (|secs| + nanos)`: fuser 0.18 subtracts the nanoseconds
/// too. This undoes it; setting such a time on a mount shows whether fuser still does.
pub fn time_from_request(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Time { secs: i64::try_from(after.as_secs()).unwrap_or(i64::MAX), nanos: after.subsec_nanos() },
        Err(error) => {
            let before = error.duration();
            Time { secs: 0i64.saturating_sub_unsigned(before.as_secs()), nanos: before.subsec_nanos() }
        }
    }
}

/// What the program gets for the error.
pub fn errno(error: &FsError) -> Errno {
    Errno::from_i32(error.errno().raw_os_error())
}

/// An open file as the kernel names it: the volume's handle, and what the open said that a later write must know.
///
/// ```text
/// bit 63  opened with O_APPEND      bit 62  opened with O_SYNC or O_DSYNC      bits 0..62  HandleId
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenHandle {
    /// The volume's handle.
    pub handle: HandleId,
    /// The volume writes at the end, whatever the offset.
    pub append: bool,
    /// The volume makes each write durable.
    pub sync: bool,
}

impl OpenHandle {
    const APPEND: u64 = 1 << 63;
    const SYNC: u64 = 1 << 62;

    /// As a number for the kernel.
    pub fn encode(self) -> FileHandle {
        debug_assert_eq!(self.handle.0 & (Self::APPEND | Self::SYNC), 0, "handles are counted from 0");
        let append = if self.append { Self::APPEND } else { 0 };
        let sync = if self.sync { Self::SYNC } else { 0 };
        FileHandle(self.handle.0 | append | sync)
    }

    /// From the kernel's number.
    pub fn decode(handle: FileHandle) -> Self {
        Self {
            handle: HandleId(handle.0 & !(Self::APPEND | Self::SYNC)),
            append: handle.0 & Self::APPEND != 0,
            sync: handle.0 & Self::SYNC != 0,
        }
    }
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
