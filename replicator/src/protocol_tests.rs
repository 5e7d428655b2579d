//! Several sites over loopback TLS: what holds whatever happens to links, stores and daemons.

use std::time::Duration;

use proto::ids::{Lane, Seq, SiteId};

use crate::replicator::WaitError;
use crate::status::ReplicationStatus;
use crate::store::Store;
use crate::testing::link::LinkState;
use crate::testing::{Sites, until};

const LANE: Lane = Lane::Normal;
const LIMIT: Duration = Duration::from_secs(30);

/// Every site has every record of every other, once and in order; and everything is stable everywhere.
async fn level(sites: &Sites) {
    for site in &sites.sites {
        let targets: Vec<(Lane, Seq)> = Lane::ALL.map(|lane| (lane, site.store.lane_head(lane).durable)).to_vec();
        site.replicator().wait_applied(&targets, None, LIMIT).await.expect("it is applied everywhere");
        for (lane, target) in targets {
            for other in sites.sites.iter().filter(|other| other.id != site.id) {
                let log = other.store.log(site.id, lane);
                assert_eq!(log, (1..=target.0).collect::<Vec<u64>>(), "{lane} of {} at {}", site.id, other.id);
            }
        }
    }
    for site in &sites.sites {
        for lane in Lane::ALL {
            let head = site.store.lane_head(lane).durable;
            until("the watermark follows", || site.store.watermark(lane) == head).await;
            for other in &sites.sites {
                until("the stable point follows", || other.store.stable(site.id, lane) == head).await;
            }
        }
    }
}

