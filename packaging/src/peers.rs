//! The replicator, as the daemon uses it: started, asked, waited for, ended.

mod reports;
pub mod waiting;

use std::sync::Arc;
use std::time::Duration;

use fs::volume::Volume;
use proto::ids::Lane;
use replicator::{LimitError, LimitStatus, Replicator, StartError, WaitError};
use tokio::sync::{RwLock, RwLockReadGuard};
use tokio::time::{Instant, timeout_at};

use crate::config::Config;
use crate::control::FlowChange;
use crate::control::report::{FlowReport, LevellingReport, PeerReport, SyncDirectoryReport};
use crate::founding::{self, Identity};

/// How long questions may hold up the end.
const QUESTIONS_LIMIT: Duration = Duration::from_secs(1);

/// Why the peers can't be asked or waited for.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// There is no connection to anyone, because we can't even start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Nobody can be waited for.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// No such limit.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// No token.
    #[error(transparent)]
    Invite(#[from] replicator::join::admit::InviteError),
    /// The store can't begin a new incarnation.
    #[error("could not begin a new incarnation: {0}")]
    Store(#[from] fs::error::FsError),
    /// Too late.
    #[error("the daemon is ending")]
    Ending,
}

/// The other sites, as seen from here.
pub struct Peers {
    volume: Arc<Volume>,
    /// `None` once it has ended.
    replicator: RwLock<Option<Replicator>>,
}

impl Peers {
    /// Listens for the other sites, and connects to each.
    pub async fn start(volume: Arc<Volume>, identity: Identity, config: &Config) -> Result<Self, PeersError> {
        let settings = replicator::Config {
            window_bytes: config.window_bytes,
            max_clock_drift: config.max_clock_drift,
            advertise: Some(config.advertise.clone()),
            weights: config.weights.by_lane(),
            limits: config.limits.clone(),
            schedules: config.schedules.clone(),
            ..replicator::Config::new(config.listen)
        };
        let replicator = Replicator::start(volume.clone(), identity, settings).await?;
        Ok(Self { volume, replicator: RwLock::new(Some(replicator)) })
    }

    /// To be awaited before programs may write: see [`Replicator::settle_tail`].
    pub async fn settle_tail(&self, limit: Duration) -> Result<(), PeersError> {
        Ok(self.running().await?.settle_tail(limit).await?)
    }

    /// How far each is, and from which one this site takes its state.
    pub async fn report(&self) -> Result<(Vec<PeerReport>, Option<LevellingReport>), PeersError> {
        let status = self.running().await?.status().await;
        let incoming = |site| status.incoming.iter().find(|incoming| incoming.site == site);
        let peers = status.peers.iter().map(|peer| reports::peer(peer, incoming(peer.site))).collect();
        Ok((peers, status.levelling.map(reports::levelling)))
    }

    /// How each sync directory stands with them.
    pub async fn sync_directories(&self) -> Result<Vec<SyncDirectoryReport>, PeersError> {
        let volume = self.volume.clone();
        let states = tokio::task::spawn_blocking(move || volume.sync_states()).await.map_err(|_| PeersError::Ending)?;
        Ok(states.into_iter().map(reports::sync_directory).collect())
    }

    /// Changes how fast records go to the peers, and tells how fast they may.
    pub async fn flow(
        &self,
        peer: Option<&str>,
        lane: Option<Lane>,
        change: Option<FlowChange>,
    ) -> Result<Vec<FlowReport>, PeersError> {
        let replicator = self.running().await?;
        match change {
            Some(FlowChange::Limit { bytes_per_second }) => replicator.set_limit(peer, lane, bytes_per_second)?,
            Some(FlowChange::Pause) => replicator.pause(peer, lane)?,
            Some(FlowChange::Resume) => replicator.resume(peer, lane)?,
            None => {}
        }
        let asked = |limit: &LimitStatus| {
            peer.is_none_or(|peer| peer == limit.peer) && lane.is_none_or(|lane| limit.lane == Some(lane.name()))
        };
        Ok(replicator.limits().into_iter().filter(asked).map(reports::flow).collect())
    }

    /// A token that lets one site in.
    pub async fn invite(&self, valid: Duration) -> Result<String, PeersError> {
        let token = self.running().await?.invite(founding::unix_seconds(), valid).await?;
        Ok(token.to_string())
    }

    /// Lets the connected peers get what they lack, for `limit` at most.
    pub async fn drain(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let targets = Lane::ALL.map(|lane| (lane, self.volume.lane_head(lane).appended));
        let Ok(replicator) = self.running().await else { return };
        for peer in replicator.status().await.peers.iter().filter(|peer| peer.connected) {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Err(error) = replicator.wait_applied(&targets, Some(&peer.name), left).await {
                tracing::info!("{} gets the rest after the next start: {error}", peer.name);
            }
        }
    }

    /// Ends all connections in order, within `limit`.
    pub async fn shutdown(&self, limit: Duration) {
        let taken = timeout_at(Instant::now() + QUESTIONS_LIMIT, self.replicator.write()).await;
        // Whoever still asks is cut off when the runtime ends.
        let Ok(mut running) = taken else { return };
        if let Some(replicator) = running.take() {
            replicator.shutdown(limit).await;
        }
    }

    async fn running(&self) -> Result<RwLockReadGuard<'_, Replicator>, PeersError> {
        RwLockReadGuard::try_map(self.replicator.read().await, Option::as_ref).map_err(|_| PeersError::Ending)
    }
}
