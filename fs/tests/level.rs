//! A site that lacks what no journal has any more takes another's state in, while both go on.
//!
//! `SYNCLINE_SEED=n` runs one seed again; `SYNCLINE_SECONDS=n` runs each test longer.

mod common;

use common::dump::{check_drained, check_rows, dump};
use common::network::Network;
use common::work::{Program, READ_WRITE, ROOT};
use common::{Rng, Site, for_seeds};
use fs::level::Levelled;
use fs::types::{SetAttr, SetTime};
use proto::history::Resume;
use proto::ids::{FileId, Lane, LanePoint, Seq};
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
                if let Some((seq, bytes)) = written {
                    self.network.written.insert((self.sites[at].id, seq), bytes);
                }
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
            while !late {
                let wanted = level.wanted().expect("files");
                if wanted.is_empty() {
                    break;
                }
                if !self.fetch(&mut level, from, &wanted, busy, linked, breaks) {
                    return None;
                }
            }
            if breaks && self.rng.one_in(8) {
                return None;
            }
        }
        loop {
            let wanted = level.wanted().expect("files");
            if wanted.is_empty() {
                break;
            }
            if !self.fetch(&mut level, from, &wanted, busy, linked, breaks) {
                return None;
            }
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

    /// What a site does that finds that its peers had more of its lane: its numbers go on where its journal ends.
    fn begin_incarnation(&mut self, at: usize, recovered: &[LanePoint]) {
        let volume = self.sites[at].volume();
        let recovered = [vec![], vec![], recovered.to_vec(), vec![]];
        volume.begin_incarnation(volume.incarnation(), &recovered).expect("opened");
        assert!(!volume.tail_is_lost());
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
