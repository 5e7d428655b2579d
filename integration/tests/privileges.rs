//! Modes, owners and attributes, and who may have what: set-uid and set-gid bits, capabilities of files, groups of directories, namespaces of
//! extended attributes, access times.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use integration::beside::{Beside, Notes, as_user};
use rustix::fs::{CWD, FallocateFlags, FileType, Mode, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use rustix::thread::UnshareFlags;

const OWNER: u32 = 1201;
const OTHER: u32 = 1202;
const GROUP: u32 = 1300;
const GROUPS: [u32; 2] = [GROUP, 1301];

const CAPABILITY: &str = "security.capability";
/// `cap_net_bind_service` permitted, as the kernel keeps it (version 2).
const BIND: [u8; 20] = [0, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn bits_and_capabilities_go_as_on_a_local_file_system() {
    let beside = Beside::start();
    beside.same("bits", bits);
    beside.same("capabilities", capabilities);
    beside.same("modes", modes);
    beside.same("owners", owners);
    beside.same("groups-of-directories", groups_of_directories);
    beside.same("sticky", sticky);
    beside.cluster.assert_converges();
}

#[test]
fn attributes_are_kept_by_namespace() {
    let beside = Beside::start();
    beside.same("namespaces", namespaces);
    beside.same("times", times);
    large_attributes(&beside);
    no_access_lists(&beside.cluster.site(0).mountpoint);
    beside.cluster.assert_converges();
    reading_leaves_the_access_time(&beside);
    beside.cluster.assert_converges();
}

type Change = (&'static str, fn(&Path) -> std::io::Result<()>);

fn opened(path: &Path, work: impl FnOnce(&File) -> std::io::Result<()>) -> std::io::Result<()> {
    work(&OpenOptions::new().write(true).open(path)?)
}

/// What takes bits away, or may.
const CHANGES: [Change; 14] = [
    ("write", |path| opened(path, |file| file.write_all_at(b"x", 0))),
    ("write by a handle that reads too", |path| {
        OpenOptions::new().read(true).write(true).open(path)?.write_all_at(b"x", 0)
    }),
    ("append", |path| OpenOptions::new().append(true).open(path)?.write_all(b"x")),
    ("write of nothing", |path| opened(path, |file| Ok(rustix::io::pwrite(file, b"", 0).map(drop)?))),
    ("ftruncate", |path| opened(path, |file| file.set_len(3))),
    ("ftruncate to its size", |path| opened(path, |file| file.set_len(file.metadata()?.len()))),
    ("open to truncate", |path| OpenOptions::new().write(true).truncate(true).open(path).map(drop)),
    ("fallocate", |path| opened(path, |file| Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, 100)?))),
    ("fallocate within", |path| opened(path, |file| Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, 3)?))),
    ("punch", |path| {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        opened(path, |file| Ok(rustix::fs::fallocate(file, punch, 0, 5)?))
    }),
    ("copy into", |path| {
        let source = File::open(path)?;
        opened(path, |file| Ok(rustix::fs::copy_file_range(&source, Some(&mut 0), file, Some(&mut 100), 4).map(drop)?))
    }),
    ("chown to the same", |path| chown(path, Some(OWNER), None)),
    ("chgrp", |path| chown(path, None, Some(GROUPS[1]))),
    ("utimens", |path| {
        let time = Timespec { tv_sec: 5, tv_nsec: 6 };
        let times = Timestamps { last_access: time, last_modification: time };
        Ok(rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::empty())?)
    }),
];

fn bits(at: &Path, notes: &mut Notes) {
    let path = at.join("file");
    // Of others it is refused there, and does nothing here.
    let of_nothing: Change = ("chown of nothing", |path| match rustix::process::geteuid().as_raw() {
        OTHER => Ok(()),
        _ => chown(path, None, None),
    });
    for (change, run) in CHANGES.into_iter().chain([of_nothing]) {
        for mode in [0o6777, 0o6767, 0o4766, 0o2676, 0o2666] {
            for user in [0, OWNER, OTHER] {
                fs::write(&path, b"content").unwrap();
                chown(&path, Some(OWNER), Some(GROUP)).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                let done = if user == 0 { run(&path) } else { as_user(user, GROUP, &GROUPS, || run(&path)) };
                notes.done(format_args!("{change} of {mode:o} by {user}"), done);
                notes.note("then", fs::metadata(&path).map(|meta| format!("{:o} {}", meta.mode(), meta.gid())));
                fs::remove_file(&path).unwrap();
            }
        }
    }
    for (kind, mode) in [("directory", 0o6777), ("fifo", 0o6755)] {
        let path = at.join(kind);
        match kind {
            "directory" => fs::create_dir(&path).unwrap(),
            _ => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::empty(), 0).unwrap(),
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        chown(&path, Some(OWNER), Some(GROUP)).unwrap();
        notes.note(kind, fs::metadata(&path).map(|meta| format!("{:o}", meta.mode())));
    }
}

