//! PostgreSQL's own programs: as an unprivileged user, with the socket and the log in a directory of the test, and nothing of
//! the system's service.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::outcome::{OrFail, eventually};
use crate::reaper::{self, Debris};
use crate::site::{show, succeed};

/// The one that may do everything inside.
const ROLE: &str = "postgres";
/// How long a server may take to answer, recovery included, and to stop.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(120);
/// How long one may take to give up when it was told to: it kills its own children after five seconds.
const ABANDON_LIMIT: Duration = Duration::from_secs(20);

/// An installation of PostgreSQL, and where its sockets and logs go.
pub struct Postgres {
    programs: PathBuf,
    place: PathBuf,
    user: Option<(u32, u32)>,
}

impl Postgres {
    /// The newest one installed. `place` is made, and must have a short path: a socket's name has at most 107 bytes.
    ///
    /// # Panics
    /// When none is installed.
    pub fn find(place: &Path) -> Self {
        let installed = fs::read_dir("/usr/lib/postgresql").or_fail("PostgreSQL is needed (package postgresql)");
        let programs = installed.flatten().map(|version| version.path().join("bin"));
        let newest = programs.filter(|bin| bin.join("initdb").is_file()).max();
        let programs = newest.or_fail("PostgreSQL is needed (package postgresql)");
        // It refuses to run as root.
        let user = rustix::process::geteuid().is_root().then(|| ids_of("postgres"));
        let postgres = Self { programs, place: place.to_owned(), user };
        postgres.own(place);
        postgres
    }

    /// Makes a directory that only its user may use. Those above must let that user through.
    pub fn own(&self, directory: &Path) {
        fs::create_dir_all(directory).or_fail(format_args!("cannot make {}", directory.display()));
        let failed = format!("cannot give {} away", directory.display());
        if let Some((uid, gid)) = self.user {
            chown(directory, Some(uid), Some(gid)).or_fail(&failed);
        }
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).or_fail(&failed);
    }

    /// One of its programs, as its user and for its socket.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        // The settings of the one who runs the test must not reach it.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        command.current_dir(&self.place).env("HOME", &self.place).env("LC_ALL", "C");
        command.env("PGHOST", &self.place).env("PGUSER", ROLE).env("PGDATABASE", "postgres");
        command.stdin(Stdio::null());
        command
    }

    /// `initdb`, with checksums on every page.
    pub fn initdb(&self, data: &Path) {
        self.own(data);
        let mut command = self.program("initdb");
        command.args(["--auth=trust", "--data-checksums", "--no-locale", "--encoding=UTF8", "--username", ROLE]);
        succeed(command.arg("-D").arg(data));
    }

    /// `pg_checksums --check`: reads every page of a server that was stopped.
    pub fn check_pages(&self, data: &Path) {
        succeed(self.program("pg_checksums").args(["--check", "-D"]).arg(data));
    }

    /// Starts a server and waits until it answers. One at a time: the socket is the same for all.
    ///
    /// # Panics
    /// When it doesn't; with its log.
    pub fn start(&self, data: &Path) -> Server<'_> {
        let log = self.place.join("log");
        let out = OpenOptions::new().create(true).append(true).open(&log).or_fail("cannot open the log");
        let errors = out.try_clone().or_fail("cannot share the log");
        let mut command = self.program("postgres");
        command.arg("-D").arg(data).arg("-k").arg(&self.place).args(["-c", "listen_addresses="]);
        let child = command.process_group(0).stdout(out).stderr(errors).spawn().or_fail("cannot start postgres");
        reaper::note(Debris::Group(child.id()));
        let mut server = Server { postgres: self, child: Some(child) };
        eventually(START_LIMIT, "postgres answers", || {
            if let Some(status) = server.exited() {
                panic!("postgres ended with {status}:\n{}", fs::read_to_string(&log).unwrap_or_default());
            }
            let output = self.program("psql").args(["-X", "-c", "SELECT 1"]).output().or_fail("cannot run psql");
            if output.status.success() { Ok(()) } else { Err(show(&output)) }
        });
        server
    }
}

/// A running server. Dropping it takes it down at once, as a crash would.
pub struct Server<'p> {
    postgres: &'p Postgres,
    child: Option<Child>,
}

impl Server<'_> {
    /// What a statement gives: a row a line, columns with `|` between them.
    #[track_caller]
    pub fn sql(&self, statement: &str) -> String {
        let mut command = self.postgres.program("psql");
        command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement]);
        succeed(&mut command).trim_end().to_owned()
    }

    /// `pgbench` to its end.
    #[track_caller]
    pub fn bench(&self, arguments: &[&str]) -> String {
        succeed(self.postgres.program("pgbench").args(arguments))
    }

    /// Starts `pgbench`.
    pub fn start_bench(&self, arguments: &[&str]) -> Child {
        let mut command = self.postgres.program("pgbench");
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().or_fail("cannot run pgbench")
    }

    /// Lets it finish what it does and stop.
    ///
    /// # Panics
    /// When it doesn't, or not with success.
    pub fn stop(mut self) {
        self.signal(Signal::INT);
        let status =
            eventually(STOP_LIMIT, "postgres stops", || self.exited().ok_or_else(|| "it still runs".to_owned()));
        assert!(status.success(), "postgres ended with {status}");
    }

    /// Takes it down at once: what was not on disk is lost to it.
    pub fn abandon(self) {}

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.as_ref().and_then(|child| Pid::from_raw(child.id() as i32)) {
            // It may be gone already.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().or_fail("cannot wait for postgres")?;
        reaper::forget(Debris::Group(self.child.take()?.id()));
        Some(status)
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        self.signal(Signal::QUIT);
        let begin = Instant::now();
        while self.child.is_some() && self.exited().is_none() {
            if begin.elapsed() > ABANDON_LIMIT {
                self.signal(Signal::KILL);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// How many transactions a `pgbench` that ended, well or not, says were committed.
///
/// # Panics
/// When it says nothing of it.
pub fn committed(output: &Output) -> u64 {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
    let number = line.and_then(|rest| rest.split('/').next()?.trim().parse().ok());
    number.or_fail(format_args!("pgbench says no number: {}", show(output)))
}

fn ids_of(user: &str) -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").or_fail("cannot read /etc/passwd");
    let line = users.lines().find(|line| line.split(':').next() == Some(user));
    let mut fields = line.or_fail(format_args!("there is no user {user}")).split(':').skip(2);
    let mut id = || fields.next().and_then(|field| field.parse().ok()).or_fail("/etc/passwd is not as it should be");
    (id(), id())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_pgbench_says_is_read() {
        let said = |out: &str| {
            let output = Command::new("printf").args(["%s", out]).output().unwrap();
            committed(&output)
        };
        assert_eq!(said("duration: 3 s\nnumber of transactions actually processed: 418\nlatency"), 418);
        assert_eq!(said("number of transactions actually processed: 7/800\n"), 7);
    }

    #[test]
    #[should_panic(expected = "pgbench says no number")]
    fn a_pgbench_that_says_nothing_is_not_taken_for_zero() {
        committed(&Command::new("true").output().unwrap());
    }
}
