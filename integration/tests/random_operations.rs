//! Random system calls of all kinds: a mount answers as ext4 does, and its replicas are equal in everything.
//!
//! Replay a failure with `SYNCLINE_SEED`; `SYNCLINE_OPERATIONS` sets how many calls each sequence has (long runs: 100000).
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use integration::cluster::{Cluster, Options};
use integration::compare::{Strictness, compare, report};
use integration::faults::{Flapping, pause};
use integration::outcome::number_from_env;
use integration::random::answer::Runner;
use integration::random::call::Step;
use integration::random::generate::{self, Mix};
use integration::random::names::Names;
use integration::random::pair::Pair;
use integration::random::shrink::shrink;
use integration::seed::Seed;
use integration::site::{Site, is_mounted};
use integration::tree;

const MIX: Mix = Mix { policies: true, reservations: false };
/// With room reserved the file system below chooses at each site which zeros it shows as data.
const RESERVING: Mix = Mix { policies: true, reservations: true };
/// Also after a crash: what of a page that was written in pieces, and emptied again, is a hole depends on what recovery could leave out.
const BUT_HOLES: Strictness = Strictness { holes: false, identity: true };
/// How long sites that are level may go on answering each other.
const ANSWERS_LIMIT: Duration = Duration::from_secs(20);
/// What a sequence may take to be made short.
const SHRINKING: Duration = Duration::from_secs(120);

fn operations(default: u64) -> u64 {
    number_from_env("SYNCLINE_OPERATIONS", default)
}

/// Sites whose mounts everybody may work in, as other users than root do too.
fn start() -> Cluster {
    rustix::process::umask(rustix::fs::Mode::empty());
    let cluster = Cluster::start(3, Options::default());
    fs::set_permissions(cluster.directory(), fs::Permissions::from_mode(0o755)).unwrap();
    cluster
}

