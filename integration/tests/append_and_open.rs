//! Opening: what appends, creates, truncates and names nothing, from several programs at once, and files that have lost their names.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;

use integration::beside::{Beside, Notes};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

const MODE: Mode = Mode::from_raw_mode(0o644);

/// Descriptors of several processes, some of which read as well (and are cached by the kernel) and some of which don't.
#[test]
fn no_append_is_lost() {
    const PROCESSES: usize = 6;
    const LINES: usize = 300;
    let beside = Beside::start();
    for (name, redirection) in [("written", ">>"), ("read-too", "<>")] {
        let path = beside.cluster.site(0).path(name);
        // `<>` opens for both, so that the file is in the kernel's page cache: as it is for all who open it while that is open.
        let script = format!(
            "exec 3{redirection}\"$1\" 4>>\"$1\"; for i in $(seq {LINES}); do printf '%s %s %0*d\\n' $2 $i $((i % 97)) 0 >&4; done"
        );
        let start = |number: usize| {
            Command::new("bash").args(["-c", &script, "append"]).arg(&path).arg(number.to_string()).spawn().unwrap()
        };
        let processes: Vec<Child> = (0..PROCESSES).map(start).collect();
        processes.into_iter().for_each(|mut process| assert!(process.wait().unwrap().success()));
        let text = fs::read_to_string(&path).unwrap();
        let mut next = [1; PROCESSES];
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [process, number, filler] = words[..] else { panic!("a line in pieces: {line:?}") };
            let (process, number): (usize, usize) = (process.parse().unwrap(), number.parse().unwrap());
            assert_eq!((number, filler.len()), (next[process], (number % 97).max(1)), "{line:?}");
            next[process] += 1;
        }
        assert_eq!(next, [LINES + 1; PROCESSES], "lines are missing");
    }
    beside.cluster.assert_converges();
}

#[test]
fn one_of_many_creates_exclusively() {
    const RACERS: usize = 6;
    const NAMES: usize = 100;
    let beside = Beside::start();
    let directory = beside.cluster.site(0).path("race");
    fs::create_dir(&directory).unwrap();
    let (start, winners) = (Barrier::new(RACERS), AtomicU32::new(0));
    thread::scope(|scope| {
        for racer in 0..RACERS {
            let (start, winners, directory) = (&start, &winners, &directory);
            scope.spawn(move || {
                for name in 0..NAMES {
                    start.wait();
                    let path = directory.join(name.to_string());
                    match OpenOptions::new().write(true).create_new(true).open(path) {
                        Ok(mut file) => {
                            winners.fetch_add(1, Relaxed);
                            write!(file, "{racer}").unwrap();
                        }
                        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists),
                    }
                }
            });
        }
    });
    assert_eq!(winners.load(Relaxed), NAMES as u32);
    for name in 0..NAMES {
        assert_eq!(fs::read(directory.join(name.to_string())).unwrap().len(), 1, "two wrote {name}");
    }
    beside.cluster.assert_converges();
}

#[test]
fn opens_do_what_they_do_on_a_local_file_system() {
    let beside = Beside::start();
    beside.same("flags", flags);
    beside.same("direct", direct);
    beside.same("path-only", path_only);
    beside.same("unlinked", unlinked);
    beside.same("append-and-offsets", append_and_offsets);
    beside.cluster.assert_converges();
    no_temporary_files(&beside.cluster.site(0).mountpoint);
}

fn open(path: impl AsRef<Path>, flags: OFlags) -> Result<File, Errno> {
    rustix::fs::open(path.as_ref(), flags, MODE).map(File::from)
}

