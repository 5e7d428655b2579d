//! Advisory locks between processes at one site: flock, POSIX (`fcntl`) and open file descriptions' (OFD).
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use integration::beside::Beside;
use integration::outcome::eventually;

/// How long what must happen may take.
const SOON: Duration = Duration::from_secs(30);

/// Does what its standard input says, a line at a time, and answers with a line.
const LOCKER: &str = r#"
import errno, fcntl, os, signal, struct, sys
F_OFD_SETLK, F_OFD_SETLKW = 37, 38
class Interrupted(Exception): pass
def interrupted(*_): raise Interrupted
signal.signal(signal.SIGUSR1, interrupted)
files = {}
def range_lock(file, kind, wait, start, length, ofd):
    kind = {"shared": fcntl.F_RDLCK, "exclusive": fcntl.F_WRLCK, "none": fcntl.F_UNLCK}[kind]
    command = (F_OFD_SETLKW if wait else F_OFD_SETLK) if ofd else (fcntl.F_SETLKW if wait else fcntl.F_SETLK)
    fcntl.fcntl(files[file], command, struct.pack("hhqqi4x", kind, os.SEEK_SET, int(start), int(length), 0))
def run(words):
    what, rest = words[0], words[1:]
    if what == "open": files[rest[0]] = os.open(rest[1], os.O_RDWR)
    elif what == "dup": files[rest[0]] = os.dup(files[rest[1]])
    elif what == "close": os.close(files.pop(rest[0]))
    elif what == "flock":
        kind = {"shared": fcntl.LOCK_SH, "exclusive": fcntl.LOCK_EX, "none": fcntl.LOCK_UN}[rest[1]]
        fcntl.flock(files[rest[0]], kind | (0 if rest[2] == "wait" else fcntl.LOCK_NB))
    elif what in ("posix", "ofd"):
        file, kind, wait, start, length = rest
        range_lock(file, kind, wait == "wait", start, length, what == "ofd")
    elif what == "ask":
        file, kind, start, length = rest
        kind = fcntl.F_WRLCK if kind == "exclusive" else fcntl.F_RDLCK
        found = fcntl.fcntl(files[file], fcntl.F_GETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, int(start), int(length), 0))
        kind, _, start, length, pid = struct.unpack("hhqqi4x", found)
        return {fcntl.F_RDLCK: f"shared {start} {length}", fcntl.F_WRLCK: f"exclusive {start} {length}", fcntl.F_UNLCK: "none"}[kind]
    return "done"
for line in sys.stdin:
    print("begun", flush=True)
    try: print(run(line.split()), flush=True)
    except Interrupted: print("EINTR", flush=True)
    except OSError as error: print(errno.errorcode[error.errno], flush=True)
"#;

