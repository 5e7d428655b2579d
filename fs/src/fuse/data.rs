//! Opens, writes and ranges: what the numbers of a request mean.

use fuser::WriteFlags;
use proto::ids::FileId;
use rustix::fs::{FallocateFlags, OFlags};

use super::convert::OpenHandle;
use super::open_mode::Access;
use crate::error::FsError;
use crate::types::{Allocate, HandleId, Invalidation, OpenFlags, Whence};
use crate::volume::Volume;

/// O_DSYNC, which O_SYNC contains. rustix takes the one for the other.
const DSYNC: OFlags = OFlags::from_bits_retain(0o10_000);

/// The answer counts copied bytes in 32 bits; whole pages, so that a copy in parts stays aligned.
pub const COPY_MAX_BYTES: u64 = 0xffff_f000;

/// Writes as the request says.
///
/// A write goes to the end or to its offset by the flags of this write, not of the open: F_SETFL changes O_APPEND, and the kernel
/// writes back a page that a mapping made dirty through any writable handle of the inode, which must never append. Where
/// the handle can't do it, one opened for this write does; both cases are rare.
pub fn write(
    volume: &Volume,
    file: FileId,
    open: OpenHandle,
    offset: u64,
    data: &[u8],
    how: WriteHow,
) -> Result<u32, FsError> {
    if how.append == open.append {
        let written = volume.write(open.handle, offset, data, how.kill_suid)?;
        if how.sync && !open.sync {
            volume.fsync(open.handle)?;
        }
        return Ok(written);
    }
    let flags = OpenFlags {
        read: false,
        write: true,
        append: how.append,
        truncate: false,
        sync: how.sync || (open.sync && !how.write_back),
    };
    let other = volume.open(file, flags)?;
    let written = volume.write(other, offset, data, how.kill_suid);
    let released = volume.release(other);
    written.and_then(|written| released.map(|()| written))
}

/// What a write request says besides offset and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteHow {
    /// To the end, whatever the offset.
    pub append: bool,
    /// Durable when it returns.
    pub sync: bool,
    /// The writer may not keep suid and sgid.
    pub kill_suid: bool,
    /// A page that a mapping made dirty, not a program's write.
    pub write_back: bool,
}

impl WriteHow {
    /// From the request; the open flags are as they are now.
    pub fn new(write: WriteFlags, open: i32) -> Self {
        let open = OFlags::from_bits_retain(open.cast_unsigned());
        let write_back = write.contains(WriteFlags::FUSE_WRITE_CACHE);
        Self {
            append: open.contains(OFlags::APPEND) && !write_back,
            sync: open.contains(DSYNC) && !write_back,
            kill_suid: write.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
            write_back,
        }
    }
}

/// What an open's flags ask for.
pub fn open_flags(flags: i32) -> OpenFlags {
    let flags = OFlags::from_bits_retain(flags.cast_unsigned());
    let access = access(flags.bits().cast_signed());
    OpenFlags {
        read: access != Access::Write,
        write: access != Access::Read,
        append: flags.contains(OFlags::APPEND),
        truncate: flags.contains(OFlags::TRUNC),
        sync: flags.contains(DSYNC),
    }
}

/// Whether an open reads, writes or both.
pub fn access(flags: i32) -> Access {
    match OFlags::from_bits_retain(flags.cast_unsigned()) & OFlags::RWMODE {
        OFlags::RDONLY => Access::Read,
        OFlags::WRONLY => Access::Write,
        _ => Access::ReadWrite,
    }
}

/// Whether an open that creates insists on it.
pub fn exclusive(flags: i32) -> bool {
    OFlags::from_bits_retain(flags.cast_unsigned()).contains(OFlags::EXCL)
}

/// What fallocate's mode means.
pub fn allocate(mode: i32) -> Result<Allocate, FsError> {
    let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
    let keep_size = mode.contains(FallocateFlags::KEEP_SIZE);
    match mode - FallocateFlags::KEEP_SIZE {
        rest if rest.is_empty() => Ok(Allocate::Reserve { keep_size }),
        FallocateFlags::PUNCH_HOLE if keep_size => Ok(Allocate::Punch),
        FallocateFlags::ZERO_RANGE => Ok(Allocate::Zero { keep_size }),
        _ => Err(FsError::NotSupported("this mode of fallocate")),
    }
}

