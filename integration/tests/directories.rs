//! Names and directories: renames, listings of what changes, names of all lengths, deep paths, large directories.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use integration::beside::{Beside, Notes};
use integration::outcome::number_from_env;
use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir, RenameFlags, SeekFrom};

const MODE: Mode = Mode::from_raw_mode(0o755);

#[test]
fn names_and_renames_are_as_on_a_local_file_system() {
    let beside = Beside::start();
    beside.same("renames", renames);
    beside.same("rename-flags", rename_flags);
    beside.same("names", names);
    beside.same("links", links);
    beside.same("deep", deep);
    beside.same("removals", removals);
    beside.cluster.assert_converges();
}

/// One of each kind under its own name.
fn one_of_each(at: &Path) {
    fs::write(at.join("file"), b"file").unwrap();
    fs::create_dir(at.join("empty")).unwrap();
    fs::create_dir_all(at.join("full/sub/below")).unwrap();
    symlink("file", at.join("link")).unwrap();
    symlink("full", at.join("link-to-directory")).unwrap();
    rustix::fs::mknodat(CWD, at.join("fifo"), FileType::Fifo, MODE, 0).unwrap();
    fs::hard_link(at.join("file"), at.join("same-file")).unwrap();
}

const PLACES: [&str; 15] = [
    "file",
    "same-file",
    "empty",
    "full",
    "full/sub",
    "full/sub/below",
    "full/sub/below/new",
    "link",
    "link-to-directory",
    "fifo",
    "new",
    "missing/new",
    "file/new",
    "empty/.",
    "full/..",
];

fn every_rename(at: &Path, notes: &mut Notes, flags: RenameFlags) {
    for from in PLACES.into_iter().chain(["empty/", "file/"]) {
        for to in PLACES.into_iter().chain(["new/", "full/", "link/"]) {
            let place = at.join(format!("{from}-{to}").replace('/', "_"));
            fs::create_dir(&place).unwrap();
            one_of_each(&place);
            let renamed = rustix::fs::renameat_with(CWD, place.join(from), CWD, place.join(to), flags);
            notes.done(format_args!("{from} to {to}"), renamed);
            let names = fs::read_dir(&place).unwrap().map(|name| name.unwrap().file_name()).collect::<BTreeSet<_>>();
            notes.saw("then", names);
            fs::remove_dir_all(&place).unwrap();
        }
    }
}

fn renames(at: &Path, notes: &mut Notes) {
    every_rename(at, notes, RenameFlags::empty());
}

fn rename_flags(at: &Path, notes: &mut Notes) {
    every_rename(at, notes, RenameFlags::EXCHANGE);
    one_of_each(at);
    for (from, to) in [("file", "link"), ("file", "new"), ("empty", "full"), ("missing", "other"), ("full", "new")] {
        let renamed = rustix::fs::renameat_with(CWD, at.join(from), CWD, at.join(to), RenameFlags::NOREPLACE);
        notes.done(format_args!("{from} to {to}, not replacing"), renamed);
    }
    let both = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE;
    notes.done("both flags", rustix::fs::renameat_with(CWD, at.join("link"), CWD, at.join("fifo"), both));
}

fn names(at: &Path, notes: &mut Notes) {
    let odd: [&[u8]; 6] = [b"\xff\xfe\x80", b"new\nline", b" ", b"...", b"-rf", b"\xe2\x82"];
    for name in odd.into_iter().chain([&[b'n'; 255][..], &[b'n'; 256][..], &[0xff; 255][..]]) {
        let path = at.join(OsStr::from_bytes(name));
        notes.done(name.escape_ascii(), fs::write(&path, name));
        notes.note("read", fs::read(&path));
        notes.done("mkdir", fs::create_dir(&path));
        notes.done("stat", fs::symlink_metadata(&path));
        notes.done("rename", fs::rename(&path, at.join("x")));
        notes.done("link", fs::hard_link(at.join("x"), &path));
        notes.done("unlink", fs::remove_file(&path));
        notes.done("rename back", fs::rename(at.join("x"), &path));
    }
    // Targets of links: up to one byte less than a path may have.
    for length in [1, 59, 60, 255, 256, 4094, 4095, 4096] {
        let path = at.join(format!("link-{length}"));
        notes.done(format_args!("a target of {length} bytes"), symlink("t".repeat(length), &path));
        let target = fs::read_link(&path).map(|target| target.as_os_str().len());
        notes.note("its length", target);
        notes.note("its size", fs::symlink_metadata(&path).map(|meta| meta.len()));
    }
    notes.done("no target", symlink("", at.join("link-0")));
    notes.done("readlink of a file", fs::read_link(at.join("-rf")));
}