fn capabilities(at: &Path, notes: &mut Notes) {
    let path = at.join("file");
    for (change, run) in CHANGES {
        for user in [0, OWNER] {
            fs::write(&path, b"content").unwrap();
            chown(&path, Some(OWNER), Some(GROUP)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            rustix::fs::setxattr(&path, CAPABILITY, &BIND, XattrFlags::empty()).unwrap();
            let done = if user == 0 { run(&path) } else { as_user(user, GROUP, &GROUPS, || run(&path)) };
            notes.done(format_args!("{change} by {user}"), done);
            let mut value = [0; 40];
            notes.note("capability", rustix::fs::getxattr(&path, CAPABILITY, &mut value[..]));
            fs::remove_file(&path).unwrap();
        }
    }
    fs::write(&path, b"content").unwrap();
    chown(&path, Some(OWNER), None).unwrap();
    let set = as_user(OWNER, GROUP, &[], || rustix::fs::setxattr(&path, CAPABILITY, &BIND, XattrFlags::empty()));
    notes.done("set by its owner", set);
    notes.done("what is no capability", rustix::fs::setxattr(&path, CAPABILITY, b"none", XattrFlags::empty()));
}

fn modes(at: &Path, notes: &mut Notes) {
    let path = at.join("file");
    for mode in [0o7777, 0o6755, 0o2711, 0o2644, 0o1777, 0] {
        for (user, groups) in [(OWNER, &[GROUP][..]), (OWNER, &[]), (OTHER, &[GROUP]), (0, &[])] {
            fs::write(&path, b"content").unwrap();
            chown(&path, Some(OWNER), Some(GROUP)).unwrap();
            let set = || fs::set_permissions(&path, fs::Permissions::from_mode(mode));
            let done = if user == 0 { set() } else { as_user(user, OTHER, groups, set) };
            notes.done(format_args!("{mode:o} by {user} in {groups:?}"), done);
            notes.note("then", fs::metadata(&path).map(|meta| format!("{:o}", meta.mode())));
            fs::remove_file(&path).unwrap();
        }
    }
}

fn owners(at: &Path, notes: &mut Notes) {
    let path = at.join("file");
    let cases = [(Some(OTHER), None), (None, Some(GROUP)), (None, Some(GROUPS[1])), (None, Some(7)), (None, None)];
    for (uid, gid) in cases.into_iter().chain([(Some(OWNER), Some(GROUP)), (Some(OTHER), Some(GROUP))]) {
        for user in [0, OWNER, OTHER] {
            fs::write(&path, b"content").unwrap();
            chown(&path, Some(OWNER), Some(GROUP)).unwrap();
            let set = || chown(&path, uid, gid);
            let done = if user == 0 { set() } else { as_user(user, GROUP, &GROUPS, set) };
            notes.done(format_args!("to {uid:?}:{gid:?} by {user}"), done);
            notes.note("then", fs::metadata(&path).map(|meta| (meta.uid(), meta.gid())));
            fs::remove_file(&path).unwrap();
        }
    }
    symlink("file", &path).unwrap();
    notes.done("of a link", std::os::unix::fs::lchown(&path, Some(OTHER), Some(GROUP)));
}

/// Runs `work` in a thread with this umask of its own.
fn with_umask<T: Send>(umask: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let run = || {
            // SAFETY: the thread takes the umask and the working directory for itself; no descriptor changes its meaning.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.unwrap();
            rustix::process::umask(Mode::from_raw_mode(umask));
            work()
        };
        scope.spawn(run).join().unwrap()
    })
}

