//! Space within files and on the disk: holes, reservations, copies, the longest files, a full disk.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use integration::beside::{Beside, Notes};
use integration::cluster::{Cluster, Options};
use integration::mapper::Mapper;
use integration::outcome::eventually;
use integration::reaper::{self, Debris};
use integration::site::{succeed, unmount_dead};
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

fn both(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

#[test]
fn space_in_files_is_as_on_a_local_file_system() {
    let beside = Beside::start();
    beside.same("holes", holes);
    beside.same("allocation", allocation);
    beside.same("copies", copies);
    beside.same("longest", longest);
    beside.same("limit", limit);
    not_offered(&beside.cluster.site(0).mountpoint);
    statfs_is_of_the_store(&beside);
    beside.cluster.assert_converges();
}

/// Where data and holes are, asked at every block and around it.
fn map(notes: &mut Notes, file: &File) {
    let length = file.metadata().unwrap().len();
    for block in (0..=length + 65_536).step_by(65_536) {
        for at in [block.saturating_sub(1), block, block + 1] {
            notes.note(format_args!("data from {at}"), rustix::fs::seek(file, SeekFrom::Data(at)));
            notes.note(format_args!("hole from {at}"), rustix::fs::seek(file, SeekFrom::Hole(at)));
        }
    }
    notes.note("end", rustix::fs::seek(file, SeekFrom::End(0)));
    notes.note("before the beginning", rustix::fs::seek(file, SeekFrom::Current(i64::MIN)));
}

fn holes(at: &Path, notes: &mut Notes) {
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    for name in ["empty", "hole", "data", "mixed", "punched", "cut"] {
        let file = both(&at.join(name));
        match name {
            "hole" => file.set_len(300_000).unwrap(),
            "data" => file.write_all_at(&[7; 200_000], 0).unwrap(),
            "mixed" => {
                for offset in [131_072, 300_000, 524_288, 0] {
                    file.write_all_at(&[8; 5_000], offset).unwrap();
                }
            }
            "punched" => {
                file.write_all_at(&[9; 500_000], 0).unwrap();
                for (offset, length) in [(65_536, 65_536), (200_000, 10_000), (495_000, 10_000)] {
                    rustix::fs::fallocate(&file, punch, offset, length).unwrap();
                }
            }
            "cut" => {
                file.write_all_at(&[10; 300_000], 0).unwrap();
                file.set_len(100_001).unwrap();
                file.set_len(300_000).unwrap();
            }
            _ => {}
        }
        notes.saw(name, ());
        map(notes, &file);
        drop(file);
        map(notes, &File::open(at.join(name)).unwrap());
    }
}

fn allocation(at: &Path, notes: &mut Notes) {
    let keep = FallocateFlags::KEEP_SIZE;
    let (punch, zero, none) = (FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE, FallocateFlags::empty());
    let unknown = FallocateFlags::from_bits_retain(0x8000);
    let modes = [none, keep, punch, punch | keep, zero, zero | keep, punch | zero | keep, unknown];
    let ranges = [
        (0, 0),
        (0, 1),
        (5, 4_090),
        (4_096, 8_192),
        (19_990, 100),
        (20_000, 100),
        (30_000, 5_000),
        (0, 100_000),
        (i64::MAX as u64, 1),
        (1 << 62, 1 << 62),
    ];
    for mode in modes {
        for (offset, length) in ranges {
            let file = both(&at.join("file"));
            file.write_all_at(&[b'a'; 20_000], 0).unwrap();
            let done = rustix::fs::fallocate(&file, mode, offset, length);
            notes.done(format_args!("{mode:?} {offset}+{length}"), done);
            notes.note("length", file.metadata().map(|meta| meta.len()));
            let bytes = fs::read(at.join("file")).unwrap();
            let zeroes: Vec<usize> = (1..bytes.len()).filter(|at| (bytes[*at] == 0) != (bytes[at - 1] == 0)).collect();
            notes.saw("changes at", (bytes.first().copied(), zeroes));
            fs::remove_file(at.join("file")).unwrap();
        }
        fs::write(at.join("other"), b"x").unwrap();
        let reader = File::open(at.join("other")).unwrap();
        notes.done("on a reader", rustix::fs::fallocate(&reader, mode, 0, 10));
        notes.done("on a directory", rustix::fs::fallocate(File::open(at).unwrap(), mode, 0, 10));
    }
}

fn copies(at: &Path, notes: &mut Notes) {
    let source = both(&at.join("source"));
    source.write_all_at(&vec![b's'; 3_000_000], 0).unwrap();
    source.write_all_at(b"end", 4_000_000).unwrap();
    let target = both(&at.join("target"));
    let mut copy = |from: u64, to: u64, length: usize| {
        let copied = rustix::fs::copy_file_range(&source, Some(&mut { from }), &target, Some(&mut { to }), length);
        notes.note(format_args!("{length} from {from} to {to}"), copied);
        notes.note("length", target.metadata().map(|meta| meta.len()));
    };
    for (from, to, length) in [
        (0, 0, 100),
        (100, 1_000, 70_001),
        (3_999_999, 5_000_000, 1_000),
        (4_000_003, 0, 10),
        (9_000_000, 0, 10),
        (0, 10_000_000, 0),
        (1 << 62, 0, 1),
        (0, 1 << 62, 1),
        (0, i64::MAX as u64, 1),
        (0, 0, usize::MAX >> 1),
    ] {
        copy(from, to, length);
    }
    let within = |from: u64, to: u64| {
        rustix::fs::copy_file_range(&source, Some(&mut { from }), &source, Some(&mut { to }), 1_000)
    };
    notes.note("within one file", within(0, 10_000));
    notes.note("over itself", within(0, 500));
    let reader = File::open(at.join("target")).unwrap();
    notes.note("to a reader", rustix::fs::copy_file_range(&source, None, &reader, None, 10));
    let writer = OpenOptions::new().write(true).open(at.join("target")).unwrap();
    notes.note("from a writer", rustix::fs::copy_file_range(&writer, None, &source, None, 10));
    notes.note("from a directory", rustix::fs::copy_file_range(File::open(at).unwrap(), None, &target, None, 10));
    let positions = [&source, &target].map(|file| rustix::fs::seek(file, SeekFrom::Start(1_000)));
    notes.saw("positions", positions);
    notes.note("by positions", rustix::fs::copy_file_range(&source, None, &target, None, 2_000));
    notes.note("then", rustix::fs::tell(&source).and_then(|from| Ok((from, rustix::fs::tell(&target)?))));
    // As ext4, which has no copies that share their blocks.
    notes.done("clone", rustix::fs::ioctl_ficlone(&target, &source));
    notes.done("cp that insists", cp(&["--reflink=always"], &at.join("source"), &at.join("clone")));
    notes.done("cp", cp(&["--reflink=auto", "--sparse=always"], &at.join("source"), &at.join("copy")));
    let _ = fs::remove_file(at.join("clone"));
}

fn cp(options: &[&str], from: &Path, to: &Path) -> std::io::Result<()> {
    let output = Command::new("cp").args(options).arg(from).arg(to).output()?;
    if output.status.success() { Ok(()) } else { Err(std::io::Error::other("refused")) }
}

/// Up to what the file system below takes, and not beyond, however it is asked.
fn longest(at: &Path, notes: &mut Notes) {
    let max = (1_u64 << 44) - 4096;
    let file = both(&at.join("file"));
    let ends = [1 << 31, (1 << 32) + 1, 1 << 40, max - 1, max, max + 1, 1 << 44, 1 << 50, 1 << 62, i64::MAX as u64];
    for end in ends {
        let then = |notes: &mut Notes, what: &str| {
            notes.note(format_args!("{what} to {end}"), file.metadata().map(|meta| meta.len()));
            let _ = file.set_len(10);
        };
        notes.done("ftruncate", file.set_len(end));
        then(notes, "ftruncate");
        notes.note("write", file.write_at(b"x", end - 1));
        then(notes, "write");
        notes.done("fallocate", rustix::fs::fallocate(&file, FallocateFlags::empty(), end - 1, 1));
        then(notes, "fallocate");
        notes.done("zero", rustix::fs::fallocate(&file, FallocateFlags::ZERO_RANGE, end - 1, 1));
        then(notes, "zero");
        // Beyond the longest file ext4 refuses also to seek; here the limit shows when something is written.
        if end <= max {
            notes.note("seek", rustix::fs::seek(&file, SeekFrom::Start(end)));
        }
        notes.note("read", file.read_at(&mut [0; 10], end - 1));
    }
    notes.done("a negative length", rustix::fs::ftruncate(&file, u64::MAX));
    notes.note("write beyond all", file.write_at(b"x", i64::MAX as u64));
    notes.note("write over the end of all", file.write_at(b"xy", i64::MAX as u64 - 1));
    // Data at both ends of the longest file: bytes that a peer has to put there, too.
    file.write_all_at(b"first", 0).unwrap();
    notes.note("write at the end", file.write_at(b"last", max - 4));
    let mut last = [0; 10];
    notes.note("read", file.read_at(&mut last, max - 4));
    notes.saw("bytes", last);
    file.set_len(5).unwrap();
}

/// A program's own limit.
fn limit(at: &Path, notes: &mut Notes) {
    let script = "cd \"$1\"; trap '' XFSZ; ulimit -f 8
        head -c 20000 /dev/zero >> written 2>/dev/null; echo $?; stat -c %s written
        truncate -s 8192 cut 2>/dev/null; echo $?; truncate -s 8193 cut 2>/dev/null; echo $?; stat -c %s cut
        fallocate -l 8192 reserved 2>/dev/null; echo $?; fallocate -l 8193 reserved 2>/dev/null; echo $?; stat -c %s reserved
        # What is reserved is a hole until it is read, and then zeros that were read.
        rm reserved";
    notes.saw("ulimit", succeed(Command::new("bash").args(["-c", script, "limit"]).arg(at)));
}

/// ext4 takes ranges out of files and puts them in; here that is refused, and programs do without.
fn not_offered(at: &Path) {
    let file = both(&at.join("whole"));
    file.write_all_at(&[1; 40_960], 0).unwrap();
    for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
        assert_eq!(rustix::fs::fallocate(&file, mode, 4096, 4096), Err(Errno::OPNOTSUPP), "{mode:?}");
    }
    assert_eq!(fs::read(at.join("whole")).unwrap(), [1; 40_960]);
}

