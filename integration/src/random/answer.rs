//! Runs calls below a directory, and what a program sees of them: the answer, and what stat says of all that the call was about.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, SeekFrom, Stat, Timespec, Timestamps,
    UTIME_NOW, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::call::{Call, Fill, Node, On, Opening, Renaming, SLOTS, Setting, Space, Step, Time};
use crate::outcome::OrFail;
use crate::seed::Seed;
use crate::tree;

/// Attributes that a mount takes on directories only; ext4 would take them on anything, so nobody asks for that.
const POLICIES: &str = "user.syncline.";

/// What a call answered.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Answer {
    Done,
    Count(usize),
    /// Length and hash of what was read.
    Bytes(usize, u128),
    Value(Vec<u8>),
    /// Sorted.
    Names(Vec<Vec<u8>>),
}

/// Runs steps below a directory and holds the files that they opened.
pub struct Runner {
    root: PathBuf,
    slots: [Option<OwnedFd>; SLOTS],
}

impl Runner {
    /// Nothing is open yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), slots: Default::default() }
    }

    /// Where it works.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Closes all files.
    pub fn close_all(&mut self) {
        self.slots = Default::default();
    }

    /// Makes the call as its user.
    pub fn run(&mut self, step: &Step) -> Result<Answer, Errno> {
        if step.user == 0 {
            return self.call(&step.call);
        }
        become_user(step.user).or_fail(format_args!("cannot become user {}", step.user));
        let answer = self.call(&step.call);
        become_root().or_fail("cannot become root again");
        answer
    }

    /// What stat says of the names, the directories that they are in, and the open files that the call is about.
    pub fn look(&self, call: &Call) -> Vec<(String, Result<Stat, Errno>)> {
        let mut seen = Vec::new();
        for path in call.paths() {
            for path in [Some(path.as_path()), path.parent()].into_iter().flatten() {
                let stat = rustix::fs::lstat(self.path(path));
                seen.push((format!("{}", path.display()), stat));
            }
        }
        for slot in call.slots() {
            let stat = self.slot(slot).and_then(rustix::fs::fstat);
            seen.push((format!("slot {slot}"), stat));
        }
        seen
    }

    fn path(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    fn is_directory(&self, path: &Path) -> bool {
        let stat = rustix::fs::lstat(self.path(path));
        stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    fn slot(&self, slot: usize) -> Result<&OwnedFd, Errno> {
        self.slots[slot].as_ref().ok_or(Errno::BADF)
    }

    fn call(&mut self, call: &Call) -> Result<Answer, Errno> {
        match call {
            Call::Open { slot, path, how, mode } => {
                // Closed first: with a file left open, ext4 and a mount would not be in the same state.
                self.slots[*slot] = None;
                self.slots[*slot] = Some(open(&self.path(path), *how, *mode)?);
            }
            Call::Close { slot } => drop(self.slots[*slot].take()),
            Call::TruncateName { path, size } => {
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                rustix::fs::ftruncate(rustix::fs::open(self.path(path), flags, Mode::empty())?, *size)?;
            }
            Call::Truncate { slot, size } => rustix::fs::ftruncate(self.slot(*slot)?, *size)?,
            Call::WriteAt { slot, offset, fill } => {
                return Ok(Answer::Count(rustix::io::pwrite(self.slot(*slot)?, &bytes(*fill), *offset)?));
            }
            Call::Write { slot, fill } => {
                let file = self.slot(*slot)?;
                // The kernel tells FUSE nothing of what goes through a FIFO, so its times stay.
                if FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode) == FileType::Fifo {
                    return Err(Errno::SPIPE);
                }
                return Ok(Answer::Count(rustix::io::write(file, &bytes(*fill))?));
            }
            Call::Allocate { slot, how, offset, len } => {
                rustix::fs::fallocate(self.slot(*slot)?, allocation(*how), *offset, *len)?;
            }
            Call::Copy { from, from_offset, to, to_offset, len } => {
                let (mut at, mut onto) = (*from_offset, *to_offset);
                let (from, to) = (self.slot(*from)?, self.slot(*to)?);
                return Ok(Answer::Count(rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut onto), *len)?));
            }
            Call::Fsync { slot, data_only: false } => rustix::fs::fsync(self.slot(*slot)?)?,
            Call::Fsync { slot, data_only: true } => rustix::fs::fdatasync(self.slot(*slot)?)?,
            Call::ReadAt { slot, offset, len } => return read(self.slot(*slot)?, *offset, *len),
            other => return self.call_on_names(other),
        }
        Ok(Answer::Done)
    }

    fn call_on_names(&self, call: &Call) -> Result<Answer, Errno> {
        match call {
            Call::Mkdir { path, mode } => rustix::fs::mkdir(self.path(path), Mode::from_raw_mode(*mode))?,
            Call::Mknod { path, node, mode, device } => {
                let mode = Mode::from_raw_mode(*mode);
                rustix::fs::mknodat(CWD, self.path(path), file_type(*node), mode, *device)?;
            }
            Call::Symlink { target, path } => rustix::fs::symlink(target, self.path(path))?,
            Call::Link { from, to } => rustix::fs::link(self.path(from), self.path(to))?,
            Call::Unlink { path } => rustix::fs::unlink(self.path(path))?,
            Call::Rmdir { path } => rustix::fs::rmdir(self.path(path))?,
            Call::Rename { from, to, how } => {
                let flags = match how {
                    Renaming::Replace => RenameFlags::empty(),
                    Renaming::NoReplace => RenameFlags::NOREPLACE,
                    Renaming::Exchange => RenameFlags::EXCHANGE,
                };
                rustix::fs::renameat_with(CWD, self.path(from), CWD, self.path(to), flags)?;
            }
            Call::Chmod { on: On::Path(path), mode } => {
                rustix::fs::chmod(self.path(path), Mode::from_raw_mode(*mode))?;
            }
            Call::Chmod { on: On::Slot(slot), mode } => {
                rustix::fs::fchmod(self.slot(*slot)?, Mode::from_raw_mode(*mode))?;
            }
            Call::Chown { on, uid, gid } => {
                let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                match on {
                    On::Path(path) => {
                        rustix::fs::chownat(CWD, self.path(path), uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
                    }
                    On::Slot(slot) => rustix::fs::fchown(self.slot(*slot)?, uid, gid)?,
                }
            }
            Call::Utimens { on, atime, mtime } => {
                let times = Timestamps { last_access: timespec(*atime), last_modification: timespec(*mtime) };
                match on {
                    On::Path(path) => {
                        rustix::fs::utimensat(CWD, self.path(path), &times, AtFlags::SYMLINK_NOFOLLOW)?;
                    }
                    On::Slot(slot) => rustix::fs::futimens(self.slot(*slot)?, &times)?,
                }
            }
            other => return self.call_on_xattrs(other),
        }
        Ok(Answer::Done)
    }

    fn call_on_xattrs(&self, call: &Call) -> Result<Answer, Errno> {
        let mut buffer = vec![0; 65536];
        match call {
            Call::SetXattr { on: On::Path(path), name, .. } | Call::RemoveXattr { on: On::Path(path), name }
                if name.starts_with(POLICIES) && !self.is_directory(path) =>
            {
                Err(Errno::NOTDIR)
            }
            Call::SetXattr { on, name, value, how } => {
                let flags = match how {
                    Setting::Either => XattrFlags::empty(),
                    Setting::Create => XattrFlags::CREATE,
                    Setting::Replace => XattrFlags::REPLACE,
                };
                match on {
                    On::Path(path) => rustix::fs::lsetxattr(self.path(path), name, value, flags)?,
                    On::Slot(slot) => rustix::fs::fsetxattr(self.slot(*slot)?, name, value, flags)?,
                }
                Ok(Answer::Done)
            }
            Call::RemoveXattr { on, name } => {
                match on {
                    On::Path(path) => rustix::fs::lremovexattr(self.path(path), name)?,
                    On::Slot(slot) => rustix::fs::fremovexattr(self.slot(*slot)?, name)?,
                }
                Ok(Answer::Done)
            }
            Call::GetXattr { on, name } => {
                let len = match on {
                    On::Path(path) => rustix::fs::lgetxattr(self.path(path), name, &mut buffer[..])?,
                    On::Slot(slot) => rustix::fs::fgetxattr(self.slot(*slot)?, name, &mut buffer[..])?,
                };
                buffer.truncate(len);
                Ok(Answer::Value(buffer))
            }
            Call::ListXattr { on } => {
                let len = match on {
                    On::Path(path) => rustix::fs::llistxattr(self.path(path), &mut buffer[..])?,
                    On::Slot(slot) => rustix::fs::flistxattr(self.slot(*slot)?, &mut buffer[..])?,
                };
                Ok(Answer::Names(sorted(buffer[..len].split_inclusive(|byte| *byte == 0).map(<[u8]>::to_vec))))
            }
            Call::ReadLink { path } => {
                let target = rustix::fs::readlink(self.path(path), Vec::new())?;
                Ok(Answer::Value(target.into_bytes()))
            }
            Call::List { path } => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let directory = rustix::fs::open(self.path(path), flags, Mode::empty())?;
                let lines = rustix::fs::Dir::new(directory)?.collect::<Result<Vec<_>, _>>()?;
                Ok(Answer::Names(sorted(lines.iter().map(|line| line.file_name().to_bytes().to_vec()))))
            }
            _ => unreachable!("{call:?} is a call on something else"),
        }
    }
}