fn groups_of_directories(at: &Path, notes: &mut Notes) {
    for (directory, mode) in [("plain", 0o777), ("passes-on", 0o2777)] {
        let directory = at.join(directory);
        fs::create_dir(&directory).unwrap();
        chown(&directory, Some(0), Some(GROUP)).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
        for umask in [0, 0o022, 0o077, 0o777] {
            for (user, groups) in [(0, &[][..]), (OWNER, &[]), (OWNER, &[GROUP])] {
                let member = groups.len();
                let path = |name: &str| directory.join(format!("{name}-{umask:o}-{user}-{member}"));
                let make = || {
                    let mode = Mode::from_raw_mode(0o2775);
                    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
                    [
                        rustix::fs::open(path("file"), flags, mode).map(drop),
                        rustix::fs::mkdir(path("directory"), mode),
                        rustix::fs::mknodat(CWD, path("fifo"), FileType::Fifo, mode, 0),
                        rustix::fs::mknodat(CWD, path("node"), FileType::RegularFile, mode, 0),
                        rustix::fs::symlink("target", path("link")),
                    ]
                };
                let as_who = || if user == 0 { make() } else { as_user(user, OTHER, groups, make) };
                for (name, made) in ["file", "directory", "fifo", "node", "link"].iter().zip(with_umask(umask, as_who))
                {
                    notes.done(path(name).file_name().unwrap().display(), made);
                    let state = |meta: fs::Metadata| (format!("{:o}", meta.mode()), meta.uid(), meta.gid());
                    notes.note("then", fs::symlink_metadata(path(name)).map(state));
                }
            }
        }
    }
}

fn sticky(at: &Path, notes: &mut Notes) {
    fs::create_dir(at.join("sticky")).unwrap();
    fs::set_permissions(at.join("sticky"), fs::Permissions::from_mode(0o1777)).unwrap();
    let path = |name: &str| at.join("sticky").join(name);
    for owner in [OWNER, OTHER] {
        let name = owner.to_string();
        as_user(owner, owner, &[], || fs::write(path(&name), b"").unwrap());
    }
    let (own, others, new) = (path(&OWNER.to_string()), path(&OTHER.to_string()), path("new"));
    as_user(OWNER, OWNER, &[], || {
        notes.done("remove another's", fs::remove_file(&others));
        notes.done("rename another's", fs::rename(&others, &new));
        notes.done("replace another's", fs::rename(&own, &others));
        notes.done("rename one's own", fs::rename(&own, &new));
        notes.done("create over another's", OpenOptions::new().write(true).create(true).truncate(true).open(&others));
        notes.done("remove one's own", fs::remove_file(&new));
    });
}

