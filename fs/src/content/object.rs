//! One regular file's content.
//!
//! An [`Object`] is the open file, and a lock over what the volume keeps about the content while it is in use. The operations
//! don't take the lock: whoever needs several of them, or one together with a record, to look like one step holds it across them.
//! Readers share it, changers have it alone.
//!
//! Every operation is exact: interrupted and short calls are continued, so that it did all it says or returns an error.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use proto::ids::FileId;
use proto::record::Time;
use rustix::fs::{self, FallocateFlags, SeekFrom};
use rustix::io::{Errno, retry_on_intr};

use super::holes;

/// Not in libc for every target.
const F_SETSIG: libc::c_int = 10;

/// One file's content, with state `S` that is lost when the object leaves the table: a cache, nothing else.
#[derive(Debug)]
pub struct Object<S = ()> {
    file: FileId,
    handle: Arc<File>,
    state: RwLock<S>,
}

/// What the file system below says about an object, at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Its length in bytes.
    pub len: u64,
    /// What it occupies, in units of 512 bytes.
    pub blocks: u64,
    /// When it last changed, by anybody: daemon, passthrough or mapping.
    pub change_time: Time,
}

impl<S> Object<S> {
    /// The content of `file`, in `handle`, open for reading and writing.
    pub fn new(file: FileId, handle: File, state: S) -> Self {
        Self { file, handle: Arc::new(handle), state: RwLock::new(state) }
    }

    /// Whose content it is.
    pub fn file(&self) -> FileId {
        self.file
    }

    /// The open file, for passthrough and for marks of [`super::dirty::DirtyObjects`].
    pub fn handle(&self) -> &Arc<File> {
        &self.handle
    }