fn sorted(names: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn bytes(fill: Fill) -> Vec<u8> {
    Seed::new(fill.number).bytes(fill.len)
}

fn read(file: &OwnedFd, offset: u64, len: usize) -> Result<Answer, Errno> {
    let mut buffer = vec![0; len];
    let len = rustix::io::pread(file, &mut buffer[..], offset)?;
    let hash = tree::hash(&buffer[..len]).map_err(|_| Errno::IO)?;
    // Where the data are is the business of the file system; that the call works is not. It moves where the next `write` goes.
    let position = rustix::fs::tell(file)?;
    let found = rustix::fs::seek(file, SeekFrom::Data(offset));
    rustix::fs::seek(file, SeekFrom::Start(position))?;
    match found {
        Ok(_) | Err(Errno::NXIO) => Ok(Answer::Bytes(len, hash)),
        Err(other) => Err(other),
    }
}

fn open(path: &Path, how: Opening, mode: u32) -> Result<OwnedFd, Errno> {
    let mut flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    flags |= match (how.read, how.write) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        _ => OFlags::RDONLY,
    };
    for (wanted, flag) in [
        (how.create, OFlags::CREATE | OFlags::NOFOLLOW),
        (how.exclusive, OFlags::EXCL),
        (how.truncate, OFlags::TRUNC),
        (how.append, OFlags::APPEND),
        (how.synchronous, OFlags::SYNC),
    ] {
        flags.set(flag, wanted);
    }
    rustix::fs::open(path, flags, Mode::from_raw_mode(mode))
}

fn allocation(how: Space) -> FallocateFlags {
    match how {
        Space::Reserve => FallocateFlags::empty(),
        Space::ReserveBeyond => FallocateFlags::KEEP_SIZE,
        Space::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        Space::Zero => FallocateFlags::ZERO_RANGE,
        Space::ZeroBeyond => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
    }
}

fn file_type(node: Node) -> FileType {
    match node {
        Node::File => FileType::RegularFile,
        Node::Fifo => FileType::Fifo,
        Node::Socket => FileType::Socket,
        Node::CharDevice => FileType::CharacterDevice,
        Node::BlockDevice => FileType::BlockDevice,
    }
}

fn timespec(time: Time) -> Timespec {
    match time {
        Time::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Time::Omit => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Time::At { seconds, nanos } => Timespec { tv_sec: seconds, tv_nsec: nanos },
    }
}

/// This thread only, as the kernel has it.
fn become_user(user: u32) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    // Of the second user's group too, so that groups matter.
    set_thread_groups(&[gid, Gid::from_raw(1002)])?;
    set_thread_res_gid(Gid::ROOT, gid, Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, uid, Uid::ROOT)
}

fn become_root() -> rustix::io::Result<()> {
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    set_thread_groups(&[])
}