fn flags(at: &Path, notes: &mut Notes) {
    fs::write(at.join("file"), b"content").unwrap();
    fs::create_dir(at.join("directory")).unwrap();
    symlink("file", at.join("link")).unwrap();
    symlink("nothing", at.join("dangling")).unwrap();
    symlink("loop", at.join("loop")).unwrap();
    let combinations = [
        OFlags::RDONLY,
        OFlags::WRONLY,
        OFlags::RDWR | OFlags::NOFOLLOW,
        OFlags::RDONLY | OFlags::DIRECTORY,
        OFlags::WRONLY | OFlags::DIRECTORY,
        OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL,
        OFlags::WRONLY | OFlags::CREATE,
        OFlags::RDONLY | OFlags::CREATE | OFlags::DIRECTORY,
        OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW,
        OFlags::PATH,
        OFlags::PATH | OFlags::NOFOLLOW,
        OFlags::RDONLY | OFlags::TRUNC,
    ];
    for (number, flags) in combinations.into_iter().enumerate() {
        for name in ["file", "directory", "link", "dangling", "loop", "file/below", "missing/below", "file/", "new"] {
            let opened = open(at.join(name), flags);
            notes.done(format_args!("{flags:?} {name}"), opened);
            // What an open of a dangling link or a new name made.
            for made in ["nothing", "new"] {
                notes.done(format_args!("{number}: removing {made}"), fs::remove_file(at.join(made)));
            }
        }
        notes.note("length", fs::metadata(at.join("file")).map(|meta| meta.len()));
        fs::write(at.join("file"), b"content").unwrap();
    }
}

fn direct(at: &Path, notes: &mut Notes) {
    // Aligned for any disk.
    let mut memory = vec![0_u8; 3 * 4096];
    let skip = memory.as_ptr().align_offset(4096);
    let block = &mut memory[skip..skip + 8192];
    block.fill(b'd');
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::DIRECT;
    let Some(file) = notes.done("O_DIRECT", open(at.join("file"), flags)) else { return };
    notes.note("write", file.write_at(block, 0));
    notes.note("write", file.write_at(&block[..4096], 1 << 20));
    notes.note("read", file.read_at(block, 4096));
    let cached = open(at.join("file"), OFlags::RDWR).unwrap();
    notes.note("cached write", cached.write_at(b"cached", 4096));
    notes.note("direct read", file.read_at(&mut block[..4096], 4096));
    notes.saw("bytes", &block[..8]);
    block.fill(b'e');
    notes.note("direct write", file.write_at(&block[..4096], 4096));
    let mut bytes = [0; 8];
    notes.note("cached read", cached.read_at(&mut bytes, 4092));
    notes.saw("bytes", bytes);
    notes.note("fsync", file.sync_all());
}

fn path_only(at: &Path, notes: &mut Notes) {
    fs::write(at.join("file"), b"content").unwrap();
    symlink("file", at.join("link")).unwrap();
    let file = open(at.join("file"), OFlags::PATH).unwrap();
    notes.note("read", file.read_at(&mut [0; 4], 0));
    notes.note("write", file.write_at(b"x", 0));
    notes.done("fchmod", rustix::fs::fchmod(&file, Mode::from_raw_mode(0o600)));
    notes.note("fstat", file.metadata().map(|meta| (meta.len(), meta.mode())));
    notes.done("fsync", file.sync_all());
    let mut again = String::new();
    let through = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()));
    notes.note("open again", through.and_then(|mut file| file.read_to_string(&mut again)));
    notes.saw("text", again);
    let link = open(at.join("link"), OFlags::PATH | OFlags::NOFOLLOW).unwrap();
    notes.note("readlinkat", rustix::fs::readlinkat(&link, "", Vec::new()));
    // Linking what a descriptor means, by its name in /proc and by itself.
    let by_name = format!("/proc/self/fd/{}", file.as_raw_fd());
    let linked = rustix::fs::linkat(CWD, &by_name, CWD, at.join("by-name"), AtFlags::SYMLINK_FOLLOW);
    notes.done("linkat of /proc/self/fd", linked);
    notes.done("linkat of itself", rustix::fs::linkat(&file, "", CWD, at.join("by-fd"), AtFlags::EMPTY_PATH));
    notes.note("links", file.metadata().map(|meta| meta.nlink()));
}

