//! A site that lacks what no journal has any more takes another's state in, while both go on.
//!
//! `SYNCLINE_SEED=n` runs one seed again; `SYNCLINE_SECONDS=n` runs each test longer.

mod common;

use bytes::Bytes;
use common::dump::{check_drained, check_rows, dump};
use common::network::Network;
use common::work::{Program, READ_WRITE, ROOT};
use common::{Rng, Site, for_seeds};
use fs::level::Levelled;
use fs::types::{SetAttr, SetTime};
use proto::history::Resume;
use proto::ids::{FileId, Lane, LanePoint, Seq};
use proto::record::Kind;
use tempfile::TempDir;

/// Sites with programs, and what is on its way between them.
struct World {
    sites: Vec<Site>,
    programs: Vec<Program>,
    network: Network,
    rng: Rng,
}

impl World {
    fn new(count: usize, seed: u64) -> Self {
        let sites: Vec<Site> = (1..=count as u16).map(Site::new).collect();
        let at = Some(SetTime::Now);
        let set = SetAttr { atime: at, mtime: at, ..SetAttr::default() };
        sites[0].volume().setattr(ROOT, FileId::ROOT, set).expect("set");
        let programs = (0..count).map(|_| Program::default()).collect();
        Self { sites, programs, network: Network::new(count), rng: Rng::new(seed) }
    }

    /// Programs at `busy` sites work, and records go between `linked` ones.
    fn work(&mut self, steps: u64, busy: &[usize], linked: &[usize]) {
        let eager = 1 + self.rng.below(4);
        for _ in 0..steps {
            if let Some(&at) = self.rng.pick(busy) {
                let written = self.programs[at].step(self.sites[at].volume(), &mut self.rng);
                self.network.note(self.sites[at].id, written);
            }
            for _ in 0..self.rng.below(eager + 1) {
                let (from, to) = (*self.rng.pick(linked).expect("a site"), *self.rng.pick(linked).expect("a site"));
                if from != to {
                    self.network.deliver(&self.sites, from, to, &mut self.rng, false);
                }
            }
            if self.rng.one_in(8) {
                let at = *self.rng.pick(linked).expect("a site");
                self.network.conclude(&self.sites, at);
            }
        }
    }

    fn copy(&mut self, at: usize) -> TempDir {
        self.programs[at].crashed();
        if self.rng.one_in(2) {
            self.sites[at].volume().close().expect("closed");
        }
        self.sites[at].crash();
        let copy = self.sites[at].copy_store();
        self.sites[at].start();
        copy
    }

    fn restore(&mut self, at: usize, copy: TempDir) {
        self.programs[at].crashed();
        self.sites[at].restore(copy);
        self.network.restored(at, &self.sites[at]);
    }

    /// Brings `to` level with `from`; meanwhile the others work. Attempts may break off.
    fn level(&mut self, to: usize, from: usize, busy: &[usize], linked: &[usize]) -> Levelled {
        let mut attempts = self.rng.below(3);
        loop {
            match self.try_level(to, from, busy, linked, attempts > 0) {
                Some(levelled) => return levelled,
                None => attempts -= 1,
            }
            if self.rng.one_in(2) {
                self.programs[to].crashed();
                let cleanly = self.rng.one_in(4);
                self.sites[to].restart(cleanly);
            }
            let steps = self.rng.below(10);
            self.work(steps, busy, linked);
        }
    }

