//! Two tasks that keep the store and the shared state level.
//!
//! The *watcher* notices that more is appended or durable here. The *keeper* tells the store what has become of that: acknowledgements,
//! watermarks, stable points. Both take the newest state each time, however often it changed since.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto::ids::{Lane, LanePoint, Seq, SiteId};
use tokio::time::{Instant, sleep, sleep_until};

use crate::frames;
use crate::frontiers::Head;
use crate::hub::{Hub, LANES, State};
use crate::store::Store;
use crate::watermark::StablePoint;

/// The watcher looks no more often than this: writers may append hundreds of thousands of records a second.
const WATCH_PAUSE: Duration = Duration::from_millis(1);
/// The keeper tells the store no more often than this: peers acknowledge thousands of times a second.
const KEEP_PAUSE: Duration = Duration::from_millis(50);
/// How often acknowledgements are stored. A peer says again what it has, so that the newest may be lost in a crash.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// How often the stable points are told again: what was removed but still open then may be closed by now.
const RETELL_PAUSE: Duration = Duration::from_secs(10);
/// How long before the store is told again, after it failed.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// Shows the own lanes' heads whenever there is progress. Who ships the sync lane looks for itself: see [`ship`](crate::ship).
pub async fn watch<S: Store>(hub: Arc<Hub<S>>) {
    let mut stop = hub.stop.subscribe();
    let mut progress = hub.progress.subscribe();
    loop {
        progress.mark_unchanged();
        hub.blocking(|hub| hub.refresh_heads()).await;
        sleep(WATCH_PAUSE).await;
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            Ok(()) = progress.changed() => {}
        }
    }
}

/// A point for each lane of several sites: what each peer has acknowledged of an own lane, or what of its lane is stable.
type Points = BTreeMap<(SiteId, Lane), LanePoint>;

/// What the store has to be told.
#[derive(Default)]
struct News {
    acknowledged: Vec<(SiteId, Lane, LanePoint)>,
    watermarks: Vec<(Lane, Seq)>,
    own_stable: Vec<(Lane, StablePoint)>,
    their_stable: Vec<(SiteId, Lane, LanePoint)>,
}

/// Tells the store of acknowledgements, watermarks and stable points.
pub async fn keep<S: Store>(hub: Arc<Hub<S>>) {
    let mut stop = hub.stop.subscribe();
    let mut acked = hub.acked.subscribe();
    let mut applied = hub.applied.subscribe();
    let mut heads = hub.heads.subscribe();
    let mut members = hub.members_changed.subscribe();
    let mut stored = Points::new();
    let mut stored_at = Instant::now();
    let mut stable_points = Points::new();
    let mut retell_at = Instant::now() + RETELL_PAUSE;
    loop {
        let stopping = *stop.borrow_and_update();
        acked.mark_unchanged();
        applied.mark_unchanged();
        heads.mark_unchanged();
        members.mark_unchanged();
        let mut news = gather(&hub, &stored);
        // The first word of a peer counts at once: until it is stored, a restart would not know what holds the watermark.
        let first = |(peer, lane, _): &(SiteId, Lane, LanePoint)| !stored.contains_key(&(*peer, *lane));
        let due = stopping || stored_at.elapsed() >= STORE_PAUSE || news.acknowledged.iter().any(first);
        let later = !due && !news.acknowledged.is_empty();
        if due {
            stored_at = Instant::now();
        } else {
            news.acknowledged.clear();
        }
        let site = hub.local.site;
        stable_points.extend(news.their_stable.iter().map(|(origin, lane, point)| ((*origin, *lane), *point)));
        stable_points.extend(news.own_stable.iter().map(|(lane, stable)| ((site, *lane), stable.point)));
        if Instant::now() >= retell_at {
            retell_at = Instant::now() + RETELL_PAUSE;
            news.their_stable = stable_points.iter().map(|((origin, lane), point)| (*origin, *lane, *point)).collect();
        }
        let told = tell(&hub, news, &mut stored).await;
        if stopping {
            return;
        }
        tokio::select! {
            biased;
            _ = stop.changed() => continue,
            () = sleep(if told { KEEP_PAUSE } else { STORE_RETRY }) => {}
        }
        tokio::select! {
            biased;
            _ = stop.changed() => {}
            Ok(()) = acked.changed(), if told => {}
            Ok(()) = applied.changed(), if told => {}
            Ok(()) = heads.changed(), if told => {}
            Ok(()) = members.changed(), if told => {}
            () = sleep(STORE_PAUSE), if later => {}
            () = sleep_until(retell_at) => {}
            () = std::future::ready(()), if !told => {}
        }
    }
}