    /// Locks for looking; shared with other readers.
    pub fn read(&self) -> RwLockReadGuard<'_, S> {
        self.state.read()
    }

    /// Locks for changing; alone.
    pub fn write(&self) -> RwLockWriteGuard<'_, S> {
        self.state.write()
    }

    /// Reads until `buf` is full or the object ends. How many bytes.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        read_at(&self.handle, offset, buf)
    }

    /// Reads up to `len` bytes; fewer at the end of the object.
    pub fn read_up_to(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let read = self.read_at(offset, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Fills `buf`; fails with `UnexpectedEof` where the object ends before.
    pub fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.handle.read_exact_at(buf, offset)
    }

    /// Writes all of `bytes`. After an error any part of them may be there.
    pub fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.handle.write_all_at(bytes, offset)
    }

    /// Cuts or, with a hole, extends.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::ftruncate(&self.handle, len))?)
    }

    /// Makes it one hole of this length. It is never shorter meanwhile: a program that has it mapped would get SIGBUS.
    pub fn empty(&self, len: u64) -> io::Result<()> {
        let old = self.len()?;
        if len < old {
            self.set_len(len)?;
        }
        self.punch(0, old.min(len))?;
        if len > old { self.set_len(len) } else { Ok(()) }
    }

    /// Whether the object is open nowhere but in this handle; a mapping counts, also one whose descriptor is closed.
    ///
    /// The system grants a lease for writing to the only one who has a file open; it is given back at once. Who opens the file in between waits that long.
    pub fn is_open_here_only(&self) -> io::Result<bool> {
        let fd = self.handle.as_raw_fd();
        let control = |command, argument: libc::c_int| {
            // SAFETY: the descriptor is open; these commands take a number and no memory.
            let done = unsafe { libc::fcntl(fd, command, argument) };
            if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        };
        // Who breaks the lease raises this signal here, which nobody notices, and not SIGIO, which would end the process.
        control(F_SETSIG, libc::SIGURG)?;
        match control(libc::F_SETLEASE, libc::F_WRLCK) {
            Ok(()) => control(libc::F_SETLEASE, libc::F_UNLCK).map(|()| true),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the file system is known to raise the change time with each store of a mapping into a page that was written back. Those in memory write none
    /// back; others raise it later.
    pub fn tells_of_stores(&self) -> io::Result<bool> {
        const EXT4: i64 = 0xef53;
        const XFS: i64 = 0x5846_5342;
        const BTRFS: i64 = 0x9123_683e;
        const F2FS: i64 = 0xf2f5_2010;
        let kind = fs::fstatfs(&self.handle)?.f_type as i64;
        Ok([EXT4, XFS, BTRFS, F2FS].contains(&kind))
    }

    /// Makes a hole, within the object's length.
    pub fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        // One that reaches the end frees the last block whole. ext4 does so only if it ends behind the end of the file; no file system below has
        // longer blocks.
        const MAX_BLOCK_BYTES: u64 = 64 << 10;
        let mut end = offset.saturating_add(len);
        if len > 0 && end >= self.len()? {
            end = end.checked_next_multiple_of(MAX_BLOCK_BYTES).filter(|end| *end <= i64::MAX as u64).unwrap_or(end);
        }
        Ok(self.fallocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, end - offset)?)
    }

    /// Reserves room, so that later writes there find it. Extends the object unless `keep_size`. Bytes don't change.
    pub fn allocate(&self, offset: u64, len: u64, keep_size: bool) -> io::Result<()> {
        Ok(self.fallocate(size_flag(keep_size), offset, len)?)
    }

    /// Makes the bytes zero, with their room kept where the file system below can (otherwise a hole). Extends the object unless
    /// `keep_size`.
    pub fn zero_range(&self, offset: u64, len: u64, keep_size: bool) -> io::Result<()> {
        match self.fallocate(FallocateFlags::ZERO_RANGE | size_flag(keep_size), offset, len) {
            Err(Errno::OPNOTSUPP) => self.zero_by_punching(offset, len, keep_size),
            other => Ok(other?),
        }
    }

    /// The first byte of data at or after `offset`; `None` if only a hole or nothing follows.
    pub fn seek_data(&self, offset: u64) -> io::Result<Option<u64>> {
        holes::seek(&self.handle, SeekFrom::Data(offset))
    }

    /// The first byte at or after `offset` that is in a hole; the end counts as one. `None` if `offset` is not before the end.
    pub fn seek_hole(&self, offset: u64) -> io::Result<Option<u64>> {
        holes::seek(&self.handle, SeekFrom::Hole(offset))
    }

    /// Copies `len` bytes, fewer where `from` ends. How many. Within one object the ranges must not overlap (`EINVAL`).
    pub fn copy_range(&self, offset: u64, from: &Self, from_offset: u64, len: u64) -> io::Result<u64> {
        if self.file == from.file && offset.abs_diff(from_offset) < len {
            return Err(Errno::INVAL.into());
        }
        holes::copy_range(&from.handle, from_offset, &self.handle, offset, len)
    }

    /// Length, blocks and change time, as of one moment.
    pub fn stat(&self) -> io::Result<Stat> {
        let stat = fs::fstat(&self.handle)?;
        Ok(Stat {
            len: u64::try_from(stat.st_size).unwrap_or_default(),
            blocks: u64::try_from(stat.st_blocks).unwrap_or_default(),
            change_time: Time { secs: stat.st_ctime, nanos: u32::try_from(stat.st_ctime_nsec).unwrap_or_default() },
        })
    }

    /// Length in bytes.
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.stat()?.len)
    }

    /// Whether the length is zero.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// What it occupies, in units of 512 bytes.
    pub fn blocks(&self) -> io::Result<u64> {
        Ok(self.stat()?.blocks)
    }

    /// When it last changed, by anybody.
    pub fn change_time(&self) -> io::Result<Time> {
        Ok(self.stat()?.change_time)
    }

    fn zero_by_punching(&self, offset: u64, len: u64, keep_size: bool) -> io::Result<()> {
        self.punch(offset, len)?;
        let end = offset.saturating_add(len);
        if !keep_size && end > self.len()? {
            self.set_len(end)?;
        }
        Ok(())
    }

    /// No bytes is no work: the system call would refuse it.
    fn fallocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> Result<(), Errno> {
        if len == 0 {
            return Ok(());
        }
        retry_on_intr(|| fs::fallocate(&self.handle, flags, offset, len))
    }
}

/// Reads until `buf` is full or the file ends. How many bytes.
pub(super) fn read_at(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn size_flag(keep_size: bool) -> FallocateFlags {
    if keep_size { FallocateFlags::KEEP_SIZE } else { FallocateFlags::empty() }
}

#[cfg(test)]
#[path = "object_tests.rs"]
mod tests;
