//! One method per kind of request: its arguments become a call of the volume, the result becomes the answer.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use proto::record::Kind;

use super::adapter::{Adapter, answer_created, answer_entry};
use super::answer::{answer_attr, answer_statfs, answer_written, answer_xattr, refusal};
use super::attributes;
use super::convert::{self, GENERATION, OpenHandle, TTL, caller, file, file_attr, handle};
use super::data::{self, WriteHow};
use super::open_mode::Access;
use super::session::negotiate;
use crate::error::FsError;
use crate::types::RenameMode;
use crate::volume::Volume;

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        if !negotiate(config) {
            self.opener.files.disable_passthrough();
        }
        Ok(())
    }

    // -- names --

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.volume.lookup(file(parent), name.as_bytes()) {
            Err(FsError::NotFound) => reply.entry(&TTL, &convert::no_entry(), GENERATION),
            result => answer_entry(&self.volume, result, reply),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, nlookup: u64) {
        self.volume.forget(file(ino), nlookup);
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, rdev: u32, reply: ReplyEntry) {
        let Some(kind) = convert::node_kind(mode, rdev) else { return reply.error(Errno::EINVAL) };
        let (caller, name) = (caller(req), name.as_bytes().to_vec());
        self.make(parent, reply, move |volume| volume.create(caller, file(parent), &name, kind, mode & 0o7777));
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let (caller, name, kind) = (caller(req), name.as_bytes().to_vec(), Kind::Directory);
        self.make(parent, reply, move |volume| volume.create(caller, file(parent), &name, kind, mode & 0o7777));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let kind = Kind::Symlink(Bytes::copy_from_slice(target.as_os_str().as_bytes()));
        let (caller, name) = (caller(req), name.as_bytes().to_vec());
        self.make(parent, reply, move |volume| volume.create(caller, file(parent), &name, kind, 0o777));
    }

    fn link(&self, _: &Request, ino: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        let name = new_name.as_bytes().to_vec();
        self.perform([new_parent, ino], move |on| {
            answer_entry(&on.volume, on.volume.link(file(ino), file(new_parent), &name), reply);
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.change([parent], reply, move |volume| volume.unlink(file(parent), &name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.change([parent], reply, move |volume| volume.rmdir(file(parent), &name));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            flags if flags.is_empty() => RenameMode::Replace,
            RenameFlags::RENAME_NOREPLACE => RenameMode::NoReplace,
            RenameFlags::RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return reply.error(Errno::EINVAL),
        };
        let (name, new_name) = (name.as_bytes().to_vec(), new_name.as_bytes().to_vec());
        self.change([parent, new_parent], reply, move |volume| {
            volume.rename(file(parent), &name, file(new_parent), &new_name, mode)
        });
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.volume.readlink(file(ino)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(refusal(&error)),
        }
    }

    // -- directories --

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(self.directories.open(), FopenFlags::empty());
    }

    fn readdir(&self, _: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listing = match self.listing(ino, fh, offset) {
            Ok(listing) => listing,
            Err(error) => return reply.error(refusal(&error)),
        };
        for line in listing.lines(offset) {
            let kind = line.kind.map_or(FileType::Directory, convert::file_type);
            if reply.add(convert::ino(line.file), line.next_offset, kind, OsStr::from_bytes(line.name)) {
                break;
            }
        }
        reply.ok();
    }

    /// Each line is looked up again: the kernel believes for a long time that its name means this inode, and the listing may be old.
    fn readdirplus(&self, _: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let listing = match self.listing(ino, fh, offset) {
            Ok(listing) => listing,
            Err(error) => return reply.error(refusal(&error)),
        };
        for (index, line) in listing.lines(offset).enumerate() {
            let is_entry = line.kind.is_some();
            let attr = match is_entry.then(|| self.volume.lookup(listing.dir, line.name)) {
                None => convert::bare_attr(line.file, FileType::Directory),
                Some(Ok(attr)) => file_attr(&attr),
                Some(Err(FsError::NotFound)) => continue,
                Some(Err(error)) if index == 0 => return reply.error(refusal(&error)),
                // The lines before are answered; the error comes with the next request.
                Some(Err(_)) => break,
            };
            if reply.add(attr.ino, line.next_offset, OsStr::from_bytes(line.name), &TTL, &attr, GENERATION) {
                break;
            }
            if is_entry {
                self.volume.remember(file(attr.ino));
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.directories.release(fh);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.answer_later(reply, move |volume| volume.fsyncdir(file(ino)));
    }

    // -- attributes --

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer_attr(self.volume.getattr(file(ino)), reply);
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = attributes::set_attr(mode, (uid, gid), size, atime, mtime);
        let caller = caller(req);
        self.perform([ino], move |on| answer_attr(on.volume.setattr(caller, file(ino), set), reply));
    }

    fn setxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, _: u32, reply: ReplyEmpty) {
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        self.change([ino], reply, move |volume| {
            attributes::xattr_allowed(&name)?;
            volume.setxattr(file(ino), &name, &value, attributes::xattr_mode(flags)?)
        });
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes();
        let result = attributes::xattr_allowed(name)
            .and_then(|()| self.volume.getxattr(file(ino), name))
            .map_err(|error| attributes::xattr_missing(name, error))
            .and_then(|value| attributes::xattr_answer(value, size));
        answer_xattr(result, reply);
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let shown = |names: Vec<Bytes>| attributes::xattr_names(&attributes::xattrs_shown(names, caller(req)));
        let names = self.volume.listxattr(file(ino)).map(shown);
        answer_xattr(names.and_then(|names| attributes::xattr_answer(names, size)), reply);
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.change([ino], reply, move |volume| {
            attributes::xattr_allowed(&name)?;
            volume.removexattr(file(ino), &name)
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        answer_statfs(self.volume.statfs(), reply);
    }

    // -- files --

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (file, opener) = (file(ino), self.opener.clone());
        let reads_all = data::access(flags.0) == Access::ReadWrite && opener.files.is_passed_through(file);
        let open = move || match opener.open_file(file, flags.0, |object| reply.open_backing(object)) {
            Ok((open, admitted)) => match &admitted.backing {
                Some(backing) => reply.opened_passthrough(open.encode(), admitted.flags, backing),
                None => reply.opened(open.encode(), admitted.flags),
            },
            Err(error) => reply.error(refusal(&error)),
        };
        if reads_all { self.waits.run(open) } else { open() }
    }

    fn create(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, flags: i32, reply: ReplyCreate) {
        let (caller, name) = (caller(req), name.as_bytes().to_vec());
        self.perform([parent], move |on| {
            let made =
                on.create_file(caller, file(parent), &name, mode & 0o7777, flags, |object| reply.open_backing(object));
            answer_created(&on.volume, made, data::exclusive(flags), reply);
        });
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.read_for(owner, file(ino), handle(fh), offset, size, reply);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (file, open, how) = (file(ino), OpenHandle::decode(fh), WriteHow::new(write_flags, flags.0));
        if !(open.sync || how.sync) {
            return answer_written(data::write(&self.volume, file, open, offset, data, how), reply);
        }
        let (volume, data) = (self.volume.clone(), data.to_vec());
        self.waits.run(move || answer_written(data::write(&volume, file, open, offset, &data, how), reply));
    }

    fn flush(&self, _: &Request, _: INodeNo, fh: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.answer_later(reply, move |volume| volume.flush(handle(fh)));
    }

    fn fsync(&self, _: &Request, _: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        self.answer_later(reply, move |volume| volume.fsync(handle(fh)));
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.opener.files.release(file(ino));
        self.answer_later(reply, move |volume| volume.release(handle(fh)));
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let kill_suid = request.uid() != 0;
        self.change([ino], reply, move |volume| {
            volume.fallocate(handle(fh), offset, length, data::allocate(mode)?, kill_suid)
        });
    }

    fn lseek(&self, _: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let (file, opener) = (file(ino), self.opener.clone());
        let writes_back = opener.files.is_cached(file);
        let seek = move || {
            let found = data::whence(whence).and_then(|whence| {
                let offset = u64::try_from(offset).map_err(|_| FsError::BeyondEnd)?;
                let found = data::seek(&opener.volume, writes_back.then_some(file), handle(fh), offset, whence)?;
                i64::try_from(found).map_err(|_| FsError::BeyondEnd)
            });
            match found {
                Ok(offset) => reply.offset(offset),
                Err(error) => reply.error(refusal(&error)),
            }
        };
        if writes_back { self.waits.run(seek) } else { seek() }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (len, kill_suid) = (len.min(data::COPY_MAX_BYTES), request.uid() != 0);
        let copy = move |volume: &Volume| {
            let copied = volume.copy_range(handle(fh_in), offset_in, handle(fh_out), offset_out, len, kill_suid);
            answer_written(copied.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX)), reply);
        };
        if !OpenHandle::decode(fh_out).sync {
            return copy(&self.volume);
        }
        let volume = self.volume.clone();
        self.waits.run(move || copy(&volume));
    }

    // -- not offered; fuser would warn at each --

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }
}