    fn try_level(
        &mut self,
        to: usize,
        from: usize,
        busy: &[usize],
        linked: &[usize],
        breaks: bool,
    ) -> Option<Levelled> {
        let mut level = self.sites[to].volume().begin_level(self.sites[from].id).expect("begun");
        let late = self.rng.one_in(4);
        let source = self.sites[from].volume().clone();
        for chunk in source.state().expect("a state") {
            let chunk = chunk.expect("a chunk");
            assert!(chunk.len() < 2 << 20);
            level.take(&chunk).expect("taken in");
            let steps = self.rng.below(4);
            self.work(steps, busy, linked);
            if !late && !self.fetch_all(&mut level, from, busy, linked, breaks) {
                return None;
            }
            if breaks && self.rng.one_in(8) {
                return None;
            }
        }
        if !self.fetch_all(&mut level, from, busy, linked, breaks) {
            return None;
        }
        drop(source);
        if breaks && self.rng.one_in(2) {
            return None;
        }
        let (from, to) = (self.sites[from].volume(), self.sites[to].volume());
        for site in self.sites.iter().map(|site| site.id).filter(|site| *site != to.site()) {
            let known = from.known_histories();
            let histories = Lane::ALL.map(|lane| {
                let of = known.iter().find(|(known, of, _)| (*known, *of) == (site, lane));
                of.map(|(.., history)| history.clone()).unwrap_or_default()
            });
            to.note_histories(site, &histories).expect("noted");
        }
        Some(level.finish().expect("finished"))
    }

    fn fetch_all(
        &mut self,
        level: &mut fs::level::Level,
        from: usize,
        busy: &[usize],
        linked: &[usize],
        breaks: bool,
    ) -> bool {
        loop {
            let wanted = level.wanted().expect("files");
            if wanted.is_empty() {
                return true;
            }
            if !self.fetch(level, from, &wanted, busy, linked, breaks) {
                return false;
            }
        }
    }

    fn fetch(
        &mut self,
        level: &mut fs::level::Level,
        from: usize,
        wanted: &[FileId],
        busy: &[usize],
        linked: &[usize],
        breaks: bool,
    ) -> bool {
        for file in wanted {
            let source = self.sites[from].volume().clone();
            for chunk in source.content(*file).expect("content") {
                level.take_content(&chunk.expect("a chunk")).expect("taken in");
                if self.rng.one_in(5) {
                    self.work(1, busy, linked);
                }
                if breaks && self.rng.one_in(60) {
                    return false;
                }
            }
        }
        true
    }

    fn begin_incarnation(&mut self, at: usize, recovered: &[LanePoint]) {
        begin_incarnation(&self.sites[at], recovered);
    }

    fn end(mut self) {
        self.network.settle(&self.sites, &mut self.rng);
        self.compare();
        self.programs.iter_mut().zip(&self.sites).for_each(|(program, site)| program.close_all(site.volume()));
        self.network.drain(&self.sites);
        for site in &mut self.sites {
            check_rows(site, true);
            check_drained(site);
            let staged = std::fs::read_dir(site.path().join("staged")).expect("the staged files");
            assert_eq!(staged.count(), 0, "site {} keeps staged files", site.id);
        }
        self.compare();
    }

    fn compare(&self) {
        for site in &self.sites {
            check_rows(site, false);
            let diff = dump(&self.sites[0]).diff(&dump(site));
            assert!(diff.is_empty(), "sites 1 and {} differ:\n{diff:.6000}", site.id);
        }
    }
}

/// What a site does that finds that its peers had more of its lane: its numbers go on where its journal ends.
fn begin_incarnation(site: &Site, recovered: &[LanePoint]) {
    let volume = site.volume();
    let recovered = [vec![], vec![], recovered.to_vec(), vec![]];
    volume.begin_incarnation(volume.incarnation(), &recovered).expect("opened");
    assert!(!volume.tail_is_lost());
}