/// Looks for data or a hole. Of a `cached` file the kernel may have pages in which a mapping has stored something, and does not write them back before it
/// asks: so the hole that would be the answer is first taken from its cache, which writes back what is there. Waits for that.
pub fn seek(
    volume: &Volume,
    cached: Option<FileId>,
    handle: HandleId,
    offset: u64,
    whence: Whence,
) -> Result<u64, FsError> {
    let found = volume.seek(handle, offset, whence);
    let Some(file) = cached else { return found };
    let size = volume.getattr(file)?.size;
    let hole = match (whence, &found) {
        (Whence::Data, Ok(data)) => offset..*data,
        (Whence::Data, Err(FsError::BeyondEnd)) => offset..size,
        (Whence::Hole, Ok(hole)) => *hole..volume.seek(handle, *hole, Whence::Data).unwrap_or(size),
        _ => return found,
    };
    if hole.is_empty() {
        return found;
    }
    volume.invalidate(&[Invalidation::Content { file, offset: hole.start, len: hole.end - hole.start }]);
    volume.seek(handle, offset, whence)
}

/// What lseek looks for; the kernel does the other kinds itself.
pub fn whence(whence: i32) -> Result<Whence, FsError> {
    const SEEK_DATA: i32 = 3;
    const SEEK_HOLE: i32 = 4;
    match whence {
        SEEK_DATA => Ok(Whence::Data),
        SEEK_HOLE => Ok(Whence::Hole),
        _ => Err(FsError::Invalid("unknown kind of seek")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const O_WRONLY: i32 = 1;
    const O_RDWR: i32 = 2;
    const O_EXCL: i32 = 0o200;
    const O_TRUNC: i32 = 0o1000;
    const O_APPEND: i32 = 0o2000;
    const O_DSYNC: i32 = 0o10_000;
    const O_SYNC: i32 = 0o4_010_000;

    #[test]
    fn open_flags_are_told_apart() {
        let none = OpenFlags { read: false, write: false, append: false, truncate: false, sync: false };
        assert_eq!(open_flags(0), OpenFlags { read: true, ..none });
        assert_eq!(open_flags(O_WRONLY), OpenFlags { write: true, ..none });
        assert_eq!(open_flags(O_RDWR), OpenFlags { read: true, write: true, ..none });
        assert_eq!(open_flags(O_WRONLY | O_APPEND), OpenFlags { write: true, append: true, ..none });
        assert_eq!(open_flags(O_WRONLY | O_TRUNC), OpenFlags { write: true, truncate: true, ..none });
        assert_eq!(open_flags(O_WRONLY | O_SYNC), OpenFlags { write: true, sync: true, ..none });
        assert_eq!(open_flags(O_WRONLY | O_DSYNC), OpenFlags { write: true, sync: true, ..none });
        assert!(exclusive(O_RDWR | O_EXCL) && !exclusive(O_RDWR));
    }

    #[test]
    fn a_page_that_is_written_back_never_appends() {
        let back = WriteHow::new(WriteFlags::FUSE_WRITE_CACHE, O_APPEND | O_SYNC);
        assert_eq!(back, WriteHow { append: false, sync: false, kill_suid: false, write_back: true });
        let write = WriteHow::new(WriteFlags::FUSE_WRITE_KILL_SUIDGID, O_WRONLY | O_APPEND | O_DSYNC);
        assert_eq!(write, WriteHow { append: true, sync: true, kill_suid: true, write_back: false });
    }

    #[test]
    fn fallocate_modes() {
        let (keep, punch, collapse, zero, insert, unshare) = (1, 2, 8, 16, 32, 64);
        assert_eq!(allocate(0).ok(), Some(Allocate::Reserve { keep_size: false }));
        assert_eq!(allocate(keep).ok(), Some(Allocate::Reserve { keep_size: true }));
        assert_eq!(allocate(keep | punch).ok(), Some(Allocate::Punch));
        assert_eq!(allocate(zero).ok(), Some(Allocate::Zero { keep_size: false }));
        assert_eq!(allocate(zero | keep).ok(), Some(Allocate::Zero { keep_size: true }));
        for bad in [punch, collapse, insert, unshare, zero | punch | keep, -1] {
            assert!(matches!(allocate(bad), Err(FsError::NotSupported(_))), "{bad}");
        }
    }

    #[test]
    fn seeks() {
        assert_eq!(whence(3).ok(), Some(Whence::Data));
        assert_eq!(whence(4).ok(), Some(Whence::Hole));
        assert!(whence(0).is_err());
    }
}
