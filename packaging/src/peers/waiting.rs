//! Waiting until the peers have applied what was changed at a place, and telling meanwhile how far they are.

use std::path::Path;
use std::time::Duration;

use fs::error::FsError;
use fs::volume::Volume;
use proto::ids::{Lane, Seq};
use replicator::WaitError;
use replicator::status::PeerStatus;
use tokio::time::Instant;

use super::{Peers, PeersError, reports};
use crate::control::report::{PeerReport, WaitOutcome, WaitedPeer};

/// How often it is told how far they are.
const TELL_INTERVAL: Duration = Duration::from_millis(500);

/// How far the peers are to be: a position in each lane that matters.
pub type Targets = Vec<(Lane, Seq)>;

/// The positions of this site's changes so far at `path` and below, durable here when it returns. Blocks.
pub fn targets(volume: &Volume, path: &Path, lane: Option<Lane>) -> Result<Targets, FsError> {
    let positions = volume.positions_below(path)?;
    // Not `fsync`, which in a sync directory waits for the peers itself, and for all of them.
    volume.wait_durable(volume.appended())?;
    let all = Lane::ALL.into_iter().zip(positions);
    Ok(all.filter(|(of, seq)| *seq > Seq::ZERO && lane.is_none_or(|lane| lane == *of)).collect())
}

impl Peers {
    /// Until `peer`, or every one, has applied this site's lanes up to the targets.
    pub async fn wait(
        &self,
        targets: &Targets,
        peer: Option<&str>,
        limit: Duration,
        tell: impl Fn(WaitOutcome),
    ) -> Result<WaitOutcome, PeersError> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let waited = self.running().await?.wait_applied(targets, peer, left.min(TELL_INTERVAL)).await;
            let all_level = match waited {
                Ok(()) => true,
                Err(WaitError::Timeout { .. }) => false,
                Err(error) => return Err(error.into()),
            };
            let outcome = self.outcome(targets, peer, all_level).await?;
            if outcome.is_level() || left <= TELL_INTERVAL {
                return Ok(outcome);
            }
            tell(outcome);
        }
    }

    /// How far they are.
    async fn outcome(&self, targets: &Targets, peer: Option<&str>, all_level: bool) -> Result<WaitOutcome, PeersError> {
        let mut asked = self.running().await?.status().await.peers;
        asked.retain(|status| peer.is_none_or(|name| status.name == name));
        let (volume, targets) = (self.volume.clone(), targets.clone());
        let counting = move || asked.iter().map(|peer| waited(&volume, &targets, peer, all_level)).collect();
        let counted = tokio::task::spawn_blocking(counting).await;
        Ok(WaitOutcome { peers: counted.map_err(|_| PeersError::Ending)? })
    }
}

fn waited(volume: &Volume, targets: &Targets, peer: &PeerStatus, all_level: bool) -> WaitedPeer {
    let behind_records = if all_level { 0 } else { lacking(targets, peer) };
    let bytes_of_lane = |(lane, target): &(Lane, Seq)| bytes_between(volume, *lane, acknowledged(peer, *lane), *target);
    let behind_bytes = if all_level { Some(0) } else { targets.iter().map(bytes_of_lane).sum() };
    let rate = Some(peer.rate_bytes_per_second).filter(|rate| peer.connected && *rate > 0);
    let PeerReport { name, error, connected, .. } = reports::peer(peer, None);
    WaitedPeer {
        name,
        level: behind_records == 0,
        behind_records,
        behind_bytes,
        eta_seconds: behind_bytes.zip(rate).map(|(bytes, rate)| bytes.div_ceil(rate)),
        error: error.or_else(|| (!connected).then(|| "not connected".into())),
    }
}

fn acknowledged(peer: &PeerStatus, lane: Lane) -> Seq {
    let lane = peer.lanes.iter().find(|status| status.lane == lane.name());
    Seq(lane.and_then(|status| status.acknowledged).unwrap_or(0))
}

/// How many of the records up to `targets` a peer has not acknowledged.
fn lacking(targets: &Targets, peer: &PeerStatus) -> u64 {
    targets.iter().map(|(lane, target)| target.0.saturating_sub(acknowledged(peer, *lane).0)).sum()
}

/// The bytes of the records from one position to another; unknown where the journal has dropped them.
fn bytes_between(volume: &Volume, lane: Lane, from: Seq, to: Seq) -> Option<u64> {
    if from >= to {
        return Some(0);
    }
    // What is appended between the two questions is in the second alone.
    let after_to = volume.backlog(lane, to).ok()?.bytes;
    let after_from = volume.backlog(lane, from).ok()?.bytes;
    Some(after_from.saturating_sub(after_to))
}

#[cfg(test)]
mod tests {
    use super::super::reports::tests::{lane, peer};
    use super::*;

    #[test]
    fn only_what_was_asked_for_is_lacking() {
        let peer = peer(vec![lane("normal", 100, Some(40), Some(60))]);
        assert_eq!(lacking(&vec![(Lane::Normal, Seq(50)), (Lane::High, Seq(0))], &peer), 10);
        assert_eq!(lacking(&vec![(Lane::Normal, Seq(40))], &peer), 0);
        assert_eq!(lacking(&vec![(Lane::High, Seq(3))], &peer), 3);
    }
}