/// An older copy of a site's store comes back.
fn restored(count: usize, seed: u64) {
    let mut world = World::new(count, seed);
    let all: Vec<usize> = (0..count).collect();
    let steps = world.rng.below(150);
    world.work(steps, &all, &all);
    let at = world.rng.below(count as u64) as usize;
    let others: Vec<usize> = all.iter().copied().filter(|other| *other != at).collect();
    // What nobody else has when the copy is made.
    let kept = world.rng.one_in(2);
    if kept {
        let volume = world.sites[at].volume();
        let (_, handle) = volume.create_open(ROOT, FileId::ROOT, b".kept", 0o644, READ_WRITE).expect("a file");
        volume.write(handle, 0, &[7; 100_000], false).expect("written");
        volume.release(handle).expect("released");
    }
    let copy = world.copy(at);
    // Some time goes by: with the others, or alone.
    let steps = world.rng.below(200);
    let linked = if world.rng.one_in(4) { others.clone() } else { all.clone() };
    world.work(steps, &all, &linked);
    world.restore(at, copy);
    let head = world.sites[at].volume().lane_head(Lane::Normal).appended;
    let incarnation = world.sites[at].volume().incarnation();
    let mut recovered = Vec::new();
    // First with who has most of its lane: after that it knows whether it may make records.
    let mut order = others.clone();
    order.sort_by_key(|from| world.sites[*from].volume().frontier(world.sites[at].id, Lane::Normal));
    order.reverse();
    for from in &order {
        let levelled = world.level(at, *from, &others, &others);
        recovered.push(levelled.own[Lane::Normal as usize]);
    }
    let volume = world.sites[at].volume().clone();
    let lost =
        |point: &&LanePoint| volume.lane_history(Lane::Normal).lacks(**point, volume.lane_head(Lane::Normal).appended);
    let most = recovered.iter().filter(lost).max().copied();
    if incarnation == volume.incarnation() {
        assert_eq!(volume.tail_is_lost(), most.is_some());
    }
    if most.is_some() {
        if volume.tail_is_lost() {
            assert_eq!(volume.lane_head(Lane::Normal).appended, head, "no position is used twice");
        }
        drop(volume);
        world.begin_incarnation(at, &recovered);
        // Nobody has as records what was lost here.
        for to in others.iter().copied() {
            let (here, there) = (world.sites[at].volume(), world.sites[to].volume());
            let (theirs, head) = (there.frontier(here.site(), Lane::Normal), here.lane_head(Lane::Normal).appended);
            if here.lane_history(Lane::Normal).resume(theirs, head, Seq(1)) == Resume::Level {
                world.level(to, at, &[], &others);
            }
        }
    } else {
        drop(volume);
    }
    let steps = world.rng.below(120);
    world.work(steps, &all, &all);
    if kept {
        world.network.settle(&world.sites, &mut world.rng);
        for site in &world.sites {
            let file = site.volume().lookup(ROOT_DIR, b".kept").expect("what only one had").file;
            assert_eq!(common::dump::content(site.volume(), file).0, [7; 100_000]);
        }
    }
    world.end();
}

const ROOT_DIR: FileId = FileId::ROOT;

/// A site misses records, and gets another's state instead.
fn missed(seed: u64) {
    let mut world = World::new(3, seed);
    let steps = world.rng.below(150);
    world.work(steps, &[0, 1, 2], &[0, 1, 2]);
    let away = world.rng.below(3) as usize;
    let others: Vec<usize> = (0..3).filter(|other| *other != away).collect();
    for _ in 0..1 + world.rng.below(2) {
        let steps = world.rng.below(200);
        world.work(steps, &[0, 1, 2], &others);
        let from = *world.rng.pick(&others).expect("a site");
        world.level(away, from, &[0, 1, 2], &[0, 1, 2]);
        let steps = world.rng.below(50);
        world.work(steps, &[0, 1, 2], &[0, 1, 2]);
    }
    world.end();
}

#[test]
fn a_site_whose_store_is_an_older_copy_becomes_level_again() {
    for_seeds("older copies, two sites", 12, 1, |seed| restored(2, seed));
}

#[test]
fn a_site_whose_store_is_an_older_copy_becomes_level_with_several() {
    for_seeds("older copies, three sites", 12, 1_000_000, |seed| restored(3, seed));
}

#[test]
fn a_site_that_missed_records_becomes_level() {
    for_seeds("missed records", 12, 2_000_000, missed);
}

