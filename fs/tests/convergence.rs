//! Several sites without a mount: whatever they do at once, whatever order records arrive in, whoever crashes: one tree.
//!
//! `SYNCLINE_SEED=n` runs one seed again; `SYNCLINE_SECONDS=n` runs each test longer.

mod common;

use common::dump::{check_drained, check_rows, dump};
use common::network::Network;
use common::work::{Program, ROOT, use_policies};
use common::{Rng, Site, for_seeds};
use fs::types::{SetAttr, SetTime};
use proto::ids::FileId;

fn run(count: usize, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut sites: Vec<Site> = (1..=count as u16).map(Site::new).collect();
    let mut programs: Vec<Program> = (0..count).map(|_| Program::with_policies()).collect();
    let mut network = Network::new(count);
    let at = Some(SetTime::Now);
    sites[0].volume().setattr(ROOT, FileId::ROOT, SetAttr { atime: at, mtime: at, ..SetAttr::default() }).expect("set");
    sites.iter().for_each(|site| use_policies(site.volume()));
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
                let cleanly = rng.one_in(4);
                sites[at].restart(cleanly);
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
    for_seeds("two sites", 25, 1, |seed| run(2, seed));
}

#[test]
fn three_sites_end_with_one_tree() {
    for_seeds("three sites", 30, 1_000_000, |seed| run(3, seed));
}
