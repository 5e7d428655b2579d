//! Shared mappings of a file that is passed through, so that they are of the object and their stores are no requests.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use integration::cluster::{Cluster, Options};
use integration::compare::{self, Strictness};
use integration::mapper::Mapper;
use integration::outcome::eventually;
use integration::reaper::{self, Debris};
use integration::site::{succeed, unmount_dead};
use rustix::fs::SeekFrom;

const LIMIT: Duration = Duration::from_secs(60);

/// The kernel serves `sendfile` from pages of its own, also where reads are direct.
#[test]
fn sendfile_shows_what_a_mapping_stored() {
    const SCRIPT: &str = "
import mmap, os, socket, sys, time
held = open(sys.argv[1], 'rb')
file = os.open(sys.argv[1], os.O_RDWR)
mapping = mmap.mmap(file, 8192)
reader, writer = socket.socketpair()
def sent():
    os.sendfile(writer.fileno(), file, 0, 8192)
    return reader.recv(8192, socket.MSG_WAITALL)
assert sent() == b'a' * 8192
for stored in (b'b', b'c'):
    mapping[0:8192] = stored * 8192
    # The pages of the last time go a moment after they were read.
    limit = time.monotonic() + 30
    while sent() != stored * 8192:
        assert time.monotonic() < limit, 'the old bytes are sent again and again'
        time.sleep(0.01)
";
    let cluster = Cluster::start(2, Options::default());
    let file = cluster.site(0).path("sent");
    fs::write(&file, [b'a'; 8192]).unwrap();
    succeed(Command::new("python3").args(["-c", SCRIPT]).arg(&file));
    cluster.assert_converges();
    assert_eq!(fs::read(cluster.site(1).path("sent")).unwrap(), [b'c'; 8192]);
}