async fn until_status(sites: &Sites, site: usize, what: &str, holds: impl Fn(&ReplicationStatus) -> bool) {
    for _ in 0..3_000 {
        if holds(&sites.sites[site].replicator().status().await) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain: {what}: {:#?}", sites.sites[site].replicator().status().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_each_site_writes_reaches_all_others_once_and_in_order() {
    let mut sites = Sites::started(3).await;
    for site in &sites.sites {
        site.store.write(LANE, 300, 100);
        site.store.write(Lane::Bulk, 40, 60_000);
        site.store.write(Lane::Sync, 3, 10);
    }
    level(&sites).await;
    let status = sites.sites[0].replicator().status().await;
    for peer in &status.peers {
        assert!(peer.connected && peer.eta_seconds == Some(0), "{peer:?}");
        assert!(peer.lanes.iter().all(|lane| lane.behind_records == Some(0) && lane.lag_seconds == Some(0.0)));
    }
    assert!(serde_json::to_string(&status).is_ok_and(|json| json.contains("\"name\":\"beta\"")));
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_while_writing_lose_nothing_and_repeat_nothing() {
    let mut sites = Sites::started(2).await;
    for round in 0..6 {
        for site in &sites.sites {
            site.store.write(LANE, 50, 20_000);
        }
        // Cut at different depths into the transfer.
        until("something flows", || sites.sites[1].store.log(SiteId(1), LANE).len() > round * 40).await;
        sites.sites[round % 2].link.set(LinkState::Cut);
        sites.sites[0].store.write(LANE, 10, 20_000);
        sites.sites[round % 2].link.set(LinkState::Open);
    }
    level(&sites).await;
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_link_is_noticed_in_seconds_and_writers_never_wait() {
    let mut sites = Sites::started(2).await;
    sites.sites[0].store.write(LANE, 10, 100);
    level(&sites).await;
    until_status(&sites, 0, "both streams stand", |status| status.peers[0].connected).await;
    sites.sites[1].link.set(LinkState::Silent);
    until_status(&sites, 0, "the cut is noticed", |status| {
        status.peers[0].streams.iter().all(|stream| !stream.connected)
    })
    .await;
    let last = sites.sites[0].store.write(LANE, 10, 100);
    until_status(&sites, 0, "the distance is known", |status| status.peers[0].lanes[0].behind_records == Some(10))
        .await;
    let waited =
        sites.sites[0].replicator().wait_applied(&[(LANE, last)], Some("beta"), Duration::from_millis(10)).await;
    assert!(matches!(waited, Err(WaitError::Timeout { .. })), "{waited:?}");
    sites.sites[1].link.set(LinkState::Cut);
    sites.sites[1].link.set(LinkState::Open);
    level(&sites).await;
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_waits_visibly_for_what_it_depends_on() {
    let mut sites = Sites::new(3).await;
    sites.sites[0].start().await;
    sites.sites[1].start().await;
    let seen = sites.sites[2].store.write(LANE, 5, 10);
    let dep = sites.sites[2].store.position(LANE, seen);
    sites.sites[0].store.write(LANE, 3, 10);
    sites.sites[0].store.write_after(LANE, 10, vec![dep]);
    let other = sites.sites[0].store.write(Lane::Bulk, 2, 10);
    until_status(&sites, 0, "the origin is told", |status| {
        status.peers[0]
            .lanes
            .iter()
            .any(|lane| lane.stopped.as_ref().is_some_and(|reason| reason.contains("waits for")))
    })
    .await;
    until_status(&sites, 1, "the receiver shows it", |status| {
        status.incoming[0].lanes.iter().any(|lane| lane.stopped.is_some())
    })
    .await;
    assert_eq!(sites.sites[1].store.log(SiteId(1), LANE), [1, 2, 3]);
    until("other lanes go on", || sites.sites[1].store.log(SiteId(1), Lane::Bulk).len() as u64 == other.0).await;
    sites.sites[2].start().await;
    level(&sites).await;
    until_status(&sites, 0, "it is forgotten", |status| {
        status.peers[0].lanes.iter().all(|lane| lane.stopped.is_none())
    })
    .await;
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_can_not_be_applied_is_retried_and_never_skipped() {
    let mut sites = Sites::started(2).await;
    sites.sites[1].store.break_replay(true);
    sites.sites[0].store.write(LANE, 20, 10);
    until_status(&sites, 0, "it is shown", |status| status.peers[0].lanes.iter().any(|lane| lane.stopped.is_some()))
        .await;
    assert_eq!(sites.sites[0].store.watermark(LANE), Seq::ZERO);
    sites.sites[1].store.break_replay(false);
    level(&sites).await;
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_before_it_is_durable_and_a_crash_is_made_good() {
    let mut sites = Sites::started(2).await;
    sites.sites[0].store.write(LANE, 10, 10);
    level(&sites).await;
    sites.sites[1].store.block_flush(true);
    let last = sites.sites[0].store.write(LANE, 10, 10);
    until("it is replayed", || sites.sites[1].store.log(SiteId(1), LANE).len() == 20).await;
    let targets = [(LANE, last)];
    let waited = sites.sites[0].replicator().wait_applied(&targets, None, Duration::from_millis(300)).await;
    assert!(matches!(waited, Err(WaitError::Timeout { .. })), "{waited:?}");
    sites.sites[1].stop().await;
    sites.sites[1].store.crash();
    assert_eq!(sites.sites[1].store.log(SiteId(1), LANE).len(), 10);
    sites.sites[1].start().await;
    level(&sites).await;
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_site_goes_on_where_it_was() {
    let mut sites = Sites::started(2).await;
    for _ in 0..3 {
        sites.sites[0].store.write(LANE, 30, 10_000);
        sites.sites[1].store.write(LANE, 30, 10_000);
        sites.sites[1].stop().await;
        sites.sites[0].store.write(LANE, 30, 10_000);
        sites.sites[1].start().await;
    }
    level(&sites).await;
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_a_site_that_is_none_says_who_there_is() {
    let mut sites = Sites::started(2).await;
    let waited = sites.sites[0].replicator().wait_applied(&[(LANE, Seq(1))], Some("delta"), LIMIT).await;
    let known = "beta".to_string();
    assert_eq!(waited, Err(WaitError::NoSuchPeer { name: "delta".to_string(), known }));
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_alone_needs_no_journal() {
    let mut sites = Sites::started(1).await;
    let last = sites.sites[0].store.write(LANE, 10, 10);
    sites.sites[0].replicator().wait_applied(&[(LANE, last)], None, LIMIT).await.expect("nobody to wait for");
    level(&sites).await;
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_lane_with_a_full_window_does_not_hold_up_the_lane_that_it_waits_for() {
    let mut sites = Sites::new(2).await;
    for site in &mut sites.sites {
        site.window_bytes = 3 << 20;
        site.start().await;
    }
    let alpha = sites.sites[0].store.clone();
    let dep = alpha.position(Lane::Bulk, Seq(20));
    alpha.write_after(LANE, 10, vec![dep]);
    // Twice the window, and it does not shrink.
    alpha.write(LANE, 100, 60_000);
    until_status(&sites, 1, "the lane waits", |status| {
        status.incoming[0].lanes.iter().any(|lane| lane.stopped.is_some())
    })
    .await;
    alpha.write(Lane::Bulk, 20, 60_000);
    level(&sites).await;
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_shipped_as_such_and_with_their_bytes_to_who_lacks_the_source() {
    let mut sites = Sites::started(3).await;
    let (origin, has, lacks) = (&sites.sites[0].store, &sites.sites[1].store, &sites.sites[2].store);
    lacks.lack_sources(true);
    origin.write(LANE, 5, 100);
    origin.write_copies(LANE, 40, 200_000);
    origin.write(Lane::Bulk, 3, 100);
    origin.write_copies(Lane::Sync, 2, 70_000);
    level(&sites).await;
    assert_eq!(has.came(), (42, 0), "every source was there");
    assert_eq!(lacks.came(), (0, 42), "no source was there");
    // What comes later is tried as a copy again.
    lacks.lack_sources(false);
    origin.write_copies(LANE, 4, 200_000);
    level(&sites).await;
    assert_eq!(lacks.came(), (4, 42));
    lacks.lack_sources(true);
    origin.write_copies(LANE, 4, 200_000);
    level(&sites).await;
    assert_eq!((has.came(), lacks.came()), ((50, 0), (4, 46)));
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_comes_instead_of_its_bytes_stops_the_lane_visibly() {
    let mut sites = Sites::started(2).await;
    let (origin, lacks) = (&sites.sites[0].store, &sites.sites[1].store);
    lacks.lack_sources(true);
    origin.keep_copies(true);
    origin.write_copies(LANE, 2, 100_000);
    until_status(&sites, 0, "the origin is told", |status| {
        let stopped = status.peers[0].lanes.iter().filter_map(|lane| lane.stopped.as_ref());
        stopped.clone().count() > 0 && stopped.clone().all(|why| why.contains("it has to come with its bytes"))
    })
    .await;
    assert_eq!(lacks.came(), (0, 0), "nothing was made up");
    lacks.lack_sources(false);
    level(&sites).await;
    sites.stop().await;
}