/// A process that locks.
struct Locker {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Locker {
    /// With `path` open as `file`.
    fn start(path: &Path) -> Self {
        let mut command = Command::new("python3");
        let mut process =
            command.args(["-c", LOCKER]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 runs");
        let (orders, answers) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        let mut locker = Self { process, orders, answers };
        assert_eq!(locker.run(&format!("open file {}", path.display())), "done");
        locker
    }

    fn run(&mut self, order: &str) -> String {
        self.begin(order);
        self.answer()
    }

    /// Returns as soon as the order is begun.
    fn begin(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
        assert_eq!(self.answer(), "begun");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Waits until the order that was begun waits for a lock.
    fn await_blocked(&self) {
        let name = format!("/proc/{}/wchan", self.process.id());
        let status = format!("/proc/{}/stat", self.process.id());
        eventually(SOON, "the process waits for the lock", || {
            let waits_at = fs::read_to_string(&name).unwrap_or_default();
            let text = fs::read_to_string(&status).unwrap();
            let asleep = text.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('S'));
            // Where the kernel doesn't say what it waits for, that it sleeps has to do: the order was begun.
            let lock = waits_at.contains("lock") || waits_at.contains("setlk") || matches!(waits_at.as_str(), "" | "0");
            if asleep && lock { Ok(()) } else { Err(format!("{waits_at}: {text}")) }
        });
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.process.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How each kind of lock is asked for: on the whole file.
const KINDS: [(&str, &str); 3] = [("flock", ""), ("posix", " 0 0"), ("ofd", " 0 0")];

#[test]
fn locks_hold_between_processes() {
    let beside = Beside::start();
    beside.same("exclusion", |at, notes| {
        for (kind, range) in KINDS {
            let path = at.join(kind);
            fs::write(&path, b"0123456789").unwrap();
            let (mut one, mut other) = (Locker::start(&path), Locker::start(&path));
            let mut step = |who: &str, order: &str| {
                let locker = if who == "one" { &mut one } else { &mut other };
                notes.saw(format_args!("{kind}: {who} {order}"), locker.run(&format!("{kind} file {order}{range}")));
            };
            for (who, order) in [
                ("one", "shared try"),
                ("other", "shared try"),
                ("other", "exclusive try"),
                ("one", "none try"),
                ("other", "exclusive try"),
                ("one", "shared try"),
                ("other", "shared try"),
                ("one", "shared try"),
            ] {
                step(who, order);
            }
        }
    });
    beside.same("ranges", |at, notes| {
        let path = at.join("file");
        fs::write(&path, b"0123456789").unwrap();
        let (mut one, mut other) = (Locker::start(&path), Locker::start(&path));
        for order in ["posix file exclusive try 2 3", "posix file shared try 3 1", "ofd file shared try 7 0"] {
            notes.saw(order, one.run(order));
        }
        for order in [
            "posix file shared try 0 2",
            "posix file exclusive try 2 1",
            "posix file shared try 3 1",
            "posix file exclusive try 3 1",
            "ask file exclusive 0 0",
            "ask file shared 0 0",
            "ask file exclusive 5 2",
            "posix file shared try 9223372036854775807 1",
            "posix file exclusive try 1000 5",
            "ofd file shared try 1000 5",
            "ofd file shared try 4 1",
        ] {
            notes.saw(order, other.run(order));
        }
        // POSIX locks go with the first close of any descriptor, an open file description's with the last.
        for order in ["open second PATH", "close second"] {
            notes.saw(order, one.run(&order.replace("PATH", &path.display().to_string())));
        }
        for order in ["posix file exclusive try 2 3", "ofd file exclusive try 7 0"] {
            notes.saw(order, other.run(order));
        }
        for order in ["dup second file", "close file"] {
            notes.saw(order, one.run(order));
        }
        notes.saw("held by the duplicate", other.run("ofd file exclusive try 7 0"));
        notes.saw("close", one.run("close second"));
        notes.saw("held by nobody", other.run("ofd file exclusive try 7 0"));
    });
    beside.cluster.assert_converges();
}

#[test]
fn who_waits_for_a_lock_gets_it_or_is_interrupted() {
    let beside = Beside::start();
    beside.same("waiting", |at, notes| {
        for (kind, range) in KINDS {
            let path = at.join(kind);
            fs::write(&path, b"").unwrap();
            let (mut holder, mut waiter) = (Locker::start(&path), Locker::start(&path));
            let wait = format!("{kind} file exclusive wait{range}");
            notes.saw("held", holder.run(&wait));
            waiter.begin(&wait);
            waiter.await_blocked();
            waiter.signal(rustix::process::Signal::USR1);
            notes.saw("interrupted", waiter.answer());
            waiter.begin(&wait);
            waiter.await_blocked();
            notes.saw("released", holder.run(&format!("{kind} file none try{range}")));
            notes.saw("got", waiter.answer());
            // And from one who dies with it.
            holder.begin(&wait);
            holder.await_blocked();
            waiter.signal(rustix::process::Signal::KILL);
            notes.saw("inherited from the dead", holder.answer());
        }
    });
    beside.same("deadlock", |at, notes| {
        let path = at.join("file");
        fs::write(&path, b"").unwrap();
        let (mut one, mut other) = (Locker::start(&path), Locker::start(&path));
        notes.saw("one", one.run("posix file exclusive try 0 1"));
        notes.saw("other", other.run("posix file exclusive try 1 1"));
        one.begin("posix file exclusive wait 1 1");
        one.await_blocked();
        notes.saw("the circle closes", other.run("posix file exclusive wait 0 1"));
        notes.saw("released", other.run("posix file none try 1 1"));
        notes.saw("one goes on", one.answer());
    });
    beside.cluster.assert_converges();
}

/// What another site does to a file that is locked here, changes nothing of the lock.
#[test]
fn locks_stay_with_the_site() {
    let beside = Beside::start();
    let [here, there] = [0, 1].map(|site| beside.cluster.site(site).path("file"));
    fs::write(&here, b"content").unwrap();
    beside.cluster.wait_level();
    let (mut holder, mut remote) = (Locker::start(&here), Locker::start(&there));
    for (kind, range) in KINDS {
        assert_eq!(holder.run(&format!("{kind} file exclusive try{range}")), "done");
        assert_eq!(remote.run(&format!("{kind} file exclusive try{range}")), "done", "{kind} locks are of one site");
        fs::write(&there, format!("from there, while it is locked by {kind}")).unwrap();
        beside.cluster.wait_level();
        let mut second = Locker::start(&here);
        assert_eq!(second.run(&format!("{kind} file shared try{range}")), "EAGAIN");
        assert_eq!(holder.run(&format!("{kind} file none try{range}")), "done");
        for locker in [&mut second, &mut remote] {
            assert_eq!(locker.run(&format!("{kind} file none try{range}")), "done");
        }
    }
    beside.cluster.assert_converges();
}
