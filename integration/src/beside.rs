//! The same operations in a plain directory of the file system below and in a mount: what programs get must be the same.
//!
//! A case does things in the directory that it is given and [notes](Notes) what came of each. It runs in a plain directory, then in one of the
//! same name in the mount; the notes and the trees must be equal.

use std::fmt::{Debug, Display};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::process::{Gid, Uid};

use crate::cluster::{Cluster, Options};
use crate::compare::{self, Attribute, Strictness};
use crate::outcome::OrFail;

/// Two sites, and a plain directory beside their stores.
pub struct Beside {
    /// The sites.
    pub cluster: Cluster,
    plain: PathBuf,
}

/// What came of each operation of a case.
#[derive(Default)]
pub struct Notes {
    lines: Vec<String>,
}

impl Notes {
    /// Notes the value or the error of an operation, and answers the value.
    pub fn note<T: Debug, E: Into<io::Error>>(&mut self, what: impl Display, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => {
                self.lines.push(format!("{what}: {value:?}"));
                Some(value)
            }
            Err(error) => {
                self.lines.push(format!("{what}: {}", show(&error.into())));
                None
            }
        }
    }

    /// As [`note`](Self::note), where the value (a descriptor, say) is not the same twice: success or the error is noted.
    pub fn done<T, E: Into<io::Error>>(&mut self, what: impl Display, result: Result<T, E>) -> Option<T> {
        let (value, noted) = match result {
            Ok(value) => (Some(value), Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.note(what, noted);
        value
    }

    /// Notes something seen.
    pub fn saw(&mut self, what: impl Display, value: impl Debug) {
        self.lines.push(format!("{what}: {value:?}"));
    }
}

impl Beside {
    /// Starts two sites.
    pub fn start() -> Self {
        let cluster = Cluster::start(2, Options::default());
        let plain = cluster.directory().join("plain");
        fs::create_dir(&plain).or_fail("cannot make the plain directory");
        // Other users have to get in, too.
        for open in [cluster.directory(), &plain, &cluster.site(0).mountpoint] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o755)).or_fail("cannot let others in");
        }
        Self { cluster, plain }
    }

    /// Runs the case at both places, in a new directory of this name, and demands equal notes and trees.
    ///
    /// # Panics
    /// With the lines that differ.
    #[track_caller]
    pub fn same(&self, name: &str, case: impl Fn(&Path, &mut Notes)) {
        let [plain, mounted] = [self.plain.join(name), self.cluster.site(0).path(name)];
        let [expected, got] = [&plain, &mounted].map(|directory| {
            fs::create_dir(directory).or_fail(format_args!("cannot make {}", directory.display()));
            let mut notes = Notes::default();
            case(directory, &mut notes);
            notes.lines
        });
        let mut differing = Vec::new();
        for number in 0..expected.len().max(got.len()) {
            let [left, right] = [&expected, &got].map(|lines| lines.get(number).map_or("nothing", String::as_str));
            if left != right {
                differing.push(format!("  plain:   {left}\n  mounted: {right}"));
            }
        }
        assert!(differing.is_empty(), "{name}:\n{}", differing.join("\n"));
        let found = compare::compare(&plain, &mounted, Strictness::COPIES).or_fail("cannot compare");
        // The clock went on between the two.
        let found: Vec<_> = found.into_iter().filter(|found| found.attribute != Attribute::Mtime).collect();
        assert!(found.is_empty(), "{name}: plain and mounted:\n{}", compare::report(&found, 30));
    }
}

/// Runs `work` as this user, who has no privileges, in this group and `groups`.
pub fn as_user<T: Send>(uid: u32, gid: u32, groups: &[u32], work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        // The ids are a thread's own. The thread ends with the work, and nobody has to become root again.
        let run = || {
            let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::thread::set_thread_groups(&groups).or_fail("setgroups");
            rustix::thread::set_thread_res_gid(gid, gid, gid).or_fail("setresgid");
            rustix::thread::set_thread_res_uid(uid, uid, uid).or_fail("setresuid");
            work()
        };
        scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// An error by its number, which is what programs look at.
fn show(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => format!("error {code} ({error})"),
        None => format!("error ({error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_tell_results_apart() {
        let mut notes = Notes::default();
        assert_eq!(notes.note("read", Ok::<_, io::Error>(3)), Some(3));
        assert_eq!(notes.note::<u32, _>("open", Err(rustix::io::Errno::NOENT)), None);
        notes.done("close", Ok::<_, io::Error>(PathBuf::from("not shown")));
        assert_eq!(notes.lines[0], "read: 3");
        assert!(notes.lines[1].starts_with("open: error 2 "), "{}", notes.lines[1]);
        assert_eq!(notes.lines[2], "close: ()");
    }
}