fn write(site: &Site, name: &[u8], offset: u64, bytes: &[u8]) -> FileId {
    let volume = site.volume();
    let file = match volume.lookup(ROOT_DIR, name) {
        Ok(attr) => attr.file,
        Err(_) => volume.create(ROOT, ROOT_DIR, name, Kind::Regular, 0o644).expect("a file").file,
    };
    let handle = volume.open(file, READ_WRITE).expect("a handle");
    assert_eq!(volume.write(handle, offset, bytes, false).expect("written") as usize, bytes.len());
    volume.release(handle).expect("released");
    file
}

fn level(to: &Site, from: &Site) -> Levelled {
    let mut level = to.volume().begin_level(from.id).expect("begun");
    for chunk in from.volume().state().expect("a state") {
        level.take(&chunk.expect("a chunk")).expect("taken in");
        for file in level.wanted().expect("files") {
            for chunk in from.volume().content(file).expect("content") {
                level.take_content(&chunk.expect("a chunk")).expect("taken in");
            }
        }
        assert!(level.wanted().expect("files").is_empty());
    }
    level.finish().expect("finished")
}

#[test]
fn long_content_is_there_whatever_a_crash_left_of_it() {
    const MIB: usize = 1 << 20;
    let sites = [Site::new(1), Site::new(2)];
    let bytes = Rng::new(5).bytes(5 * MIB);
    let file = write(&sites[0], b"long", 0, &bytes);
    level(&sites[1], &sites[0]);
    // Now over what is there: shorter in the middle, and with a hole before its end.
    let newer = Rng::new(6).bytes(2 * MIB + 777);
    write(&sites[0], b"long", MIB as u64, &newer);
    write(&sites[0], b"long", 9 * MIB as u64, b"end");
    level(&sites[1], &sites[0]);
    let expected = common::dump::content(sites[0].volume(), file);
    assert!(common::dump::content(sites[1].volume(), file) == expected);
    let [first, mut second] = sites;
    second.crash();
    // The copy into the object was cut short.
    let low = format!("{:02x}", file.0 & 0xff);
    let object = second.path().join("objects").join(low).join(format!("{:016x}", file.0));
    let handle = std::fs::OpenOptions::new().write(true).open(&object).expect("the object");
    handle.set_len(3 * MIB as u64 / 2).expect("cut");
    drop(handle);
    second.start();
    assert!(common::dump::content(second.volume(), file) == expected);
    // Records go on from it.
    write(&first, b"long", 100, b"more");
    let mut network = Network::new(2);
    let sites = [first, second];
    network.settle(&sites, &mut Rng::new(1));
    assert!(common::dump::content(sites[1].volume(), file) == common::dump::content(sites[0].volume(), file));
    let [_, mut second] = sites;
    second.restart(true);
    assert_eq!(std::fs::read_dir(second.path().join("staged")).expect("the staged files").count(), 0);
}

#[test]
fn a_file_that_is_open_outlives_its_absence_at_a_peer() {
    let mut sites = vec![Site::new(1), Site::new(2)];
    let mut network = Network::new(2);
    let mut rng = Rng::new(3);
    let file = write(&sites[0], b"file", 0, b"bytes");
    let dir = sites[0].volume().create(ROOT, ROOT_DIR, b"dir", Kind::Directory, 0o755).expect("a directory").file;
    sites[0].volume().link(file, dir, b"link").expect("a second name");
    network.settle(&sites, &mut rng);
    sites[1].crash();
    let copy = sites[1].copy_store();
    sites[1].start();
    for (parent, name) in [(ROOT_DIR, &b"file"[..]), (dir, b"link")] {
        sites[0].volume().unlink(parent, name).expect("removed");
    }
    sites[0].volume().rmdir(ROOT_DIR, b"dir").expect("removed");
    network.settle(&sites, &mut rng);
    network.drain(&sites);
    assert!(sites[0].volume().getattr(file).is_err(), "reclaimed");
    sites[1].restore(copy);
    network.restored(1, &sites[1]);
    let handle = sites[1].volume().open(file, READ_WRITE).expect("it is there again");
    level(&sites[1], &sites[0]);
    assert!(sites[1].volume().lookup(ROOT_DIR, b"file").is_err());
    assert!(sites[1].volume().getattr(dir).is_err(), "nobody holds the directory");
    assert_eq!(sites[1].volume().read(handle, 0, 10).expect("bytes"), b"bytes");
    sites[1].volume().release(handle).expect("released");
    assert!(sites[1].volume().getattr(file).is_err());
    network.settle(&sites, &mut rng);
    network.drain(&sites);
    for site in &mut sites {
        check_rows(site, true);
        check_drained(site);
    }
}

