//! pjdfstest, a suite of POSIX tests by others, whole: each test that passes on ext4 passes in a mount, in an asynchronous directory and
//! in a sync one, as root (and as the users that the suite changes to) and as a user without rights.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use integration::bench::disk::Disk;
use integration::cluster::{Cluster, Options};
use integration::outcome::OrFail;
use integration::site::{show, succeed};
use integration::{sync_state, tools};

/// What can't pass in a mount, and why. One that passes after all, or that no run needs, fails the test.
const EXCEPTIONS: [(&str, &str); 1] = [(
    "link::link_count_max",
    "skipped: the C library tells LINK_MAX by the type of the file system, and knows none for FUSE. \
     In its place: fs/tests/limits.rs::a_file_has_as_many_names_as_on_ext4",
)];
/// Each run of the suite, and how many tests must pass on ext4 so that something is demanded of the mount.
const RUNS: [(Run, usize); 3] = [(Run::Root, 380), (Run::Nobody, 250), (Run::ReadOnly, 13)];
/// Every feature that the suite knows on Linux. A nap must be longer than the steps of the kernel's coarse clock, 10 ms at most.
const FEATURES: &str = "
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.02
";
/// Users and groups that every Debian has.
const USERS: &str = r#"
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;
/// nobody and nogroup.
const NOBODY: u32 = 65_534;
const DISK_BYTES: u64 = 64 << 20;
const SYNC_LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// All tests but those that remount.
    Root,
    /// All tests, of which those that need root are skipped.
    Nobody,
    /// Those that remount: alone, since ext4 is not made read-only while a removed file is open, which other tests leave behind.
    ReadOnly,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Skipped,
    Failed,
}

/// What became of a test, and what the suite said of it.
#[derive(Clone, Debug)]
struct Verdict {
    outcome: Outcome,
    details: String,
}

type Verdicts = BTreeMap<String, Verdict>;

/// The suite, where every user can run it.
struct Suite {
    directory: PathBuf,
}

impl Suite {
    fn prepare(directory: PathBuf) -> Self {
        fs::create_dir(&directory).unwrap();
        // By a program of its own: no descriptor that could write it is left to a child of this process, or it couldn't be run.
        succeed(Command::new("cp").arg(tools::find("pjdfstest")).arg(directory.join("pjdfstest")));
        succeed(Command::new("chmod").arg("755").arg(directory.join("pjdfstest")));
        for remounts in [false, true] {
            let text = format!("{FEATURES}allow_remount = {remounts}\n{USERS}");
            fs::write(directory.join(Self::configuration(remounts)), text).unwrap();
        }
        // For FUSE, mount(8) calls a helper that starts file systems and can't remount. The suite finds this one first.
        fs::create_dir(directory.join("bin")).unwrap();
        let wrapper = directory.join("bin/mount");
        fs::write(&wrapper, format!("#!/bin/sh\nPATH={}\nexec mount -i \"$@\"\n", path_variable())).unwrap();
        succeed(Command::new("chmod").arg("755").arg(wrapper));
        // On a third file system, for what must not cross from one to another.
        fs::create_dir(directory.join("elsewhere")).unwrap();
        fs::set_permissions(directory.join("elsewhere"), open_to_all()).unwrap();
        Self { directory }
    }

    fn configuration(remounts: bool) -> &'static str {
        if remounts { "remounts.toml" } else { "suite.toml" }
    }

    /// Runs it in `place`.
    ///
    /// # Panics
    /// When it ends before its summary, or the summary doesn't fit what was read.
    fn run(&self, run: Run, place: &Path) -> Verdicts {
        let mut command = Command::new(self.directory.join("pjdfstest"));
        command.env("NO_COLOR", "1").env("RUST_BACKTRACE", "0").current_dir("/");
        command.env("PATH", format!("{}:{}", self.directory.join("bin").display(), path_variable()));
        command.arg("--configuration-file").arg(self.directory.join(Self::configuration(run == Run::ReadOnly)));
        command.arg("--path").arg(place).arg("--secondary-fs").arg(self.directory.join("elsewhere"));
        match run {
            Run::Root => {}
            // This drops the groups too.
            Run::Nobody => {
                command.uid(NOBODY).gid(NOBODY);
            }
            Run::ReadOnly => {
                command.arg("erofs");
            }
        }
        let output = command.output().or_fail("cannot run pjdfstest");
        let said = show(&output);
        let (verdicts, summary) = parse(&String::from_utf8_lossy(&output.stdout));
        let count = |outcome: Outcome| verdicts.values().filter(|verdict| verdict.outcome == outcome).count();
        let (failed, skipped, passed) = (count(Outcome::Failed), count(Outcome::Skipped), count(Outcome::Passed));
        let counted = format!(
            "{failed} failed, {skipped} skipped, {passed} passed, 0 expected failures, {} total",
            verdicts.len()
        );
        assert_eq!(summary.as_deref(), Some(counted.as_str()), "{said}");
        assert_eq!(output.status.success(), failed == 0, "{said}");
        let left: Vec<_> = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.is_empty(), "the suite could not remove all that it made in {}: {left:?}", place.display());
        verdicts
    }
}

