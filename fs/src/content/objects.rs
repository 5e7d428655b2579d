//! The directory of objects: `STORE/objects/<ab>/<16 hex digits of the FileId>`.
//!
//! ```text
//! objects/          0700
//!   00/ … ff/       0700, all made with the store, so that no later write has to make one durable
//!     000100000000002a     0600, content of FileId 0x000100000000002a, in directory 2a
//! ```
//!
//! `ab` is the id's low byte: a site counts its ids up, so files spread evenly over the 256 directories.
//!
//! Invariant: no path is ever resolved above the held descriptor of `objects/` or through a symbolic link, whatever somebody
//! put into the store. Only regular files are opened.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use proto::ids::FileId;
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// The name of the directory in the store.
const OBJECTS: &str = "objects";
/// The number of directories below it.
pub const DIRECTORIES: usize = 256;

/// The held directory of objects of one store.
#[derive(Debug)]
pub struct Objects {
    dir: OwnedFd,
    /// Cleared when the file system below refuses `O_NOATIME` (objects of another owner, without `CAP_FOWNER`).
    noatime: AtomicBool,
}

/// An object's file, open for reading and writing.
#[derive(Debug)]
pub struct Opened {
    /// The file.
    pub handle: File,
    /// Whether this call created it. Its directory entry is not durable then: see [`super::dirty::DirtyObjects`].
    pub created: bool,
}

/// What a listing of the directory met.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// An object.
    Object(FileId),
    /// Something that this module doesn't make: its path relative to `objects/`.
    Unknown(PathBuf),
}

impl Objects {
    /// Makes the directories in an empty store, durably. Fails if `objects/` is there.
    pub fn create(store_dir: &Path) -> io::Result<Self> {
        let store = open_store(store_dir)?;
        fs::mkdirat(&store, OBJECTS, Mode::RWXU)?;
        let objects = Self::open(store_dir)?;
        fs::fsync(&store)?;
        Ok(objects)
    }