#[test]
fn file_ids_of_lost_records_are_not_given_again() {
    let mut sites = vec![Site::new(1), Site::new(2)];
    let mut network = Network::new(2);
    let mut rng = Rng::new(3);
    write(&sites[0], b"first", 0, b"1");
    sites[0].crash();
    let copy = sites[0].copy_store();
    sites[0].start();
    // One is still there, one is gone for good.
    let kept = write(&sites[0], b"second", 0, b"2");
    let gone = write(&sites[0], b"third", 0, b"3");
    sites[0].volume().unlink(ROOT_DIR, b"third").expect("removed");
    network.settle(&sites, &mut rng);
    network.drain(&sites);
    assert!(sites[1].volume().getattr(gone).is_err(), "reclaimed");
    let head = sites[0].volume().lane_head(Lane::Normal).appended;
    sites[0].restore(copy);
    network.restored(0, &sites[0]);
    let levelled = level(&sites[0], &sites[1]);
    assert_eq!(levelled.own[Lane::Normal as usize].seq, head);
    assert!(sites[0].volume().tail_is_lost());
    assert!(sites[0].volume().create(ROOT, ROOT_DIR, b"too early", Kind::Fifo, 0o644).is_err());
    assert_eq!(
        sites[0].volume().unlink(ROOT_DIR, b"first").map_err(|error| error.errno()),
        Err(rustix::io::Errno::ROFS)
    );
    begin_incarnation(&sites[0], &[levelled.own[Lane::Normal as usize]]);
    let fourth = write(&sites[0], b"fourth", 0, b"4");
    assert!(fourth > kept && fourth > gone, "{fourth} after {gone}");
}

#[test]
fn what_a_program_wrote_meanwhile_is_kept() {
    let sites = vec![Site::new(1), Site::new(2)];
    let mut network = Network::new(2);
    let file = write(&sites[0], b"file", 0, b"old");
    network.settle(&sites, &mut Rng::new(1));
    write(&sites[0], b"file", 0, b"new bytes");
    let mut level = sites[1].volume().begin_level(sites[0].id).expect("begun");
    for chunk in sites[0].volume().state().expect("a state") {
        level.take(&chunk.expect("a chunk")).expect("taken in");
    }
    assert_eq!(level.wanted().expect("files"), [file]);
    assert!(level.take_content(&Bytes::from_static(&[5, 0x7f])).is_err());
    write(&sites[1], b"file", 0, b"mine");
    for chunk in sites[0].volume().content(file).expect("content") {
        level.take_content(&chunk.expect("a chunk")).expect("taken in");
    }
    level.finish().expect("finished");
    network.settle(&sites, &mut Rng::new(1));
    for site in &sites {
        assert_eq!(common::dump::content(site.volume(), file).0, b"mine");
    }
}

#[test]
fn only_one_state_is_taken_in_at_a_time() {
    let sites = [Site::new(1), Site::new(2)];
    let volume = sites[1].volume();
    let level = volume.begin_level(sites[0].id).expect("begun");
    assert!(volume.begin_level(sites[0].id).is_err());
    assert!(level.finish().is_err(), "nothing has come");
    assert_eq!(volume.levelling().expect("a row"), Some(sites[0].id));
    let mut level = volume.begin_level(sites[0].id).expect("begun again");
    for chunk in sites[0].volume().state().expect("a state") {
        level.take(&chunk.expect("a chunk")).expect("taken in");
    }
    level.finish().expect("finished");
    assert_eq!(volume.levelling().expect("a row"), None);
}
