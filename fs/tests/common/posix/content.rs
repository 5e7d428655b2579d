//! Calls on open files.

use std::collections::BTreeSet;
use std::sync::Arc;

use fs::types::{Allocate, OpenFlags, Whence};
use proto::record::Kind;
use rustix::io::Errno;

use super::{Answer, Fd, Ino, Open, Posix, without_suid};

const PAGE: u64 = 4096;
const CAPABILITIES: &[u8] = b"security.capability";

/// The pages of a file that may hold data.
#[derive(Clone, Default, Debug)]
pub struct Pages(pub BTreeSet<u64>);

impl Pages {
    fn write(&mut self, from: u64, to: u64) {
        self.0.extend(from / PAGE..to.div_ceil(PAGE));
    }

    /// A reserved page that the end was in is filled with zeros.
    fn end_moved(&mut self, end: u64) {
        self.0.extend(Some(end / PAGE).filter(|_| !end.is_multiple_of(PAGE)));
    }

    /// Only whole pages become holes; the last of the file where the file system below does so.
    fn punch(&mut self, from: u64, to: u64) {
        self.0.retain(|page| !(from.div_ceil(PAGE)..to / PAGE).contains(page));
    }
}

impl Posix {
    pub fn open(&mut self, fd: Fd, ino: Ino, flags: OpenFlags) -> Answer {
        match self.node(ino)?.kind {
            Kind::Regular => {}
            Kind::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::OPNOTSUPP),
        }
        if flags.truncate {
            self.resize(ino, 0, false)?;
        }
        self.opens.insert(fd, Open { ino, flags });
        Ok(())
    }

    pub fn release(&mut self, fd: Fd) -> Answer {
        self.open_file(fd)?;
        self.opens.remove(&fd);
        Ok(())
    }

    /// `flush` and `fsync` change nothing.
    pub fn sync(&self, fd: Fd) -> Answer {
        self.open_file(fd).map(drop)
    }

    pub fn read(&self, fd: Fd, offset: u64, len: u32) -> Answer<Vec<u8>> {
        let open = self.open_file(fd)?;
        if !open.flags.read {
            return Err(Errno::BADF);
        }
        let data = &self.node(open.ino)?.data;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
        Ok(data[from..data.len().min(from + len as usize)].to_vec())
    }

    pub fn write(&mut self, fd: Fd, offset: u64, bytes: &[u8], kill: bool) -> Answer<u32> {
        let open = self.open_file(fd)?;
        if !open.flags.write {
            return Err(Errno::BADF);
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        let size = self.size(open.ino);
        let at = if open.flags.append { size } else { offset };
        let end = check_end(at.checked_add(bytes.len() as u64))?;
        self.modified(open.ino, kill)?;
        let node = self.node_mut(open.ino)?;
        node.pages.end_moved(size);
        node.pages.write(at, end);
        let data = Arc::make_mut(&mut node.data);
        data.resize(data.len().max(end as usize), 0);
        data[at as usize..end as usize].copy_from_slice(bytes);
        Ok(bytes.len() as u32)
    }

    pub fn resize(&mut self, ino: Ino, size: u64, kill: bool) -> Answer {
        check_end(Some(size))?;
        match self.node(ino)?.kind {
            Kind::Regular => {}
            Kind::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        self.modified(ino, kill)?;
        let node = self.node_mut(ino)?;
        node.pages.end_moved(node.data.len() as u64);
        node.pages.0.retain(|page| page * PAGE < size);
        node.pages.end_moved(size);
        Arc::make_mut(&mut node.data).resize(size as usize, 0);
        Ok(())
    }

    pub fn allocate(&mut self, fd: Fd, offset: u64, len: u64, how: Allocate, kill: bool) -> Answer {
        let open = self.open_file(fd)?;
        if !open.flags.write {
            return Err(Errno::BADF);
        }
        let end = check_end(offset.checked_add(len))?;
        if len == 0 {
            return Err(Errno::INVAL);
        }
        let size = self.size(open.ino);
        // Also where no byte changes.
        self.modified(open.ino, kill)?;
        let node = self.node_mut(open.ino)?;
        if matches!(how, Allocate::Reserve { .. }) {
            // The file system below may come to show what is reserved as data.
            node.pages.write(offset, end);
        } else if offset < size {
            node.pages.punch(offset, end.min(size));
            Arc::make_mut(&mut node.data)[offset as usize..end.min(size) as usize].fill(0);
        }
        match how {
            Allocate::Reserve { keep_size: false } | Allocate::Zero { keep_size: false } if end > size => {
                self.resize(open.ino, end, kill)
            }
            _ => Ok(()),
        }
    }

    /// As `memmove`, if both are one file.
    pub fn copy(&mut self, (from, at): (Fd, u64), (to, to_at): (Fd, u64), len: u64, kill: bool) -> Answer<u64> {
        if !self.open_file(to)?.flags.write {
            return Err(Errno::BADF);
        }
        let bytes = self.read(from, at, len as u32)?;
        if bytes.is_empty() {
            return Ok(0);
        }
        self.write(to, to_at, &bytes, kill).map(u64::from)
    }

    /// Whether `lseek` may answer this. Where there is data nobody but the file system below knows; but what reads as other than zeros
    /// is data, and what was never written, or punched, is a hole.
    pub fn check_seek(&self, fd: Fd, offset: u64, whence: Whence, got: Answer<u64>) -> Result<(), String> {
        let open = match self.open_file(fd) {
            Err(error) => return if got == Err(error) { Ok(()) } else { Err(format!("instead of {error}")) },
            Ok(open) => open,
        };
        let node = &self.nodes[&open.ino];
        let size = node.data.len() as u64;
        let zeros = |from: u64, to: u64| node.data[from as usize..to as usize].iter().all(|byte| *byte == 0);
        let is_right = match (whence, got) {
            (_, Err(Errno::NXIO)) if offset >= size => true,
            (Whence::Data, Err(Errno::NXIO)) => zeros(offset, size),
            (_, Err(_)) => false,
            (Whence::Data, Ok(at)) => {
                (offset..size).contains(&at) && zeros(offset, at) && node.pages.0.contains(&(at / PAGE))
            }
            (Whence::Hole, Ok(at)) => {
                let in_hole = at == size || zeros(at, size.min((at / PAGE + 1) * PAGE));
                let passed = if at > offset { offset / PAGE..at.div_ceil(PAGE) } else { 0..0 };
                let all_data = passed.into_iter().all(|page| node.pages.0.contains(&page));
                (offset..=size).contains(&at) && offset < size && in_hole && all_data
            }
        };
        if is_right { Ok(()) } else { Err(format!("of {size} bytes with data at most in pages {:?}", node.pages.0)) }
    }

    /// Content was changed.
    fn modified(&mut self, ino: Ino, kill: bool) -> Answer {
        self.drop_capabilities(ino)?;
        let now = self.now;
        let node = self.node_mut(ino)?;
        (node.mtime, node.ctime) = (now, now);
        if kill {
            node.perms.mode = without_suid(node.perms.mode);
        }
        Ok(())
    }

    /// Whether there were any.
    pub(super) fn drop_capabilities(&mut self, ino: Ino) -> Answer<bool> {
        let had = self.node_mut(ino)?.xattrs.remove(CAPABILITIES).is_some();
        if had {
            self.touch(ino)?;
        }
        Ok(had)
    }

    pub(super) fn clear_suid(&mut self, ino: Ino) -> Answer {
        let node = self.node_mut(ino)?;
        let mode = without_suid(node.perms.mode);
        if node.is_dir() || mode == node.perms.mode {
            return Ok(());
        }
        node.perms.mode = mode;
        self.touch(ino)
    }
}

fn check_end(end: Option<u64>) -> Answer<u64> {
    end.filter(|end| *end <= i64::MAX as u64).ok_or(Errno::FBIG)
}
