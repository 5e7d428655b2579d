//! What is no regular file, what tells of changes, and names that another site replaces while programs use them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use integration::beside::{Beside, Notes};
use integration::outcome::number_from_env;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

const MODE: Mode = Mode::from_raw_mode(0o666);

#[test]
fn what_is_no_regular_file_works_as_on_a_local_file_system() {
    let beside = Beside::start();
    beside.same("pipes", pipes);
    beside.same("sockets", sockets);
    beside.same("devices", devices);
    beside.same("told", told);
    beside.cluster.assert_converges();
}

fn pipes(at: &Path, notes: &mut Notes) {
    let path = at.join("fifo");
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, MODE, 0).unwrap();
    let nonblocking = |flags: OFlags| rustix::fs::open(&path, flags | OFlags::NONBLOCK, MODE).map(File::from);
    notes.done("a writer without a reader", nonblocking(OFlags::WRONLY));
    thread::scope(|scope| {
        scope.spawn(|| OpenOptions::new().write(true).open(&path).unwrap().write_all(b"through the pipe").unwrap());
        let mut text = String::new();
        notes.note("read", File::open(&path).unwrap().read_to_string(&mut text));
        notes.saw("text", text);
    });
    let reader = nonblocking(OFlags::RDONLY);
    if let Some(mut reader) = notes.done("a reader without a writer", reader) {
        notes.note("end", reader.read(&mut [0; 1]));
        notes.done("a writer with a reader", nonblocking(OFlags::WRONLY));
    }
    notes.note("stat", fs::metadata(&path).map(|meta| (meta.len(), meta.file_type().is_fifo())));
    fs::rename(&path, at.join("moved")).unwrap();
    fs::hard_link(at.join("moved"), at.join("second")).unwrap();
}

fn sockets(at: &Path, notes: &mut Notes) {
    let path = at.join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    notes.done("bind again", UnixListener::bind(&path));
    notes.done("open", File::open(&path));
    notes.note("is a socket", fs::metadata(&path).map(|meta| meta.file_type().is_socket()));
    // Renamed and linked, it is the same socket.
    fs::rename(&path, at.join("moved")).unwrap();
    fs::hard_link(at.join("moved"), at.join("second")).unwrap();
    for name in ["moved", "second"] {
        let mut client = UnixStream::connect(at.join(name)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(name.as_bytes()).unwrap();
        drop(client);
        let mut text = String::new();
        notes.note("received", server.read_to_string(&mut text));
        notes.saw("text", text);
    }
    drop(listener);
    notes.done("connect to nobody", UnixStream::connect(at.join("moved")));
    notes.done("connect to nothing", UnixStream::connect(&path));
    let receiver = UnixDatagram::bind(at.join("datagrams")).unwrap();
    let sent = UnixDatagram::unbound().unwrap().send_to(b"datagram", at.join("datagrams"));
    notes.note("sent", sent);
    notes.note("received", receiver.recv(&mut [0; 20]));
}

fn devices(at: &Path, notes: &mut Notes) {
    for (name, kind, major, minor) in [
        ("null", FileType::CharacterDevice, 1, 3),
        ("zero", FileType::CharacterDevice, 1, 5),
        ("nobody", FileType::CharacterDevice, 4_000, 1_000_000),
        ("disk", FileType::BlockDevice, 259, 300_000),
    ] {
        let path = at.join(name);
        let made = rustix::fs::mknodat(CWD, &path, kind, MODE, rustix::fs::makedev(major, minor));
        notes.done(format_args!("mknod {name}"), made);
        notes.note("device", fs::metadata(&path).map(|meta| (meta.rdev(), meta.mode(), meta.len())));
    }
    notes.done("write to null", fs::write(at.join("null"), b"gone"));
    let mut bytes = [1; 4];
    notes.note("read from zero", File::open(at.join("zero")).and_then(|mut zero| zero.read(&mut bytes)));
    notes.saw("bytes", bytes);
    notes.done("open of none", File::open(at.join("nobody")));
    for kind in [FileType::Directory, FileType::Symlink, FileType::Unknown] {
        notes.done(format_args!("mknod of {kind:?}"), rustix::fs::mknodat(CWD, at.join("odd"), kind, MODE, 0));
    }
}

/// Everything that a program is told of that watches.
fn told(at: &Path, notes: &mut Notes) {
    let directory = at.join("directory");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("file"), b"content").unwrap();
    let watcher = inotify::init(CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watcher, &directory, WatchFlags::ALL_EVENTS).unwrap();
    inotify::add_watch(&watcher, directory.join("file"), WatchFlags::ALL_EVENTS).unwrap();
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut step = |what: &str, work: &dyn Fn()| {
        work();
        // The kernel tells at once, before the call returns, except that a file's last close may take a moment.
        let mut reader = inotify::Reader::new(watcher.as_fd(), &mut buffer);
        let mut events = BTreeSet::new();
        let begin = Instant::now();
        loop {
            match reader.next() {
                Ok(event) => {
                    // Of a file by its directory and by itself. What is told of closing and opening by a look at the file is not asked for.
                    let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
                    let kind = event.events() - ReadFlags::ISDIR;
                    events.insert(format!("{kind:?} {name:?}"));
                }
                Err(Errno::AGAIN) if begin.elapsed() > Duration::from_millis(100) => break,
                Err(Errno::AGAIN) => thread::sleep(Duration::from_millis(5)),
                Err(error) => panic!("{error}"),
            }
        }
        notes.saw(what, events);
    };
    let path = |name: &str| directory.join(name);
    step("create", &|| fs::write(path("new"), b"").unwrap());
    step("write", &|| OpenOptions::new().write(true).open(path("file")).unwrap().write_all(b"x").unwrap());
    step("truncate", &|| OpenOptions::new().write(true).open(path("file")).unwrap().set_len(1).unwrap());
    step("chmod", &|| rustix::fs::chmod(path("file"), MODE).unwrap());
    step("mkdir", &|| fs::create_dir(path("sub")).unwrap());
    step("symlink", &|| std::os::unix::fs::symlink("x", path("link")).unwrap());
    step("link", &|| fs::hard_link(path("file"), path("hard")).unwrap());
    step("rename", &|| fs::rename(path("new"), path("renamed")).unwrap());
    step("replace", &|| fs::rename(path("renamed"), path("hard")).unwrap());
    step("move out", &|| fs::rename(path("hard"), at.join("out")).unwrap());
    step("move in", &|| fs::rename(at.join("out"), path("in")).unwrap());
    step("setxattr", &|| {
        rustix::fs::setxattr(path("file"), "user.a", b"v", rustix::fs::XattrFlags::empty()).unwrap();
    });
    step("unlink", &|| fs::remove_file(path("file")).unwrap());
    step("rmdir", &|| fs::remove_dir(path("sub")).unwrap());
    step("all", &|| fs::remove_dir_all(&directory).unwrap());
}