fn links(at: &Path, notes: &mut Notes) {
    one_of_each(at);
    for from in PLACES {
        for to in ["new", "file", "empty", "missing/new", "file/new", "full/sub/new"] {
            notes.done(format_args!("{from} to {to}"), fs::hard_link(at.join(from), at.join(to)));
            notes.note("links", fs::symlink_metadata(at.join(from)).map(|meta| (meta.nlink(), meta.is_dir())));
            if to.ends_with("new") {
                notes.done("removed", fs::remove_file(at.join(to)));
            }
        }
    }
    // As many links in a row as are followed, and one more.
    symlink("file", at.join("l0")).unwrap();
    for number in 1..=41 {
        symlink(format!("l{}", number - 1), at.join(format!("l{number}"))).unwrap();
        notes.done(format_args!("{number} links"), fs::metadata(at.join(format!("l{number}"))));
    }
    symlink("circle", at.join("circle")).unwrap();
    for path in ["circle", "circle/x", "link/x"] {
        notes.done(path, File::open(at.join(path)));
        notes.done(path, fs::write(at.join(path), b""));
        notes.done(path, fs::create_dir(at.join(path)));
    }
}

fn deep(at: &Path, notes: &mut Notes) {
    // Deeper than one path can say.
    let name = "d".repeat(200);
    let mut here = rustix::fs::open(at, OFlags::PATH | OFlags::DIRECTORY, MODE).unwrap();
    for level in 0..60 {
        notes.done(format_args!("level {level}"), rustix::fs::mkdirat(&here, name.as_str(), MODE));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        here = rustix::fs::openat(&here, name.as_str(), flags, MODE).unwrap();
    }
    notes.done("a file there", rustix::fs::openat(&here, "file", OFlags::CREATE | OFlags::WRONLY, MODE));
    let path = |levels: usize| at.join(vec![name.as_str(); levels].join("/"));
    notes.done("a path that is too long", fs::metadata(path(25)));
    notes.done("a path", fs::metadata(path(19)));
    // To where a path leads again, so that the trees can be compared; then it can't move below itself.
    notes.done("rename below itself", fs::rename(path(1), path(3).join("x")));
    for _ in 0..60 {
        here = rustix::fs::openat(&here, "..", OFlags::RDONLY | OFlags::DIRECTORY, MODE).unwrap();
    }
    let same = |meta: fs::Metadata| meta.ino() == File::from(here.try_clone().unwrap()).metadata().unwrap().ino();
    notes.note("up again", fs::metadata(at).map(same));
    notes.done("remove all", fs::remove_dir_all(path(1)));
}

fn removals(at: &Path, notes: &mut Notes) {
    one_of_each(at);
    for name in PLACES.into_iter().chain([".", "full/sub/..", "link-to-directory/", "file/", "empty/"]) {
        notes.done(format_args!("rmdir {name}"), rustix::fs::rmdir(at.join(name)));
        notes.done(format_args!("unlink {name}"), rustix::fs::unlink(at.join(name)));
        notes.done(format_args!("mkdir {name}"), rustix::fs::mkdir(at.join(name), MODE));
    }
    let modes = |at: &Path| fs::metadata(at).map(|meta| (meta.mode(), meta.nlink()));
    notes.note("the directory", modes(at));
}

/// A directory read as programs do it, with the place to go on from after each name.
struct Reader {
    directory: File,
    buffer: Vec<MaybeUninit<u8>>,
}

impl Reader {
    fn open(path: &Path) -> Self {
        Self { directory: File::open(path).unwrap(), buffer: vec![MaybeUninit::uninit(); 1024] }
    }

    /// The next few names. None at the end.
    fn some(&mut self) -> Vec<(String, u64)> {
        let mut names = Vec::new();
        let mut lines = RawDir::new(self.directory.as_fd(), &mut self.buffer);
        while let Some(line) = lines.next() {
            let line = line.unwrap();
            names.push((line.file_name().to_string_lossy().into_owned(), line.next_entry_cookie()));
            if lines.is_buffer_empty() {
                break;
            }
        }
        names
    }

    fn seek(&mut self, place: u64) {
        rustix::fs::seek(&self.directory, SeekFrom::Start(place)).unwrap();
    }
}