fn gather<S: Store>(hub: &Hub<S>, stored: &Points) -> News {
    let heads = *hub.heads.borrow();
    let histories = hub.own_histories();
    let mut news = News::default();
    let mut state = hub.state();
    let State { membership, watermarks, frontiers, watermark, their_stable, .. } = &mut *state;
    for member in membership.others() {
        for lane in Lane::ALL {
            let known = watermarks.acknowledged(member.site, lane);
            if let Some(point) = known.filter(|point| stored.get(&(member.site, lane)) != Some(point)) {
                news.acknowledged.push((member.site, lane, point));
            }
        }
    }
    for lane in Lane::ALL {
        let head = heads[lane as usize];
        let (seq, _) = watermarks.watermark(lane, head.durable);
        if seq > watermark[lane as usize] {
            watermark[lane as usize] = seq;
            news.watermarks.push((lane, seq));
        }
        let durable = LanePoint { incarnation: histories[lane as usize].current(), seq: head.durable };
        if let Some(stable) = watermarks.stable(lane, durable) {
            debug_assert!(stable.point.seq <= watermark[lane as usize], "stable {stable:?} beyond the watermark {seq}");
            news.own_stable.push((lane, stable));
        }
    }
    news.their_stable = their_stable.ready(frontiers, hub.local.site);
    news
}

/// False if the store failed; the acknowledgements are told again then.
async fn tell<S: Store>(hub: &Arc<Hub<S>>, news: News, stored: &mut Points) -> bool {
    let News { acknowledged, watermarks, mut own_stable, their_stable } = news;
    if acknowledged.is_empty() && watermarks.is_empty() && own_stable.is_empty() && their_stable.is_empty() {
        return true;
    }
    let to_store = acknowledged.clone();
    let (result, own_stable) = hub
        .blocking(move |hub| {
            let store = &hub.store;
            let result =
                to_store.iter().try_for_each(|(peer, lane, point)| store.set_acknowledged(*peer, *lane, *point));
            for (lane, seq) in watermarks {
                store.set_watermark(lane, seq);
            }
            // What this site made in its other lanes before the stable record is required too; all of it is below these heads.
            let heads = hub.refresh_heads();
            let own = frames::own_heads(hub.local.site, &hub.own_histories(), &heads);
            for (lane, stable) in &mut own_stable {
                store.set_stable(hub.local.site, *lane, stable.point);
                stable.heads.extend(own.iter().copied().filter(|head: &Head| head.lane != *lane));
            }
            for (origin, lane, point) in their_stable {
                store.set_stable(origin, lane, point);
            }
            (result, own_stable)
        })
        .await;
    if !own_stable.is_empty() {
        let mut told: [Option<StablePoint>; LANES] = hub.state().own_stable.clone();
        for (lane, stable) in own_stable {
            told[lane as usize] = Some(stable);
        }
        hub.state().own_stable = told;
        hub.stable.send_modify(|version| *version += 1);
    }
    match result {
        Ok(()) => {
            stored.extend(acknowledged.into_iter().map(|(peer, lane, point)| ((peer, lane), point)));
            true
        }
        Err(error) => {
            tracing::error!("could not store what the peers acknowledged, trying again: {error}");
            false
        }
    }
}