/// A directory for everybody, in a mount, in which nobody waits long for a site that is away.
fn make_directory(path: &Path) {
    fs::DirBuilder::new().mode(0o777).create(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    rustix::fs::setxattr(path, "user.syncline.timeout", b"500ms", rustix::fs::XattrFlags::empty()).unwrap();
}

/// One sequence in a mount and on ext4 beside it.
struct Work {
    mount: PathBuf,
    plain: PathBuf,
    pair: Pair,
    names: Names,
    seed: Seed,
    mix: Mix,
    done: Vec<Step>,
}

impl Work {
    fn new(cluster: &Cluster, site: usize, name: &str, seed: u64, mix: Mix) -> Self {
        let (mount, plain) = (cluster.site(site).path(name), cluster.directory().join(format!("plain {name}")));
        make_directory(&mount);
        make_directory(&plain);
        let pair = Pair::new(&mount, &plain);
        Self { mount, plain, pair, names: Names::default(), seed: Seed::new(seed), mix, done: Vec::new() }
    }

    /// Makes `count` calls, and demands the same of both sides.
    fn run(&mut self, count: u64) {
        for _ in 0..count {
            let step = generate::next(&mut self.seed, &self.names, self.mix);
            self.done.push(step.clone());
            match self.pair.run(&step) {
                Ok(true) => self.names.take(&step.call),
                Ok(false) => {}
                Err(difference) => self.fail(&difference),
            }
        }
        if let Err(difference) = self.pair.compare() {
            self.fail(&difference);
        }
    }

    fn fail(&self, difference: &str) -> ! {
        eprintln!("after {} calls: {difference}\nmaking it short", self.done.len());
        let mut attempts = 0;
        let mut last = difference.to_owned();
        let short = shrink(&self.done, SHRINKING, |steps| {
            attempts += 1;
            let at = |path: &Path| path.with_extension(format!("short-{attempts}"));
            let (mount, plain) = (at(&self.mount), at(&self.plain));
            make_directory(&mount);
            make_directory(&plain);
            let mut pair = Pair::new(&mount, &plain);
            let found = steps.iter().find_map(|step| pair.run(step).err()).or_else(|| pair.compare().err());
            last = found.clone().unwrap_or(last.clone());
            found.is_some()
        });
        panic!("a mount is not as ext4: {last}\nthe calls:\n{}", listed(&short));
    }
}

fn listed(steps: &[Step]) -> String {
    let steps: Vec<String> = steps.iter().map(|step| format!("  {step:.300}")).collect();
    steps.join("\n")
}

/// Access and change times, which replicas have in common too.
fn moments(root: &Path) -> BTreeMap<PathBuf, [(i64, i64); 2]> {
    let paths = tree::read(root).unwrap().into_keys();
    let of = |path: &Path| {
        let meta = fs::symlink_metadata(root.join(path)).unwrap();
        [(meta.atime(), meta.atime_nsec()), (meta.ctime(), meta.ctime_nsec())]
    };
    paths.map(|path| (path.clone(), of(&path))).collect()
}

/// In what the sites differ in that directory, [`moments`] included.
fn differences(cluster: &Cluster, name: &str, strictness: Strictness) -> String {
    let first = cluster.site(0).path(name);
    let mut found = String::new();
    let missing = |site: &&Site| !site.path(name).exists();
    match cluster.sites().iter().filter(missing).count() {
        0 => {}
        all if all == cluster.sites().len() => return found,
        _ => return format!("{name:?} is not at all sites"),
    }
    for site in &cluster.sites()[1..] {
        let other = site.path(name);
        let trees = report(&compare(&first, &other, strictness).unwrap(), 20);
        if !trees.is_empty() {
            found += &format!("{name:?} at sites a and {}:\n{trees}\n", site.name);
            continue;
        }
        let (ours, theirs) = (moments(&first), moments(&other));
        for (path, times) in ours.iter().filter(|(path, times)| theirs.get(*path) != Some(times)).take(20) {
            let theirs = theirs.get(path);
            found += &format!("atime and ctime of {name:?}/{path:?} at a: {times:?}, at {}: {theirs:?}\n", site.name);
        }
    }
    found
}

/// Once level, the sites are equal in all that is listed.
#[track_caller]
fn assert_replicas_are_equal(cluster: &Cluster, strictness: Strictness) {
    let begin = Instant::now();
    let mut looks = 0;
    loop {
        // What arrives may make a site answer with records of its own, and those another: being level ends with the last of them.
        cluster.wait_level();
        let found = differences(cluster, "", strictness);
        looks += 1;
        if found.is_empty() {
            return eprintln!("equal after {looks} looks, {:?}", begin.elapsed());
        }
        eprintln!("look {looks}:\n{found}");
        if begin.elapsed() > ANSWERS_LIMIT {
            panic!("the replicas differ:\n{found}");
        }
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_mount_answers_as_ext4_and_its_replicas_are_equal() {
    let seed = Seed::from_env("SYNCLINE_SEED");
    let cluster = start();
    for round in 0..3 {
        let name = format!("round-{round}");
        let (mix, strictness) = if round == 2 { (RESERVING, BUT_HOLES) } else { (MIX, Strictness::REPLICAS) };
        let mut work = Work::new(&cluster, 0, &name, Seed::of_part(seed, round), mix);
        work.run(operations(3000) / 3);
        cluster.wait_level();
        assert_level(&cluster, &name, &work.done, strictness);
    }
}

/// The sites are equal in that directory; else the calls are run anew, fewer and fewer, until only what is needed for a difference is left.
fn assert_level(cluster: &Cluster, name: &str, done: &[Step], strictness: Strictness) {
    let found = differences(cluster, name, strictness);
    if found.is_empty() {
        return;
    }
    eprintln!("{name}, after {} calls: the replicas differ:\n{found}\nmaking it short", done.len());
    let mut attempts = 0;
    let mut last = found;
    let short = shrink(done, SHRINKING, |steps| {
        attempts += 1;
        let name = format!("{name}-short-{attempts}");
        let path = cluster.site(0).path(&name);
        make_directory(&path);
        let mut runner = Runner::new(&path);
        for step in steps {
            let _ = runner.run(step);
        }
        cluster.wait_level();
        let found = differences(cluster, &name, strictness);
        let fails = !found.is_empty();
        if fails {
            last = found;
        }
        fails
    });
    panic!("the replicas differ:\n{last}\nthe calls:\n{}", listed(&short));
}

/// Daemons are killed between calls, and links cut whenever: the sequence goes on as if nothing had been, and all get all of it.
#[test]
fn crashes_and_cuts_change_nothing_of_that() {
    let first = Seed::from_env("SYNCLINE_SEED");
    let mut seed = Seed::new(first ^ 0xdead);
    let mut cluster = start();
    let mut work = Work::new(&cluster, 0, "crashes", first, MIX);
    let flapping = Flapping::start(cluster.network().clone(), first, 300);
    let mut left = operations(1500);
    while left > 0 {
        let some = seed.between(1, 400).min(left);
        work.run(some);
        left -= some;
        let site = seed.below(3) as usize;
        if site == 0 {
            // Open files end with the daemon; ext4 must lose its own too.
            work.pair.close_all();
        }
        cluster.crash_site(site);
        if let Err(difference) = work.pair.compare() {
            panic!("after the crash of site {site} and {} calls: {difference}", work.done.len());
        }
    }
    drop(flapping);
    assert_replicas_are_equal(&cluster, BUT_HOLES);
}

/// Each site works in a directory of its own, all at once.
#[test]
fn three_writers_apart_get_what_each_made() {
    let seed = Seed::from_env("SYNCLINE_SEED");
    let cluster = start();
    let mut works: Vec<Work> = (0..3)
        .map(|site| Work::new(&cluster, site, &format!("of-{site}"), Seed::of_part(seed, site as u64), MIX))
        .collect();
    thread::scope(|scope| {
        for work in &mut works {
            scope.spawn(|| work.run(operations(1000)));
        }
    });
    assert_replicas_are_equal(&cluster, Strictness::REPLICAS);
    for site in cluster.sites() {
        for work in &works {
            let name = work.mount.file_name().unwrap();
            if let Err(difference) = Pair::new(&site.path(name), &work.plain).compare() {
                panic!("{name:?} at site {}: {difference}", site.name);
            }
        }
    }
}

/// Works in `directory` until `count` calls are made; what others change there is looked at now and then.
fn clash(directory: &Path, seed: u64, count: u64) {
    let (mut seed, mut names, mut runner) = (Seed::new(seed), Names::default(), Runner::new(directory));
    for number in 0..count {
        if number % 25 == 0
            && let Ok(there) = Names::read(directory)
        {
            names = there;
        }
        let step = generate::next(&mut seed, &names, MIX);
        match runner.run(&step) {
            Ok(_) => names.take(&step.call),
            // The daemon is dead: wait for the next one, and begin without open files, as programs would.
            Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED) => {
                runner.close_all();
                thread::sleep(Duration::from_millis(20));
            }
            Err(_) => {}
        }
    }
}

fn clash_at_all(cluster: &Cluster, seed: u64, count: u64) -> Vec<thread::JoinHandle<()>> {
    let start = |index: usize| {
        let directory = cluster.site(index).path("shared");
        thread::spawn(move || clash(&directory, Seed::of_part(seed, index as u64), count))
    };
    (0..cluster.sites().len()).map(start).collect()
}

#[test]
fn three_writers_in_one_directory_agree() {
    let seed = Seed::from_env("SYNCLINE_SEED");
    let cluster = start();
    make_directory(&cluster.site(0).path("shared"));
    assert_replicas_are_equal(&cluster, Strictness::REPLICAS);
    for round in 0..3 {
        let cuts = (round > 0).then(|| Flapping::start(cluster.network().clone(), Seed::of_part(seed, 3 + round), 200));
        for thread in clash_at_all(&cluster, Seed::of_part(seed, round), operations(1200) / 3) {
            thread.join().unwrap();
        }
        drop(cuts);
        eprintln!("round {round}");
        assert_replicas_are_equal(&cluster, Strictness::REPLICAS);
    }
}

#[test]
fn three_writers_in_one_directory_agree_after_crashes_and_cuts() {
    let first = Seed::from_env("SYNCLINE_SEED");
    let mut seed = Seed::new(first ^ 0xbeef);
    let mut cluster = start();
    make_directory(&cluster.site(0).path("shared"));
    assert_replicas_are_equal(&cluster, BUT_HOLES);
    let flapping = Flapping::start(cluster.network().clone(), first, 200);
    let threads = clash_at_all(&cluster, first, operations(1200));
    while !threads.iter().all(thread::JoinHandle::is_finished) {
        pause(&mut seed, 50, 800);
        let site = seed.below(3) as usize;
        eprintln!("site {site} crashes");
        cluster.crash_site(site);
    }
    for thread in threads {
        thread.join().unwrap();
    }
    drop(flapping);
    assert!(cluster.sites().iter().all(|site| is_mounted(&site.mountpoint)));
    assert_replicas_are_equal(&cluster, BUT_HOLES);
}
