//! Several sites over loopback TLS, of which one comes back older than the others know it.

use std::time::Duration;

use proto::ids::{Incarnation, Lane, LanePoint, Seq, SiteId};

use crate::store::Store;
use crate::testing::link::LinkState;
use crate::testing::memory::Seen;
use crate::testing::{Sites, until};

const LANE: Lane = Lane::Normal;
const LIMIT: Duration = Duration::from_secs(30);

/// So many sites that have written some, and are level.
async fn sites(count: u16) -> Sites {
    let sites = Sites::started(count).await;
    for site in &sites.sites {
        for lane in [Lane::Sync, LANE, Lane::Bulk] {
            site.store.write(lane, 4, 100);
        }
    }
    equal(&sites).await;
    sites
}

/// All sites have all changes, and know so; none has stopped.
async fn equal(sites: &Sites) {
    for site in &sites.sites {
        until("a site has the changes of all", || {
            sites.sites.iter().all(|other| other.store.seen() == site.store.seen())
        })
        .await;
        assert_eq!(site.store.stopped(), None);
    }
    for site in &sites.sites {
        let targets: Vec<(Lane, Seq)> = Lane::ALL.map(|lane| (lane, site.store.lane_head(lane).durable)).to_vec();
        site.replicator().wait_applied(&targets, None, LIMIT).await.expect("all is acknowledged");
    }
}

fn has(seen: &Seen, lane: Lane, incarnation: u32, seq: u64) -> bool {
    let point = LanePoint { incarnation: Incarnation(incarnation), seq: Seq(seq) };
    seen.contains_key(&(SiteId(1), lane, point))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_tail_comes_back_and_the_site_goes_on_in_a_new_incarnation() {
    let mut sites = sites(2).await;
    let older = sites.sites[0].store.copy();
    sites.sites[0].store.write(Lane::Sync, 3, 100);
    equal(&sites).await;
    sites.sites[0].stop().await;
    sites.sites[0].store.restore(&older);
    sites.sites[0].start().await;
    equal(&sites).await;
    let store = sites.sites[0].store.clone();
    assert!(has(&store.seen(), Lane::Sync, 1, 7), "the lost records are back");
    assert!(store.incarnation() > Incarnation(1));
    sites.sites[0].store.write(Lane::Sync, 5, 100);
    sites.sites[0].store.write(LANE, 5, 100);
    sites.sites[1].store.write_after(LANE, 10, vec![store.position(Lane::Sync, Seq(6))]);
    equal(&sites).await;
    // And once more.
    for site in [0, 1] {
        sites.sites[site].stop().await;
        sites.sites[site].start().await;
    }
    sites.sites[0].store.write(Lane::Sync, 5, 100);
    equal(&sites).await;
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_site_that_has_a_part_of_the_lost_tail_becomes_level() {
    let mut sites = sites(3).await;
    let older = sites.sites[0].store.copy();
    sites.sites[0].store.write(LANE, 3, 100);
    equal(&sites).await;
    sites.sites[2].link.set(LinkState::Cut);
    sites.sites[0].store.write(LANE, 4, 100);
    until("beta has them", || has(&sites.sites[1].store.seen(), LANE, 1, 11)).await;
    sites.sites[0].stop().await;
    sites.sites[0].store.restore(&older);
    sites.sites[0].start().await;
    sites.sites[1].store.write(LANE, 3, 100);
    sites.sites[2].link.set(LinkState::Open);
    sites.sites[2].store.write(LANE, 3, 100);
    equal(&sites).await;
    sites.sites[0].store.write(LANE, 3, 100);
    equal(&sites).await;
    assert!(has(&sites.sites[0].store.seen(), LANE, 1, 11));
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_can_ask_nobody_writes_in_a_new_incarnation_and_gets_its_tail_back_later() {
    let mut sites = sites(3).await;
    let older = sites.sites[0].store.copy();
    sites.sites[0].store.write(LANE, 5, 100);
    equal(&sites).await;
    sites.sites[0].stop().await;
    sites.sites[0].store.restore(&older);
    for other in [1, 2] {
        sites.sites[other].link.set(LinkState::Cut);
        sites.sites[other].stop().await;
    }
    sites.sites[0].start().await;
    sites.sites[0].replicator().settle_tail(LIMIT).await.expect("settled");
    assert_eq!(sites.sites[0].store.incarnation(), Incarnation(2));
    sites.sites[0].store.write(LANE, 7, 100);
    for other in [2, 1] {
        sites.sites[other].link.set(LinkState::Open);
        sites.sites[other].start().await;
        sites.sites[other].store.write(LANE, 2, 100);
    }
    equal(&sites).await;
    let seen = sites.sites[1].store.seen();
    assert!(has(&seen, LANE, 1, 9) && has(&seen, LANE, 2, 11));
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_whose_peers_all_answer_stays_in_its_incarnation() {
    let mut sites = sites(2).await;
    sites.sites[0].stop().await;
    sites.sites[0].start().await;
    sites.sites[0].replicator().settle_tail(LIMIT).await.expect("settled");
    assert_eq!(sites.sites[0].store.incarnation(), Incarnation(1));
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn levelling_that_breaks_off_is_begun_again() {
    let mut sites = sites(2).await;
    let older = sites.sites[0].store.copy();
    sites.sites[0].store.write(LANE, 5, 100);
    equal(&sites).await;
    sites.sites[0].stop().await;
    sites.sites[0].store.restore(&older);
    sites.sites[0].store.fail_level_after(9);
    sites.sites[0].start().await;
    until("it breaks", || !sites.sites[0].store.level_will_fail()).await;
    sites.sites[0].stop().await;
    sites.sites[0].store.fail_level_after(3);
    sites.sites[0].start().await;
    sites.sites[0].store.write(LANE, 2, 100);
    equal(&sites).await;
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_came_back_older_takes_the_state_of_who_has_dropped_the_records() {
    let mut sites = sites(2).await;
    let older = sites.sites[1].store.copy();
    sites.sites[0].store.write(LANE, 9, 100);
    sites.sites[1].store.write(LANE, 3, 100);
    equal(&sites).await;
    until("the journal drops them", || sites.sites[0].store.watermark(LANE) == Seq(13)).await;
    sites.sites[1].stop().await;
    sites.sites[1].store.restore(&older);
    sites.sites[1].start().await;
    equal(&sites).await;
    sites.sites[0].store.write(LANE, 2, 100);
    sites.sites[1].store.write(LANE, 2, 100);
    equal(&sites).await;
    sites.stop().await;
}

/// An older copy of alpha's store, which wrote so many records before it asked anybody.
async fn written_to(records: u64) -> String {
    let mut sites = sites(2).await;
    let older = sites.sites[0].store.copy();
    sites.sites[0].store.write(LANE, 5, 100);
    equal(&sites).await;
    let seen = sites.sites[1].store.seen();
    sites.sites[0].stop().await;
    sites.sites[0].store.restore(&older);
    sites.sites[0].store.write(LANE, records, 100);
    sites.sites[0].start().await;
    until("it stops", || sites.sites[0].store.stopped().is_some()).await;
    assert_eq!(sites.sites[1].store.seen(), seen, "nothing is shipped");
    sites.stop().await;
    sites.sites[0].store.stopped().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_written_to_before_it_could_ask_is_stopped() {
    assert!(written_to(2).await.contains("has made records since"));
    assert!(written_to(5).await.contains("another record there"));
    assert!(written_to(9).await.contains("another record there"));
}