    /// Opens the directory of a store. Of the 256 directories, those that a copying tool has left out as empty are made anew.
    pub fn open(store_dir: &Path) -> io::Result<Self> {
        let dir = open_dir(open_store(store_dir)?, OBJECTS)?;
        let mut there = [false; DIRECTORIES];
        let mut entries = read_dir(open_dir(&dir, ".")?)?;
        while let Some((name, _)) = next_entry(&mut entries)? {
            if let Some(number) = parse_directory_name(&name) {
                there[number] = true;
            }
        }
        let mut made = false;
        for number in (0..DIRECTORIES).filter(|number| !there[*number]) {
            match fs::mkdirat(&dir, directory_name(number), Mode::RWXU) {
                Ok(()) => made = true,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if made {
            fs::fsync(&dir)?;
        }
        Ok(Self { dir, noatime: AtomicBool::new(true) })
    }

    /// Opens the object of `file`; `None` if there is none and `create` is off.
    pub fn open_object(&self, file: FileId, create: bool) -> io::Result<Option<Opened>> {
        loop {
            match self.openat(file, OFlags::empty()) {
                Ok(handle) => return regular(file, handle).map(|handle| Some(Opened { handle, created: false })),
                Err(Errno::NOENT) if create => {}
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            // Exclusively, to know who created it: a second thread that comes in between starts over and finds the first one's.
            match self.openat(file, OFlags::CREATE | OFlags::EXCL) {
                Ok(handle) => return Ok(Some(Opened { handle: handle.into(), created: true })),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Removes the object of `file`. Whether there was one. Not durable by itself: an object that a power loss brings back is
    /// found by the next [`list`](Self::list).
    pub fn remove(&self, file: FileId) -> io::Result<bool> {
        let dir = open_dir(&self.dir, &directory_name(directory_of(file)))?;
        match fs::unlinkat(dir, file_name(file), AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Everything below `objects/`, in no order. What comes and goes meanwhile may be listed or not.
    pub fn list(&self) -> io::Result<List> {
        Ok(List { top: open_dir(&self.dir, ".")?, entries: read_dir(open_dir(&self.dir, ".")?)?, inner: None })
    }

    /// Makes the names in one of the [`DIRECTORIES`] durable.
    pub(super) fn sync_directory(&self, number: usize) -> io::Result<()> {
        Ok(fs::fsync(open_dir(&self.dir, &directory_name(number))?)?)
    }

    /// Makes everything in the file system that holds the store durable: `syncfs(2)`. It also reports an earlier failure to
    /// write back anything there, whoever wrote it.
    pub(super) fn sync_file_system(&self) -> io::Result<()> {
        Ok(fs::syncfs(&self.dir)?)
    }

    fn openat(&self, file: FileId, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = format!("{}/{}", directory_name(directory_of(file)), file_name(file));
        let flags = flags | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
        let mode = if flags.contains(OFlags::CREATE) { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
        if self.noatime.load(Ordering::Relaxed) {
            match fs::openat2(&self.dir, &path, flags | OFlags::NOATIME, mode, BENEATH) {
                Err(Errno::PERM) => self.noatime.store(false, Ordering::Relaxed),
                other => return other,
            }
        }
        fs::openat2(&self.dir, &path, flags, mode, BENEATH)
    }
}

/// An iterator over everything below `objects/`.
pub struct List {
    top: OwnedFd,
    entries: Dir,
    /// The directory being read: its number and its entries.
    inner: Option<(usize, Dir)>,
}

impl List {
    fn step(&mut self) -> io::Result<Option<Found>> {
        loop {
            if let Some((number, entries)) = &mut self.inner {
                let Some((name, kind)) = next_entry(entries)? else {
                    self.inner = None;
                    continue;
                };
                let object = parse_file_name(&name).filter(|file| directory_of(*file) == *number);
                return Ok(Some(match object {
                    Some(file) if matches!(kind, FileType::RegularFile | FileType::Unknown) => Found::Object(file),
                    _ => Found::Unknown(Path::new(&directory_name(*number)).join(OsStr::from_bytes(&name))),
                }));
            }
            let Some((name, kind)) = next_entry(&mut self.entries)? else {
                return Ok(None);
            };
            match parse_directory_name(&name) {
                Some(number) if matches!(kind, FileType::Directory | FileType::Unknown) => {
                    self.inner = Some((number, read_dir(open_dir(&self.top, &directory_name(number))?)?));
                }
                _ => return Ok(Some(Found::Unknown(PathBuf::from(OsStr::from_bytes(&name))))),
            }
        }
    }
}

impl Iterator for List {
    type Item = io::Result<Found>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// The number of the directory that holds the object of `file`.
pub(super) fn directory_of(file: FileId) -> usize {
    usize::from(file.0 as u8)
}

fn directory_name(number: usize) -> String {
    format!("{number:02x}")
}

fn file_name(file: FileId) -> String {
    format!("{:016x}", file.0)
}

/// Only what `file_name` writes: no capitals, no signs, no missing zeros.
fn parse_file_name(name: &[u8]) -> Option<FileId> {
    let file = FileId(u64::from_str_radix(std::str::from_utf8(name).ok()?, 16).ok()?);
    (file_name(file).as_bytes() == name).then_some(file)
}

fn parse_directory_name(name: &[u8]) -> Option<usize> {
    let number = usize::from_str_radix(std::str::from_utf8(name).ok()?, 16).ok()?;
    (number < DIRECTORIES && directory_name(number).as_bytes() == name).then_some(number)
}

/// The store itself is the operator's path: symbolic links are his business.
fn open_store(store_dir: &Path) -> io::Result<OwnedFd> {
    Ok(fs::open(store_dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn open_dir(at: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    Ok(fs::openat2(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), BENEATH)?)
}

fn read_dir(dir: OwnedFd) -> io::Result<Dir> {
    Ok(Dir::new(dir)?)
}

fn next_entry(entries: &mut Dir) -> io::Result<Option<(Vec<u8>, FileType)>> {
    loop {
        let Some(entry) = entries.read() else { return Ok(None) };
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            return Ok(Some((name.to_vec(), entry.file_type())));
        }
    }
}

fn regular(file: FileId, handle: OwnedFd) -> io::Result<File> {
    match FileType::from_raw_mode(fs::fstat(&handle)?.st_mode) {
        FileType::RegularFile => Ok(handle.into()),
        kind => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "object {file} is not a regular file but {kind:?}: something else than syncline writes to the store"
            ),
        )),
    }
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;