/// The verdicts of the tests, and the summary.
fn parse(text: &str) -> (Verdicts, Option<String>) {
    let (mut verdicts, mut last, mut summary) = (Verdicts::new(), None, None);
    for line in text.lines() {
        if let Some(counts) = line.strip_prefix("Summary: ") {
            summary = Some(counts.to_owned());
        } else if let Some((name, outcome)) = verdict_line(line) {
            let before = verdicts.insert(name.to_owned(), Verdict { outcome, details: String::new() });
            assert!(before.is_none(), "two tests are called {name}");
            last = Some(name.to_owned());
        } else if let Some(verdict) = last.as_ref().and_then(|name| verdicts.get_mut(name)) {
            verdict.details += &format!(" {}", line.trim());
        }
    }
    (verdicts, summary)
}

fn verdict_line(line: &str) -> Option<(&str, Outcome)> {
    let (name, outcome) = line.split_once(' ')?;
    let outcome = match outcome.trim() {
        "ok" => Outcome::Passed,
        "skipped" => Outcome::Skipped,
        "FAILED" => Outcome::Failed,
        _ => return None,
    };
    name.contains("::").then_some((name, outcome))
}

fn path_variable() -> String {
    std::env::var("PATH").unwrap()
}

fn open_to_all() -> Permissions {
    Permissions::from_mode(0o777)
}

/// What passes on ext4 and not in the mount, but for the exceptions. Notes which of those were needed.
fn shortcomings(ext4: &Verdicts, mount: &Verdicts, needed: &mut BTreeSet<&str>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, _) in ext4.iter().filter(|(_, verdict)| verdict.outcome == Outcome::Passed) {
        let exception = EXCEPTIONS.iter().find(|(exception, _)| exception == name);
        let passes = mount.get(name).is_some_and(|verdict| verdict.outcome == Outcome::Passed);
        match (exception, passes) {
            (None, true) => {}
            (None, false) => found.push(format!("{name}: {:?}", mount.get(name))),
            (Some((name, _)), false) => drop(needed.insert(name)),
            (Some((name, reason)), true) => found.push(format!("{name} is an exception, and passes ({reason})")),
        }
    }
    found
}