fn statfs_is_of_the_store(beside: &Beside) {
    for site in beside.cluster.sites() {
        // Others write to the disk as well: equal for a moment is enough.
        eventually(Duration::from_secs(20), "statfs shows the disk below", || {
            let ask = |path: &Path| rustix::fs::statvfs(path).unwrap();
            let (below, shown, after) = (ask(&site.store), ask(&site.mountpoint), ask(&site.store));
            assert_eq!(
                (shown.f_blocks, shown.f_frsize, shown.f_files),
                (below.f_blocks, below.f_frsize, below.f_files)
            );
            assert_eq!((shown.f_bsize, shown.f_namemax), (below.f_bsize, 255));
            let within = |a: u64, b: u64, c: u64| (a.min(c)..=a.max(c)).contains(&b);
            let good = within(below.f_bfree, shown.f_bfree, after.f_bfree)
                && within(below.f_bavail, shown.f_bavail, after.f_bavail)
                && within(below.f_ffree, shown.f_ffree, after.f_ffree);
            if good {
                Ok(())
            } else {
                Err(format!("{} free, not {} to {}", shown.f_bfree, below.f_bfree, after.f_bfree))
            }
        });
    }
}

/// A file system of its own in a file.
struct SmallDisk {
    mountpoint: PathBuf,
}

