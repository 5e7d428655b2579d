//! Sites of a few steps: one lane handed over as it is, and everything settled at the end.

use fs::replay::ReplayError;
use fs::ship::{Copies, ShipRecord};
use proto::ids::{FileId, Lane, Seq};
use proto::record::Record;

use super::dump::{check_drained, check_rows, dump};
use super::network::Network;
use super::{Rng, Site};

/// The lane of one site behind a record, made durable first.
pub fn shipped(site: &Site, after: Seq, copies: Copies) -> Vec<ShipRecord> {
    let volume = site.volume();
    volume.wait_durable(volume.appended()).expect("durable");
    volume.read_lane(Lane::Normal, after, 1 << 26, copies).expect("the lane")
}

/// What another site lacks of it.
pub fn lacked(from: &Site, to: &Site, copies: Copies) -> Vec<Record> {
    let after = to.volume().frontier(from.id, Lane::Normal).seq;
    shipped(from, after, copies).into_iter().map(|shipped| shipped.record).collect()
}

/// Has it replayed. Why not all of it was.
pub fn replay(from: &Site, to: &Site, records: &[Record]) -> Option<ReplayError> {
    to.volume().replay(from.id, from.volume().incarnation(), Lane::Normal, records).stopped
}

/// Everything of one lane, as far as it goes.
pub fn send(from: &Site, to: &Site, copies: Copies) -> Option<ReplayError> {
    replay(from, to, &lacked(from, to, copies))
}

/// Delivers all, and demands equal sites with nothing left over.
pub fn settle(mut sites: Vec<Site>) -> Vec<Site> {
    let (mut network, mut rng) = (Network::new(sites.len()), Rng::new(1));
    network.settle(&sites, &mut rng);
    network.drain(&sites);
    for site in &mut sites {
        check_rows(site, true);
        check_drained(site);
    }
    let root = format!("inode {}", FileId::ROOT);
    let mut dumps: Vec<_> = sites.iter().map(dump).collect();
    dumps.iter_mut().for_each(|dump| drop(dump.lines.remove(&root)));
    for other in &dumps[1..] {
        let diff = dumps[0].diff(other);
        assert!(diff.is_empty(), "{diff}");
    }
    sites
}