/// For how long names are contended for, in milliseconds.
const STALE_VARIABLE: &str = "SYNCLINE_STALE_MS";

/// Another site creates, replaces, renames and removes the names that programs use here. They get what was there at some moment: never
/// ESTALE, nor EIO, nor anything else that a local file system would not say.
#[test]
fn names_that_another_site_replaces_are_never_stale() {
    let beside = Beside::start();
    let cluster = &beside.cluster;
    let [here, there] = [0, 1].map(|site| cluster.site(site).path("contended"));
    fs::create_dir(&here).unwrap();
    cluster.wait_level();
    let end = Instant::now() + Duration::from_millis(number_from_env(STALE_VARIABLE, 4_000));
    let (stop, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let there = &there;
        scope.spawn(|| {
            let mut round = 0_u64;
            while Instant::now() < end {
                round += 1;
                let _ = fs::write(there.join("name"), round.to_string());
                if round.is_multiple_of(3) {
                    let _ = fs::write(there.join("other"), b"other");
                    let _ = fs::rename(there.join("other"), there.join("name"));
                }
                if round.is_multiple_of(7) {
                    let _ = fs::create_dir(there.join("directory"));
                    let _ = fs::write(there.join("directory/below"), b"below");
                    let _ = fs::remove_dir_all(there.join("directory"));
                }
                if round.is_multiple_of(2) {
                    let _ = fs::remove_file(there.join("name"));
                }
            }
            stop.store(true, Relaxed);
        });
        type Use = fn(&Path) -> std::io::Result<()>;
        let uses: [Use; 6] = [
            |at| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(at.join("name")).map(drop),
            |at| {
                let file =
                    OpenOptions::new().read(true).custom_flags(OFlags::CREATE.bits() as i32).open(at.join("name"))?;
                file.read_at(&mut [0; 16], 0)?;
                file.metadata().map(drop)
            },
            |at| {
                let file = File::open(at.join("name"))?;
                file.read_at(&mut [0; 16], 0)?;
                file.metadata().map(drop)
            },
            |at| fs::metadata(at.join("name")).and(fs::symlink_metadata(at.join("directory/below"))).map(drop),
            |at| {
                fs::write(at.join("mine"), b"mine")?;
                fs::rename(at.join("mine"), at.join("name"))
            },
            |at| {
                for entry in fs::read_dir(at.join("directory"))? {
                    entry?.metadata()?;
                }
                File::create(at.join("directory/local")).map(drop)
            },
        ];
        for work in uses {
            let (here, stop, calls) = (&here, &stop, &calls);
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    calls.fetch_add(1, Relaxed);
                    let Err(error) = work(here) else { continue };
                    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
                    assert!(matches!(errno, Some(Errno::NOENT)), "{error}");
                }
            });
        }
    });
    assert!(calls.load(Relaxed) > 100);
    cluster.assert_converges();
}