fn namespaces(at: &Path, notes: &mut Notes) {
    fs::write(at.join("file"), b"").unwrap();
    fs::create_dir(at.join("directory")).unwrap();
    symlink("file", at.join("link")).unwrap();
    rustix::fs::mknodat(CWD, at.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    for name in ["file", "directory", "link", "fifo"] {
        let path = at.join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let long = format!("user.{}", "n".repeat(250));
        let too_long = format!("user.{}", "n".repeat(251));
        for attribute in ["user.a", "trusted.a", "security.a", "user.", "other.a", "plain", &long, &too_long] {
            for user in [0, OWNER] {
                let mut try_all = || {
                    let mut value = [0; 8];
                    let set = |flags| rustix::fs::lsetxattr(&path, attribute, b"value", flags);
                    notes.done(format_args!("{name}: {attribute} replaced by {user}"), set(XattrFlags::REPLACE));
                    notes.done("created", set(XattrFlags::CREATE));
                    notes.done("created again", set(XattrFlags::CREATE));
                    notes.done("set", set(XattrFlags::empty()));
                    notes.done("replaced", set(XattrFlags::REPLACE));
                    notes.note("got", rustix::fs::lgetxattr(&path, attribute, &mut value[..]));
                    notes.note("got with too little room", rustix::fs::lgetxattr(&path, attribute, &mut value[..2]));
                    notes.note("measured", rustix::fs::lgetxattr(&path, attribute, &mut value[..0]));
                    let mut names = [0; 1024];
                    let listed = rustix::fs::llistxattr(&path, &mut names[..]);
                    notes.note("listed", listed.map(|length| names[..length].escape_ascii().to_string()));
                    notes.done("removed", rustix::fs::lremovexattr(&path, attribute));
                    notes.done("removed again", rustix::fs::lremovexattr(&path, attribute));
                };
                if user == 0 { try_all() } else { as_user(user, user, &[], try_all) }
            }
        }
    }
}

/// ext4 keeps a few KiB; here there is as much as the kernel lets through.
fn large_attributes(beside: &Beside) {
    let path = beside.cluster.site(0).path("large");
    fs::write(&path, b"").unwrap();
    let value: Vec<u8> = (0..=65_536_u32).map(|number| (number * 7 % 251) as u8).collect();
    let set = |name: &str, length| rustix::fs::setxattr(&path, name, &value[..length], XattrFlags::empty());
    for length in [0, 1, 4096, 65_535, 65_536] {
        set("user.a", length).unwrap();
        let mut read = vec![0; 65_536];
        assert_eq!(rustix::fs::getxattr(&path, "user.a", &mut read[..]), Ok(length));
        assert!(read[..length] == value[..length]);
    }
    assert_eq!(set("user.a", 65_537), Err(Errno::TOOBIG));
    // As many names as a list may hold: then ENOSPC, as where ext4 is full.
    let name = |number: usize| format!("user.{number:0>200}");
    let refused = (0..400).find_map(|number| set(&name(number), 10).err().map(|error| (number, error)));
    let (count, error) = refused.unwrap();
    assert_eq!((count, error), ((65_536 - "user.a".len() - 1) / 206, Errno::NOSPC));
    let mut names = vec![0; 65_536];
    assert!(rustix::fs::listxattr(&path, &mut names[..]).unwrap() <= 65_536);
    for number in 0..count {
        rustix::fs::removexattr(&path, name(number).as_str()).unwrap();
    }
}

/// Access control lists would have to be enforced, which is not done: they are refused, so that nobody believes in them.
fn no_access_lists(at: &Path) {
    let list =
        [2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255];
    let mut value = [0; 100];
    for name in ["system.posix_acl_access", "system.posix_acl_default", "system.other"] {
        assert_eq!(rustix::fs::setxattr(at, name, &list, XattrFlags::empty()), Err(Errno::OPNOTSUPP), "{name}");
        assert_eq!(rustix::fs::getxattr(at, name, &mut value[..]), Err(Errno::OPNOTSUPP), "{name}");
    }
}

fn times(at: &Path, notes: &mut Notes) {
    const OMIT: i64 = 0x3fff_fffe;
    let path = at.join("file");
    fs::write(&path, b"content").unwrap();
    // Seconds that need more than 32 bits, but not the 34 of ext4.
    for (seconds, nanos) in [(0, 0), (-1, 999_999_999), (-2_147_483_648, 0), (4_294_967_296, 1), (15_032_385_534, 5)] {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
        let now = Timespec { tv_sec: 0, tv_nsec: OMIT };
        for (access, modification) in [(time, time), (now, time), (time, now)] {
            let times = Timestamps { last_access: access, last_modification: modification };
            let set = rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::empty());
            notes.done(format_args!("{seconds}.{nanos}"), set);
            let seen = |meta: fs::Metadata| (meta.atime(), meta.atime_nsec(), meta.mtime(), meta.mtime_nsec());
            notes.note("then", fs::metadata(&path).map(seen));
        }
    }
    let bad = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: 1_000_000_000 },
        last_modification: Timespec { tv_sec: 0, tv_nsec: 0 },
    };
    notes.done("no nanoseconds", rustix::fs::utimensat(CWD, &path, &bad, rustix::fs::AtFlags::empty()));
}

/// The mount says `noatime`, and keeps to it. What a program sets stays, and is sent on.
fn reading_leaves_the_access_time(beside: &Beside) {
    let path = beside.cluster.site(0).path("read");
    fs::write(&path, b"content").unwrap();
    let time = Timespec { tv_sec: 1_000_000, tv_nsec: 7 };
    let times = Timestamps { last_access: time, last_modification: Timespec { tv_sec: 2_000_000, tv_nsec: 8 } };
    rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::empty()).unwrap();
    beside.cluster.wait_level();
    for site in beside.cluster.sites() {
        assert_eq!(fs::read(site.path("read")).unwrap(), b"content");
        File::open(site.path("read")).unwrap().read_exact_at(&mut [0; 3], 1).unwrap();
        OpenOptions::new().read(true).write(true).open(site.path("read")).unwrap().read_at(&mut [0; 3], 1).unwrap();
        let meta = fs::metadata(site.path("read")).unwrap();
        assert_eq!((meta.atime(), meta.atime_nsec()), (1_000_000, 7), "site {}", site.name);
        let flags = rustix::fs::statvfs(&site.mountpoint).unwrap().f_flag;
        assert!(flags.contains(rustix::fs::StatVfsMountFlags::NOATIME), "site {}", site.name);
    }
}