/// A file without a name is a file in everything.
fn unlinked(at: &Path, notes: &mut Notes) {
    for (name, flags) in [("both", OFlags::RDWR), ("written", OFlags::WRONLY)] {
        let path = at.join(name);
        fs::write(&path, b"content").unwrap();
        let file = open(&path, flags).unwrap();
        let reader = File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        notes.note("links", file.metadata().map(|meta| meta.nlink()));
        notes.note("write", file.write_at(b"more than before", 4));
        notes.done("fchmod", rustix::fs::fchmod(&file, Mode::from_raw_mode(0o751)));
        notes.done("fchown", rustix::fs::fchown(&file, Some(Uid::from_raw(12)), Some(Gid::from_raw(34))));
        let time = Timespec { tv_sec: 1_000_000_007, tv_nsec: 123_456_789 };
        let times = Timestamps { last_access: time, last_modification: time };
        notes.done("futimens", rustix::fs::futimens(&file, &times));
        notes.done("ftruncate", file.set_len(10));
        notes.done("fallocate", rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 100));
        notes.done("fsetxattr", rustix::fs::fsetxattr(&file, "user.a", b"value", XattrFlags::empty()));
        let mut value = [0; 5];
        notes.note("fgetxattr", rustix::fs::fgetxattr(&file, "user.a", &mut value[..]));
        notes.saw("value", value);
        notes.done("futimens", rustix::fs::futimens(&file, &times));
        let state = |meta: fs::Metadata| (meta.mode(), meta.uid(), meta.gid(), meta.len(), meta.mtime(), meta.nlink());
        notes.note("fstat", file.metadata().map(state));
        let mut bytes = [0; 100];
        notes.note("read", reader.read_at(&mut bytes, 0));
        notes.saw("bytes", bytes.escape_ascii().to_string());
        notes.done("fsync", file.sync_all());
        // It has lost its name for good: only what never had one can get one.
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        let linked = rustix::fs::linkat(CWD, &again, CWD, at.join("again"), AtFlags::SYMLINK_FOLLOW);
        notes.done("linkat", linked);
        notes.done("open by /proc", OpenOptions::new().read(true).open(&again));
    }
    fs::create_dir(at.join("directory")).unwrap();
    let directory = File::open(at.join("directory")).unwrap();
    fs::remove_dir(at.join("directory")).unwrap();
    let made = rustix::fs::openat(directory.as_fd(), "file", OFlags::CREATE | OFlags::RDWR, MODE);
    notes.done("create in a removed directory", made);
    notes.done("mkdir in a removed directory", rustix::fs::mkdirat(directory.as_fd(), "sub", MODE));
    notes.done("open ..", rustix::fs::openat(directory.as_fd(), ".", OFlags::RDONLY, MODE));
    notes.note("links", directory.metadata().map(|meta| meta.nlink()));
    let listed = rustix::fs::Dir::read_from(directory.as_fd()).map(|entries| entries.count());
    notes.note("list", listed);
}

fn append_and_offsets(at: &Path, notes: &mut Notes) {
    let path = at.join("file");
    fs::write(&path, b"0123456789").unwrap();
    let mut file = OpenOptions::new().append(true).read(true).open(&path).unwrap();
    notes.note("write at an offset", file.write_at(b"end", 2));
    notes.note("write", file.write(b"more"));
    notes.note("position", rustix::fs::tell(&file));
    // The flag can be taken away, and set, later.
    rustix::fs::fcntl_setfl(&file, OFlags::empty()).unwrap();
    notes.note("write at an offset", file.write_at(b"mid", 2));
    let plain = OpenOptions::new().write(true).custom_flags(0).open(&path).unwrap();
    rustix::fs::fcntl_setfl(&plain, OFlags::APPEND).unwrap();
    notes.note("write at an offset", plain.write_at(b"last", 0));
    notes.note("copy to an appending file", rustix::fs::copy_file_range(&file, None, &plain, None, 4));
    notes.note("content", fs::read_to_string(&path));
    notes.note("write to a reader", File::open(&path).unwrap().write(b"x"));
    notes.note("read from a writer", OpenOptions::new().write(true).open(&path).unwrap().read(&mut [0; 1]));
}

/// Refused as by a file system that hasn't them: programs then use a name.
fn no_temporary_files(at: &Path) {
    for _ in 0..2 {
        assert_eq!(open(at, OFlags::TMPFILE | OFlags::RDWR).unwrap_err(), Errno::OPNOTSUPP);
    }
}