/// What was there all the time is listed once; what came or went meanwhile, at most once. Also when the other site does it.
#[test]
fn a_directory_that_changes_lists_nothing_twice_and_misses_nothing_that_stays() {
    let beside = Beside::start();
    let cluster = &beside.cluster;
    let [here, there] = [0, 1].map(|site| cluster.site(site).path("directory"));
    fs::create_dir(&here).unwrap();
    let stays: BTreeSet<String> = (0..400).map(|number| format!("stays-{number}")).collect();
    for name in &stays {
        fs::write(here.join(name), b"").unwrap();
        fs::write(here.join(format!("goes-{name}")), b"").unwrap();
    }
    cluster.wait_level();
    for changed_at in [&here, &there] {
        let mut listed: BTreeMap<String, usize> = BTreeMap::new();
        let mut reader = Reader::open(&here);
        let mut round = 0;
        loop {
            let names = reader.some();
            if names.is_empty() {
                break;
            }
            for (name, _) in names {
                *listed.entry(name).or_default() += 1;
            }
            for number in 0..8 {
                let name = format!("goes-stays-{}", (round * 8 + number) % 400);
                let _ = fs::remove_file(changed_at.join(&name));
                fs::write(changed_at.join(format!("comes-{round}-{number}")), b"").unwrap();
            }
            // A name that stays, although its file is another now.
            let name = changed_at.join(format!("stays-{}", round % 400));
            fs::write(changed_at.join("new"), b"new").unwrap();
            fs::rename(changed_at.join("new"), name).unwrap();
            round += 1;
        }
        assert!(round > 20, "the listing came in {round} pieces");
        let twice: Vec<_> = listed.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "listed twice: {twice:?}");
        let missed: Vec<_> = stays.iter().filter(|name| !listed.contains_key(*name)).collect();
        assert!(missed.is_empty(), "missed: {missed:?}");
        assert!(listed.contains_key(".") && listed.contains_key(".."));
        cluster.wait_level();
    }
    // A place stays the place, whatever changed since.
    let mut reader = Reader::open(&here);
    let mut pieces = Vec::new();
    for _ in 0..6 {
        pieces.push(reader.some());
    }
    for name in pieces[1].iter().chain(&pieces[4]).map(|(name, _)| name).filter(|name| name.starts_with("goes")) {
        fs::remove_file(there.join(name)).unwrap();
    }
    cluster.wait_level();
    for piece in [3, 0, 2, 4] {
        reader.seek(pieces[piece].last().unwrap().1);
        let after: Vec<String> = reader.some().into_iter().map(|(name, _)| name).collect();
        let kept = |name: &String| name.starts_with("stays");
        let before = pieces[piece + 1].iter().map(|(name, _)| name.clone()).filter(kept);
        assert_eq!(after.into_iter().filter(kept).collect::<Vec<_>>(), before.collect::<Vec<_>>());
    }
    cluster.assert_converges();
}

/// `SYNCLINE_MANY_NAMES` sets how many.
#[test]
fn a_directory_with_very_many_names_is_not_slow() {
    let many = number_from_env("SYNCLINE_MANY_NAMES", 10_000) as usize;
    let beside = Beside::start();
    let fill = |path: PathBuf, count: usize| {
        fs::create_dir(&path).unwrap();
        let begin = Instant::now();
        for number in 0..count {
            rustix::fs::mknodat(CWD, path.join(number.to_string()), FileType::RegularFile, MODE, 0).unwrap();
        }
        (path, begin.elapsed())
    };
    let list = |path: &Path| {
        let begin = Instant::now();
        let count = fs::read_dir(path).unwrap().count();
        (count, begin.elapsed())
    };
    let remove = |path: &Path| {
        let begin = Instant::now();
        fs::remove_dir_all(path).unwrap();
        begin.elapsed()
    };
    // The time for each name may not grow with their number: compared with a directory of a tenth, with room for a busy machine.
    let (small, small_fill) = fill(beside.cluster.site(0).path("small"), many / 10);
    let (large, large_fill) = fill(beside.cluster.site(0).path("large"), many);
    let ((small_count, small_list), (large_count, large_list)) = (list(&small), list(&large));
    assert_eq!((small_count, large_count), (many / 10, many));
    beside.cluster.wait_level();
    assert_eq!(list(&beside.cluster.site(1).path("large")).0, many);
    let (small_remove, large_remove) = (remove(&small), remove(&large));
    for (what, small, large) in
        [("fill", small_fill, large_fill), ("list", small_list, large_list), ("remove", small_remove, large_remove)]
    {
        eprintln!("{what}: {} names in {small:?}, {many} in {large:?}", many / 10);
        assert!(large < small * 50 + Duration::from_secs(1), "{what}: {small:?} for a tenth, {large:?} for all");
    }
    beside.cluster.assert_converges();
}