#[test]
fn what_passes_on_ext4_passes_in_a_mount() {
    let cluster = Cluster::start(2, Options::default());
    // The suite changes to users who must be able to get there.
    fs::set_permissions(cluster.directory(), Permissions::from_mode(0o755)).unwrap();
    let suite = Suite::prepare(cluster.directory().join("suite"));
    let suite = &suite;
    let disk = Disk::make(cluster.directory(), "ext4", DISK_BYTES);
    fs::create_dir(disk.directory("work")).unwrap();
    fs::create_dir(cluster.site(0).path("work")).unwrap();
    sync_state::make(cluster.site(1), "kept", &[("timeout", "60s")], &["a"], SYNC_LIMIT);
    let places = [disk.directory("work"), cluster.site(0).path("work"), cluster.site(1).path("kept")];
    for place in &places {
        fs::set_permissions(place, open_to_all()).unwrap();
    }

    let (mut needed, mut shortcoming) = (BTreeSet::new(), Vec::new());
    for (run, at_least) in RUNS {
        let [ext4, asynchronous, sync] = thread::scope(|scope| {
            let runs = places.each_ref().map(|place| {
                scope.spawn(move || {
                    let begin = Instant::now();
                    let verdicts = suite.run(run, place);
                    let passed = verdicts.values().filter(|verdict| verdict.outcome == Outcome::Passed).count();
                    let (total, seconds) = (verdicts.len(), begin.elapsed().as_secs_f32());
                    println!("{run:?} in {}: {passed} of {total} passed in {seconds:.1} s", place.display());
                    verdicts
                })
            });
            runs.map(|run| run.join().unwrap())
        });
        for (name, verdict) in ext4.iter().filter(|(_, verdict)| verdict.outcome == Outcome::Failed) {
            println!("{run:?}: fails on ext4: {name}: {}", verdict.details);
        }
        let passed = ext4.values().filter(|verdict| verdict.outcome == Outcome::Passed).count();
        assert!(passed >= at_least, "{run:?}: only {passed} of at least {at_least} passed on ext4");
        for (place, verdicts) in [("async", &asynchronous), ("sync", &sync)] {
            let found = shortcomings(&ext4, verdicts, &mut needed);
            shortcoming.extend(found.into_iter().map(|found| format!("{run:?}, {place}: {found}")));
        }
        cluster.wait_level();
    }
    assert!(shortcoming.is_empty(), "passes on ext4 and not in the mount:\n{}", shortcoming.join("\n"));
    for (name, _) in EXCEPTIONS {
        assert!(needed.contains(name), "nothing needs the exception of {name}");
    }
    cluster.assert_converges();
}

#[test]
fn what_the_suite_prints_is_understood() {
    let text = "\nchown::lchown::erofs_named                skipped\n\tRemounts are not allowed\nopen::x   ok\n\
                mkdir::y::fifo   FAILED\n\tassertion `left == right` failed\n  left: Ok(())\n right: Err(ENOENT)\n\
                \nSummary: 1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total\n";
    let (verdicts, summary) = parse(text);
    assert_eq!(summary.as_deref(), Some("1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total"));
    let outcomes: Vec<_> = verdicts.iter().map(|(name, verdict)| (name.as_str(), &verdict.outcome)).collect();
    let expected = [
        ("chown::lchown::erofs_named", &Outcome::Skipped),
        ("mkdir::y::fifo", &Outcome::Failed),
        ("open::x", &Outcome::Passed),
    ];
    assert_eq!(outcomes, expected);
    assert!(verdicts["mkdir::y::fifo"].details.contains("right: Err(ENOENT)"));
}

#[test]
fn a_test_that_fails_is_missing_or_passes_as_an_exception_is_a_shortcoming() {
    let verdicts = |named: &[(&str, Outcome)]| -> Verdicts {
        let verdict = |outcome: &Outcome| Verdict { outcome: outcome.clone(), details: String::new() };
        named.iter().map(|(name, outcome)| ((*name).to_owned(), verdict(outcome))).collect()
    };
    let (exception, _) = EXCEPTIONS[0];
    let names = ["a::failed", "a::missing", "a::passed", "a::skipped", exception];
    let ext4 = verdicts(&names.map(|name| (name, Outcome::Passed)));
    let mut mount = verdicts(&[
        ("a::failed", Outcome::Failed),
        ("a::passed", Outcome::Passed),
        ("a::skipped", Outcome::Skipped),
        (exception, Outcome::Skipped),
    ]);
    let mut needed = BTreeSet::new();
    let found = shortcomings(&ext4, &mount, &mut needed);
    let of: Vec<_> = found.iter().map(|found| found.split(": ").next().unwrap()).collect();
    assert_eq!(of, ["a::failed", "a::missing", "a::skipped"]);
    assert_eq!(needed, BTreeSet::from([exception]));

    mount.extend(verdicts(&names.map(|name| (name, Outcome::Passed))));
    needed.clear();
    let found = shortcomings(&ext4, &mount, &mut needed);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with(exception), "{found:?}");
    assert!(needed.is_empty());
    // What fails on ext4 too is not asked of the mount.
    let ext4 = verdicts(&names.map(|name| (name, Outcome::Failed)));
    assert_eq!(shortcomings(&ext4, &Verdicts::new(), &mut needed), Vec::<String>::new());
}