impl SmallDisk {
    fn new(directory: &Path, megabytes: u64) -> Self {
        let (image, mountpoint) = (directory.join("image"), directory.join("disk"));
        File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        fs::create_dir(&mountpoint).unwrap();
        succeed(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        reaper::note(Debris::Mount(&mountpoint));
        succeed(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mountpoint));
        Self { mountpoint }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount_dead(&self.mountpoint);
        reaper::forget(Debris::Mount(&self.mountpoint));
    }
}

/// ENOSPC reaches the program that needs the space and does no other harm: all that was written stays, removing works and frees, also after a
/// restart; and a peer whose disk is larger has the same.
#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let directory = tempfile::Builder::new().prefix("syncline-test-").tempdir().unwrap();
    reaper::note(Debris::Directory(directory.path()));
    let disk = SmallDisk::new(directory.path(), 448);
    let mut cluster = Cluster::start(2, Options { stores: vec![disk.mountpoint.join("store")], ..Options::default() });
    let content = |number: usize| vec![number as u8; 1_000_000 + number];
    // More than there is, while there is much: a part of it would be all that is left.
    let asked = rustix::fs::fallocate(both(&cluster.site(0).path("asked")), FallocateFlags::empty(), 0, 1 << 30);
    assert_eq!(asked, Err(Errno::NOSPC));
    for round in 0..2 {
        let path = |number: usize| cluster.site(0).path(format!("{round}-{number}"));
        let mut written = 0;
        let error = loop {
            let file = File::create(path(written));
            match file.and_then(|mut file| file.write_all(&content(written)).and_then(|()| file.sync_all())) {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
            assert!(written < 1_000, "the disk is never full");
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        assert!(written > 50, "only {written} files");
        // What was not written whole says so by its length; nothing else is touched.
        let _ = fs::remove_file(path(written));
        let reserved = rustix::fs::fallocate(both(&path(0)), FallocateFlags::empty(), 0, 1 << 30);
        assert_eq!(reserved, Err(Errno::NOSPC));
        assert_eq!(fs::metadata(path(0)).unwrap().len(), 1_000_000);
        if round == 0 {
            cluster.crash_site(0);
        }
        let path = |number: usize| cluster.site(0).path(format!("{round}-{number}"));
        for number in 0..written {
            assert!(fs::read(path(number)).unwrap() == content(number), "{round}-{number}");
        }
        cluster.assert_converges();
        for number in 0..written {
            fs::remove_file(path(number)).unwrap();
        }
        eventually(Duration::from_secs(60), "space comes back once the peer has the removals", || {
            let left = rustix::fs::statvfs(&cluster.site(0).mountpoint).unwrap();
            let megabytes = (left.f_bavail * left.f_frsize) >> 20;
            if megabytes > 100 { Ok(()) } else { Err(format!("{megabytes} MiB")) }
        });
    }
    fs::write(cluster.site(0).path("again"), b"there is room").unwrap();
    assert_eq!(fs::metadata(cluster.site(0).path("again")).unwrap().size(), 13);
    cluster.assert_converges();
    drop(cluster);
    drop(disk);
    reaper::forget(Debris::Directory(directory.path()));
}

/// Bytes that a mapping stores are in their file already, and need room in the journal as well. Where there is none, `fsync` says so, and nothing is lost.
#[test]
fn stores_of_a_mapping_wait_for_room_in_the_journal() {
    const LEN: u64 = 200 << 20;
    const SMALL: u32 = 2_000;
    let directory = tempfile::Builder::new().prefix("syncline-test-").tempdir().unwrap();
    reaper::note(Debris::Directory(directory.path()));
    let disk = SmallDisk::new(directory.path(), 1200);
    let cluster = Cluster::start(2, Options { stores: vec![disk.mountpoint.join("store")], ..Options::default() });
    let here = &cluster.site(0).mountpoint;
    fs::write(here.join("mapped"), vec![b'a'; LEN as usize]).unwrap();
    cluster.wait_level();
    // What the peer lacks stays in the journal.
    cluster.network().cut_all();
    let reader = File::open(here.join("mapped")).unwrap();
    let mut program = Mapper::start(Path::new(env!("CARGO_BIN_EXE_mapper")), here);
    program.run("open f r+w mapped");
    program.run(&format!("map m f shared {LEN}"));
    for number in 0..SMALL {
        fs::write(here.join(format!("small-{number}")), b"").unwrap();
    }
    let filler = both(&here.join("filler"));
    let mut reserved = 0;
    for bytes in (20..30).rev().map(|shift| 1 << shift) {
        while rustix::fs::fallocate(&filler, FallocateFlags::empty(), reserved, bytes).is_ok() {
            reserved += bytes;
        }
    }
    drop(filler);
    program.run(&format!("store m 0 98 {LEN}"));
    for round in ["first", "again"] {
        assert_eq!(program.ask("fsync f"), format!("error {}", Errno::NOSPC.raw_os_error()), "{round}");
    }
    // What frees space goes on, out of what was kept back, and once the peer knows, there is room.
    for number in 0..SMALL {
        fs::remove_file(here.join(format!("small-{number}"))).unwrap();
    }
    fs::remove_file(here.join("filler")).unwrap();
    cluster.network().heal_all();
    eventually(Duration::from_secs(60), "the stores are journalled", || match program.ask("fsync f").as_str() {
        "ok" => Ok(()),
        error => Err(error.to_owned()),
    });
    cluster.site(0).wait(Duration::from_secs(60));
    assert!(fs::read(cluster.site(1).path("mapped")).unwrap() == vec![b'b'; LEN as usize]);
    drop((program, reader));
    cluster.assert_converges();
    drop(cluster);
    drop(disk);
    reaper::forget(Debris::Directory(directory.path()));
}