/// Maps the file, closes it, and then stores what it is told to, a line at a time: offset and letter.
fn map_and_close(file: &Path) -> Child {
    const SCRIPT: &str = "
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
held = os.open(sys.argv[1], os.O_RDONLY)
file = os.open(sys.argv[1], os.O_RDWR)
address = libc.mmap(None, 8192, 3, 1, file, 0)
assert address != ctypes.c_void_p(-1).value
os.close(file)
os.close(held)
print('mapped', flush=True)
for line in sys.stdin:
    offset, letter = line.split()
    ctypes.memmove(address + int(offset), letter.encode() * 4096, 4096)
    print('stored', flush=True)
";
    let mut python = Command::new("python3");
    python.args(["-c", SCRIPT]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
    python.spawn().expect("python3 is needed")
}

/// Waits until the file has these letters at its two pages.
fn assert_shows(file: &Path, letters: [u8; 2]) {
    eventually(LIMIT, &format!("{} shows what was stored", file.display()), || {
        let bytes = fs::read(file).map_err(|error| error.to_string())?;
        let right = bytes.len() == 8192 && bytes.chunks(4096).zip(letters).all(|(page, letter)| page == [letter; 4096]);
        if right { Ok(()) } else { Err(format!("{:?}", [bytes.first(), bytes.get(4096)])) }
    });
}

#[test]
fn stores_after_the_file_was_closed_reach_the_other_site() {
    stores_arrive(Cluster::start(2, Options::default()), false);
}

/// A file system that is mounted for a test.
struct Mounted(PathBuf);

impl Mounted {
    fn new(kind: &str, options: &str, at: PathBuf) -> Self {
        fs::create_dir(&at).unwrap();
        reaper::note(Debris::Mount(&at));
        succeed(Command::new("mount").args(["-t", kind, "-o", options, kind]).arg(&at));
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount_dead(&self.0);
        reaper::forget(Debris::Mount(&self.0));
    }
}

/// In an overlay, as the file system of a container is one, a mapping holds the file of the upper layer only.
#[test]
fn so_they_do_where_the_store_is_in_an_overlay() {
    let directory = tempfile::Builder::new().prefix("syncline-test-").tempdir().unwrap();
    reaper::note(Debris::Directory(directory.path()));
    let memory = Mounted::new("tmpfs", "size=1g", directory.path().join("layers"));
    let [lower, upper, work] = ["lower", "upper", "work"].map(|layer| {
        let path = memory.0.join(layer);
        fs::create_dir(&path).unwrap();
        path.display().to_string()
    });
    let layers = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let overlay = Mounted::new("overlay", &layers, directory.path().join("overlay"));
    let options = Options { stores: vec![overlay.0.join("store")], ..Options::default() };
    stores_arrive(Cluster::start(2, options), true);
    drop((overlay, memory));
    reaper::forget(Debris::Directory(directory.path()));
}

/// `cached`: the system writes stores back at its leisure, unless it is told to.
fn stores_arrive(cluster: Cluster, cached: bool) {
    let (here, there) = (cluster.site(0).path("mapped"), cluster.site(1).path("mapped"));
    fs::write(&here, [b'a'; 8192]).unwrap();
    let mut mapping = map_and_close(&here);
    let mut answers = BufReader::new(mapping.stdout.take().unwrap()).lines();
    let mut orders = mapping.stdin.take().unwrap();
    assert_eq!(answers.next().unwrap().unwrap(), "mapped");
    let mut store = |offset: u32, letter: char| {
        writeln!(orders, "{offset} {letter}").unwrap();
        assert_eq!(answers.next().unwrap().unwrap(), "stored");
    };
    store(0, 'b');
    if cached {
        File::open(&here).unwrap().sync_all().unwrap();
    }
    assert_shows(&there, *b"ba");
    // Who opens it meanwhile, and writes, has one file with the mapping.
    let open = File::options().read(true).write(true).open(&here).unwrap();
    assert_shows(&here, *b"ba");
    store(0, 'c');
    assert_shows(&here, *b"ca");
    open.write_all_at(&[b'd'; 4096], 4096).unwrap();
    drop(open);
    assert_shows(&there, *b"cd");
    // The last stores are followed by nothing but the end of the mapping.
    store(4096, 'e');
    drop(orders);
    assert!(mapping.wait().unwrap().success());
    assert_shows(&here, *b"ce");
    assert_shows(&there, *b"ce");
    eventually(LIMIT, "the sites are equal", || {
        cluster.wait_level();
        let (a, b) = (&cluster.site(0).mountpoint, &cluster.site(1).mountpoint);
        let found = compare::compare(a, b, Strictness::REPLICAS).map_err(|error| error.to_string())?;
        if found.is_empty() { Ok(()) } else { Err(compare::report(&found, 30)) }
    });
}

/// `cp`, `tar` and `rsync` pass over what `lseek` takes for holes.
#[test]
fn what_a_mapping_stored_into_a_hole_is_data_at_once() {
    const LEN: u64 = 1 << 20;
    const AT: u64 = 500_000;
    let cluster = Cluster::start(2, Options::default());
    let here = &cluster.site(0).mountpoint;
    for passed_through in [false, true] {
        let (name, copy) = (format!("sparse-{passed_through}"), format!("copy-{passed_through}"));
        File::create(here.join(&name)).unwrap().set_len(LEN).unwrap();
        let reader = passed_through.then(|| File::open(here.join(&name)).unwrap());
        let mut program = Mapper::start(Path::new(env!("CARGO_BIN_EXE_mapper")), here);
        program.run(&format!("open f r+w {name}"));
        program.run(&format!("map m f shared {LEN}"));
        for round in 0..3 {
            let (at, byte) = (AT + round * 70_000, b'b' + round as u8);
            program.run(&format!("store m {at} {byte} 3"));
            let other = File::open(here.join(&name)).unwrap();
            // From before all that was stored so far, so that only what is new is looked for.
            let data = rustix::fs::seek(&other, SeekFrom::Data(at - 50_000)).expect("data");
            assert!(data <= at, "{name}, round {round}: the next data is at {data}, not {at}");
            let hole = rustix::fs::seek(&other, SeekFrom::Hole(data)).expect("a hole");
            assert!(hole > at + 2, "{name}, round {round}: there is a hole at {hole}");
            succeed(Command::new("cp").arg("--sparse=auto").arg(here.join(&name)).arg(here.join(&copy)));
            let bytes = fs::read(here.join(&copy)).unwrap();
            assert_eq!(bytes[at as usize..at as usize + 3], [byte; 3], "{name}, round {round}: not copied");
            assert_eq!(bytes.len() as u64, LEN);
        }
        // What holes are left is still known.
        let other = File::open(here.join(&name)).unwrap();
        assert_eq!(rustix::fs::seek(&other, SeekFrom::Hole(0)).expect("a hole"), 0, "{name}");
        drop((program, reader));
    }
    cluster.assert_converges();
}
