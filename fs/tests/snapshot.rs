//! A site joins by a snapshot of a busy one, then goes on with records.

mod common;

use common::dump::{check_rows, dump};
use common::network::Network;
use common::work::{Program, ROOT, use_policies};
use common::{JOURNAL_FILE_BYTES, Rng, Site, for_seeds};
use fs::types::{SetAttr, SetTime};
use fs::volume::{OpenError, Volume, VolumeOptions};
use proto::ids::FileId;

fn run(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut sites = vec![Site::new(1), Site::new(2)];
    let mut programs: Vec<Program> = (0..3).map(|_| Program::with_policies()).collect();
    let mut network = Network::new(2);
    let now = Some(SetTime::Now);
    sites[0]
        .volume()
        .setattr(ROOT, FileId::ROOT, SetAttr { atime: now, mtime: now, ..SetAttr::default() })
        .expect("set");
    sites.iter().for_each(|site| use_policies(site.volume()));
    let work = |sites: &[Site], programs: &mut [Program], network: &mut Network, rng: &mut Rng, steps: u64| {
        for _ in 0..steps {
            let at = rng.below(sites.len() as u64) as usize;
            network.note(sites[at].id, programs[at].step(sites[at].volume(), rng));
            let (from, to) = (rng.below(sites.len() as u64) as usize, rng.below(sites.len() as u64) as usize);
            if from != to {
                network.deliver(sites, from, to, rng, false);
            }
        }
    };
    let steps = rng.below(150);
    work(&sites, &mut programs, &mut network, &mut rng, steps);
    let joining = Site::new(3);
    joining.volume().begin_snapshot().expect("begun");
    let mut chunks = 0;
    for chunk in sites[0].volume().snapshot().expect("a snapshot") {
        let chunk = chunk.expect("a chunk");
        assert!(chunk.len() < 2 << 20);
        joining.volume().load_snapshot(&chunk).expect("taken in");
        chunks += 1;
        assert!(joining.volume().is_joining().expect("a row"));
        // The sites go on meanwhile.
        let steps = rng.below(6);
        work(&sites, &mut programs, &mut network, &mut rng, steps);
    }
    assert!(chunks > 2);
    joining.volume().finish_snapshot().expect("finished");
    assert!(!joining.volume().is_joining().expect("a row"));
    sites.push(joining);
    let mut network = Network::joined(network, 3);
    let steps = rng.below(100);
    work(&sites, &mut programs, &mut network, &mut rng, steps);
    if rng.one_in(2) {
        programs[2].crashed();
        sites[2].restart(rng.one_in(2));
    }
    network.settle(&sites, &mut rng);
    for site in &sites {
        check_rows(site, false);
        let diff = dump(&sites[0]).diff(&dump(site));
        assert!(diff.is_empty(), "sites 1 and {} differ:\n{diff:.4000}", site.id);
    }
    programs.iter_mut().zip(&sites).for_each(|(program, site)| program.close_all(site.volume()));
    network.drain(&sites);
    for site in &mut sites {
        check_rows(site, true);
        common::dump::check_drained(site);
    }
}

#[test]
fn a_site_joins_a_busy_volume() {
    for_seeds("joins", 12, 1, run);
}

#[test]
fn a_snapshot_that_was_interrupted_is_noticed() {
    let origin = Site::new(1);
    let mut program = Program::default();
    let mut rng = Rng::new(7);
    for _ in 0..60 {
        program.step(origin.volume(), &mut rng);
    }
    let mut joining = Site::new(2);
    joining.volume().begin_snapshot().expect("begun");
    for chunk in origin.volume().snapshot().expect("a snapshot").take(3) {
        joining.volume().load_snapshot(&chunk.expect("a chunk")).expect("taken in");
    }
    assert!(joining.volume().is_joining().expect("a row"));
    joining.crash();
    let options = VolumeOptions { journal_file_bytes: JOURNAL_FILE_BYTES, ..VolumeOptions::default() };
    assert!(matches!(Volume::start(joining.path(), options), Err(OpenError::Joining { .. })));
}

#[test]
fn only_an_empty_volume_takes_a_snapshot() {
    let site = Site::new(1);
    let file = proto::record::Kind::Regular;
    site.volume().create(ROOT, FileId::ROOT, b"a", file, 0o644).expect("a file");
    assert!(matches!(site.volume().begin_snapshot(), Err(fs::error::FsError::NotEmpty)));
}
