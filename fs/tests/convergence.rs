//! Several sites without a mount: whatever they do at once, whatever order records arrive in, whoever crashes: one tree.
//!
//! `SYNCLINE_SEED=n` runs one seed again; `SYNCLINE_SECONDS=n` runs each test longer.

mod common;

use std::time::Duration;

use common::dump::{check_drained, check_rows, dump};
use common::network::Network;
use common::work::{Program, ROOT, use_policies};
use common::{JOURNAL_FILE_BYTES, Rng, Site, for_seeds};
use fs::types::{SetAttr, SetTime};
use fs::volume::VolumeOptions;
use proto::ids::FileId;

/// How the sites end now and then.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    Crashes,
    PowerLosses,
}

fn run(count: usize, ends: Ends, seed: u64) {
    let mut rng = Rng::new(seed);
    let flush_interval = match ends {
        Ends::Crashes => VolumeOptions::default().flush_interval,
        // So that much is lost.
        Ends::PowerLosses => Duration::from_secs(3600),
    };
    let site = |id| Site::with_journal(id, JOURNAL_FILE_BYTES, flush_interval);
    let mut sites: Vec<Site> = (1..=count as u16).map(site).collect();
    let mut programs: Vec<Program> = (0..count).map(|_| Program::with_policies()).collect();
    let mut network = Network::new(count);
    let at = Some(SetTime::Now);
    sites[0].volume().setattr(ROOT, FileId::ROOT, SetAttr { atime: at, mtime: at, ..SetAttr::default() }).expect("set");
    for volume in sites.iter().map(Site::volume) {
        use_policies(volume);
        volume.wait_durable(volume.appended()).expect("durable");
    }
    let phases = 1 + rng.below(3);
    for _ in 0..phases {
        let steps = 20 + rng.below(120);
        // How eagerly records travel, and whether one site is cut off.
        let (busy, cut_off) = (1 + rng.below(6), rng.below(2 * count as u64) as usize);
        for _ in 0..steps {
            let at = rng.below(count as u64) as usize;
            network.note(sites[at].id, programs[at].step(sites[at].volume(), &mut rng));
            for _ in 0..rng.below(busy) {
                let from = rng.below(count as u64) as usize;
                let to = rng.below(count as u64) as usize;
                if from != to && from != cut_off && to != cut_off {
                    network.deliver(&sites, from, to, &mut rng, false);
                }
            }
            if rng.one_in(10) {
                let at = rng.below(count as u64) as usize;
                network.conclude(&sites, at);
            }
            if rng.one_in(60) {
                let at = rng.below(count as u64) as usize;
                programs[at].crashed();
                if ends == Ends::PowerLosses && rng.one_in(2) {
                    sites[at].lose_power();
                    network.lost_end(&sites[at]);
                } else {
                    let cleanly = rng.one_in(4);
                    sites[at].restart(cleanly);
                }
            }
        }
        sites.iter().for_each(|site| check_rows(site, false));
        network.settle(&sites, &mut rng);
        compare(&sites);
    }
    programs.iter_mut().zip(&sites).for_each(|(program, site)| program.close_all(site.volume()));
    network.drain(&sites);
    sites.iter_mut().for_each(check_drained);
    sites.iter().for_each(|site| check_rows(site, true));
    compare(&sites);
}

fn compare(sites: &[Site]) {
    let first = dump(&sites[0]);
    for site in &sites[1..] {
        let other = dump(site);
        let mut diff = first.diff(&other);
        diff.truncate(6000);
        assert!(diff.is_empty(), "sites {} and {} differ:\n{diff}", sites[0].id, site.id);
    }
}

#[test]
fn two_sites_end_with_one_tree() {
    for_seeds("two sites", 25, 1, |seed| run(2, Ends::Crashes, seed));
}

#[test]
fn three_sites_end_with_one_tree() {
    for_seeds("three sites", 30, 1_000_000, |seed| run(3, Ends::Crashes, seed));
}

#[test]
fn sites_that_lose_power_end_with_one_tree() {
    for_seeds("power losses", 15, 2_000_000, |seed| run(2 + seed as usize % 2, Ends::PowerLosses, seed));
}
