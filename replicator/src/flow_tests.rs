//! Who gets what when: the sync lane's own connection, pauses and limits, on several sites over loopback TLS.

use std::time::{Duration, Instant};

use proto::ids::{Lane, Seq, SiteId};

use crate::limits::LimitError;
use crate::status::{PeerLaneStatus, PeerStatus};
use crate::store::Store;
use crate::testing::link::LinkState;
use crate::testing::{Sites, until};

const BETA: SiteId = SiteId(2);
const LIMIT: Duration = Duration::from_secs(30);

async fn level(sites: &Sites) {
    let (alpha, beta) = (&sites.sites[0], &sites.sites[1]);
    let targets = Lane::ALL.map(|lane| (lane, alpha.store.lane_head(lane).durable));
    alpha.replicator().wait_applied(&targets, None, LIMIT).await.expect("level");
    for (lane, target) in targets {
        assert_eq!(beta.store.log(alpha.id, lane), (1..=target.0).collect::<Vec<u64>>(), "{lane}");
    }
}

async fn beta_lane(sites: &Sites, lane: Lane) -> PeerLaneStatus {
    let PeerStatus { lanes, .. } = sites.sites[0].replicator().status().await.peers.remove(0);
    lanes.into_iter().find(|status| status.lane == lane.name()).expect("the lane has records")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_are_told_at_once_of_acknowledgements_and_of_a_connection_that_comes_or_goes() {
    let mut sites = Sites::started(2).await;
    let alpha = sites.sites[0].store.clone();
    until("it is connected", || alpha.is_connected(BETA)).await;
    let last = alpha.write(Lane::Sync, 20, 100);
    until("the writer is told", || alpha.told_acknowledged(BETA, Lane::Sync) == last).await;
    assert_eq!(sites.sites[1].store.log(SiteId(1), Lane::Sync).len() as u64, last.0);
    let streams = sites.sites[0].replicator().status().await.peers.remove(0).streams;
    assert_eq!(streams.iter().map(|stream| stream.channel).collect::<Vec<_>>(), ["sync", "async"]);

    sites.sites[1].link.set(LinkState::Cut);
    until("the writer is told of the loss", || !alpha.is_connected(BETA)).await;
    let last = alpha.write(Lane::Sync, 5, 100);
    sites.sites[1].link.set(LinkState::Open);
    until("the writer is told of the return", || alpha.is_connected(BETA)).await;
    until("the rest is acknowledged", || alpha.told_acknowledged(BETA, Lane::Sync) == last).await;
    level(&sites).await;

    // The frontiers of a new connection are acknowledgements, too.
    sites.sites[0].stop().await;
    assert!(!alpha.is_connected(BETA));
    alpha.forget_acknowledgements();
    sites.sites[0].start().await;
    until("it is told anew", || alpha.told_acknowledged(BETA, Lane::Sync) == last).await;
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_in_many_pieces_of_all_lanes_arrive_whole() {
    let mut sites = Sites::started(2).await;
    for _ in 0..3 {
        for lane in Lane::ALL {
            sites.sites[0].store.write(lane, 40, 60_000);
            sites.sites[0].store.write(lane, 500, 10);
        }
    }
    level(&sites).await;
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_lane_keeps_its_backlog_and_is_shown_while_others_go_on() {
    let mut sites = Sites::started(2).await;
    let replicator = sites.sites[0].replicator();
    replicator.pause(Some("beta"), Some(Lane::Bulk)).expect("a peer");
    replicator.pause(None, Some(Lane::Sync)).expect("everyone");
    sites.sites[0].store.write(Lane::Bulk, 50, 1_000);
    sites.sites[0].store.write(Lane::Sync, 5, 1_000);
    let normal = sites.sites[0].store.write(Lane::Normal, 50, 1_000);
    replicator.wait_applied(&[(Lane::Normal, normal)], None, LIMIT).await.expect("it is not paused");
    for (lane, behind) in [(Lane::Bulk, 50), (Lane::Sync, 5)] {
        let status = beta_lane(&sites, lane).await;
        assert!(status.paused && status.behind_records == Some(behind) && status.stopped.is_none(), "{status:?}");
    }
    let paused = |status: &crate::LimitStatus| status.paused && status.peer == "beta";
    assert_eq!(replicator.limits().iter().filter(|status| paused(status)).count(), 2);
    replicator.resume(None, None).expect("everyone");
    level(&sites).await;
    assert!(!beta_lane(&sites, Lane::Bulk).await.paused);
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_holds_from_when_it_is_set_until_it_is_lifted() {
    let mut sites = Sites::started(2).await;
    let replicator = sites.sites[0].replicator();
    assert_eq!(replicator.set_limit(None, None, Some(0)), Err(LimitError::Zero));
    assert!(matches!(replicator.set_limit(Some("delta"), None, Some(1)), Err(LimitError::NoSuchPeer { .. })));

    // 400 kB at 200 kB a second, of which a tenth of a second passes at once.
    replicator.set_limit(Some("beta"), Some(Lane::Bulk), Some(200_000)).expect("a peer");
    let began = Instant::now();
    let last = sites.sites[0].store.write(Lane::Bulk, 40, 10_000);
    let unlimited = sites.sites[0].store.write(Lane::High, 40, 10_000);
    replicator.wait_applied(&[(Lane::High, unlimited)], None, LIMIT).await.expect("not limited");
    assert_eq!(beta_lane(&sites, Lane::Bulk).await.limit_bytes_per_second, Some(200_000));
    replicator.wait_applied(&[(Lane::Bulk, last)], None, LIMIT).await.expect("slowly");
    // The last piece may pass at once, too: the next one pays for it.
    assert!(began.elapsed() > Duration::from_millis(800), "after {:?}", began.elapsed());

    // This would take hours.
    replicator.set_limit(None, None, Some(100)).expect("everyone");
    sites.sites[0].store.write(Lane::Bulk, 100, 10_000);
    until("the first piece passes", || sites.sites[1].store.log(SiteId(1), Lane::Bulk).len() as u64 >= last.0).await;
    replicator.set_limit(None, None, None).expect("everyone");
    replicator.set_limit(Some("beta"), Some(Lane::Bulk), None).expect("a peer");
    level(&sites).await;
    assert!(sites.sites[0].store.lane_head(Lane::Sync).appended == Seq::ZERO);
    sites.stop().await;
}
