//! One site's replicator: starts its tasks, answers the daemon, ends in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fs::error::FsError;
use fs::peers::Member;
use fs::volume::Volume;
use parking_lot::Mutex;
use proto::ids::{Lane, Seq, SiteId};
use proto::seal::SealingSalt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use crate::channel::Channel;
use crate::clock;
use crate::config::Config;
use crate::hub::{Hub, Local};
use crate::identity::invitations::{Invitations, InvitationsError};
use crate::identity::random::{self, RandomError};
use crate::identity::site_identity::SiteIdentity;
use crate::join::admit::{self, InviteError};
use crate::limits::{LaneLimit, LimitError, LimitStatus, Limits};
use crate::status::{self, ReplicationStatus};
use crate::store::Store;
use crate::transport::{Credentials, server};
use crate::{keep, level, ship};

/// Why the replicator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port can't be opened.
    #[error("can't listen at {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Store and identity are of different sites.
    #[error(
        "the identity is of site {identity}, but the store is of site {store} or of another volume; restore them together"
    )]
    OtherStore {
        /// In the identity.
        identity: SiteId,
        /// In the store.
        store: SiteId,
    },
    /// No randomness.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The outstanding invitations can't be read.
    #[error(transparent)]
    Invitations(#[from] InvitationsError),
    /// The store can't be read.
    #[error("cannot read the store: {0}")]
    Store(#[from] FsError),
    /// The thread that reads the store died.
    #[error("the thread that reads the store died: {0}")]
    Thread(String),
}

/// Why a wait ended without its target.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WaitError {
    /// No such peer.
    #[error("the volume has no other site named {name:?}; it has: {known}")]
    NoSuchPeer {
        /// The name.
        name: String,
        /// All names.
        known: String,
    },
    /// Too late.
    #[error("not applied everywhere within {limit:?}: {missing}")]
    Timeout {
        /// The limit.
        limit: Duration,
        /// Who lacks what.
        missing: String,
    },
    /// The replicator shuts down.
    #[error("the replicator is shutting down")]
    Stopped,
}

/// A running replicator. Dropping it ends it at once; [`Replicator::shutdown`] ends it in order.
pub struct Replicator<S: Store = Volume> {
    hub: Arc<Hub<S>>,
    tasks: Mutex<JoinSet<()>>,
    address: SocketAddr,
}

impl<S: Store> Replicator<S> {
    /// Listens, and connects to every member. Needs a tokio runtime with threads.
    pub async fn start(store: Arc<S>, identity: SiteIdentity, config: Config) -> Result<Self, StartError> {
        let listen = |source| StartError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let salts = [SealingSalt::from_random(random::bytes()?), SealingSalt::from_random(random::bytes()?)];
        let progress = watch::Sender::new(0);
        let hub = {
            let open = move || open(store, identity, config, salts, progress);
            let opened = tokio::task::spawn_blocking(open).await;
            Arc::new(opened.map_err(|error| StartError::Thread(error.to_string()))??)
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(keep::watch(hub.clone()));
        tasks.spawn(keep::keep(hub.clone()));
        tasks.spawn(level::run(hub.clone()));
        tasks.spawn(ship_to_all(hub.clone()));
        tasks.spawn(serve(hub.clone(), listener));
        Ok(Self { hub, tasks: Mutex::new(tasks), address })
    }

    /// To be awaited before programs may write: learns from the peers whether the end of the journal was lost, for `limit` at most.
    ///
    /// If every peer answers and none has more of this site's lanes than this site, all goes on. Otherwise this site opens an incarnation: what it
    /// makes then has positions that nobody knows, whatever turns out to be lost, so it need not wait for whom it can't reach. Nothing on the
    /// disk tells an older copy that was closed well from the newest, so this asks at every start. It costs a handshake where the peers are there,
    /// and one row where one is not; it waits only for a peer that is reached and silent.
    pub async fn settle_tail(&self, limit: Duration) -> Result<(), FsError> {
        let deadline = Instant::now() + limit;
        let mut met = self.hub.met.subscribe();
        loop {
            met.mark_unchanged();
            let (all_met, all_tried) = self.met();
            if all_met {
                return Ok(());
            }
            if all_tried || timeout_at(deadline, met.changed()).await.is_err() {
                break;
            }
        }
        self.hub.blocking(|hub| level::open_fresh(hub, hub.store.incarnation())).await
    }

    /// Whether every peer has answered on every channel; and whether it was tried at least.
    fn met(&self) -> (bool, bool) {
        let state = self.hub.state();
        let streams = || {
            let others = state.membership.others();
            others.flat_map(|member| {
                let progress = state.peers.get(&member.site);
                Channel::ALL.map(|channel| progress.map(|progress| &progress.streams[channel as usize]))
            })
        };
        let met = streams().all(|stream| stream.is_some_and(|stream| stream.met));
        let tried = streams().all(|stream| stream.is_some_and(|stream| stream.met || stream.last_error.is_some()));
        (met, tried)
    }

    /// Where it listens.
    pub fn listen_address(&self) -> SocketAddr {
        self.address
    }

    /// Every member, this site first.
    pub fn members(&self) -> Vec<Member> {
        self.hub.state().membership.all()
    }

    /// How replication stands.
    pub async fn status(&self) -> ReplicationStatus {
        let hub = self.hub.clone();
        self.hub.blocking(move |_| status::status(&hub)).await
    }

    /// Makes a token that lets one site in until `ttl` from `now_secs` (Unix seconds).
    pub async fn invite(&self, now_secs: u64, ttl: Duration) -> Result<Zeroizing<String>, InviteError> {
        admit::invite(&self.hub, now_secs, ttl).await
    }

    /// Waits until the peer of this name, or every peer, has applied and made durable this site's lanes up to the targets.
    pub async fn wait_applied(
        &self,
        targets: &[(Lane, Seq)],
        peer: Option<&str>,
        limit: Duration,
    ) -> Result<(), WaitError> {
        let deadline = Instant::now() + limit;
        let mut acked = self.hub.acked.subscribe();
        let mut members = self.hub.members_changed.subscribe();
        let mut stop = self.hub.stop.subscribe();
        loop {
            acked.mark_unchanged();
            members.mark_unchanged();
            let missing = self.missing(targets, peer)?;
            if missing.is_empty() {
                return Ok(());
            }
            let changed = async {
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => Err(WaitError::Stopped),
                    _ = acked.changed() => Ok(()),
                    _ = members.changed() => Ok(()),
                }
            };
            match timeout_at(deadline, changed).await {
                Ok(woken) => woken?,
                Err(_) => return Err(WaitError::Timeout { limit, missing: missing.join("; ") }),
            }
        }
    }

    /// Limits a lane, or all lanes together, toward the peer of this name or toward every peer, each for itself; `None` is unlimited. What was
    /// said of everyone replaces what was said of single peers before. Holds until the daemon ends: the configuration has the limits at start.
    pub fn set_limit(
        &self,
        peer: Option<&str>,
        lane: Option<Lane>,
        bytes_per_second: Option<u64>,
    ) -> Result<(), LimitError> {
        if bytes_per_second == Some(0) {
            return Err(LimitError::Zero);
        }
        self.change_limits(peer, |limits| limits.set(peer, lane, bytes_per_second))
    }

    /// Lets a lane, or all, rest toward the peer of this name or toward every peer; the backlog stays in the journal. A paused sync lane is for
    /// its directories as if the peer were slow: their policy says after what time they fail or are degraded. Holds until the daemon ends.
    pub fn pause(&self, peer: Option<&str>, lane: Option<Lane>) -> Result<(), LimitError> {
        self.change_limits(peer, |limits| limits.pause(peer, lane, true))
    }

    /// Ends a [`pause`](Self::pause). A lane that a schedule has paused goes on when the schedule says so.
    pub fn resume(&self, peer: Option<&str>, lane: Option<Lane>) -> Result<(), LimitError> {
        self.change_limits(peer, |limits| limits.pause(peer, lane, false))
    }

    /// What is in force for each peer, over all lanes and for each lane.
    pub fn limits(&self) -> Vec<LimitStatus> {
        let local = clock::local_time();
        let state = self.hub.state();
        let of = |member: &Member| {
            let limits = state.limits.in_force(&member.name, local);
            let status = |lane, limit: LaneLimit| {
                let LaneLimit { bytes_per_second, paused, scheduled } = limit;
                LimitStatus { peer: member.name.clone(), lane, bytes_per_second, paused, scheduled }
            };
            let overall = LaneLimit { bytes_per_second: limits.overall, ..LaneLimit::default() };
            let lanes = Lane::ALL.into_iter().zip(limits.lanes).map(|(lane, limit)| status(Some(lane.name()), limit));
            std::iter::once(status(None, overall)).chain(lanes).collect::<Vec<_>>()
        };
        state.membership.others().flat_map(of).collect()
    }

    /// Ends all streams and tasks in order: what is being replayed is finished and made durable. After `limit` the rest is ended
    /// at once.
    pub async fn shutdown(self, limit: Duration) {
        self.hub.stop.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        let deadline = Instant::now() + limit;
        while let Ok(Some(_)) = timeout_at(deadline, tasks.join_next()).await {}
        if !tasks.is_empty() {
            tracing::warn!("{} tasks did not end within {limit:?} and are ended", tasks.len());
            tasks.shutdown().await;
        }
    }

    fn change_limits(&self, peer: Option<&str>, change: impl FnOnce(&mut Limits)) -> Result<(), LimitError> {
        let mut state = self.hub.state();
        if let Some(name) = peer.filter(|name| state.membership.by_name(name).is_none()) {
            let known: Vec<&str> = state.membership.others().map(|member| member.name.as_str()).collect();
            return Err(LimitError::NoSuchPeer { name: name.to_string(), known: known.join(", ") });
        }
        change(&mut state.limits);
        self.hub.limits_changed.send_modify(|version| *version += 1);
        Ok(())
    }

    fn missing(&self, targets: &[(Lane, Seq)], peer: Option<&str>) -> Result<Vec<String>, WaitError> {
        let state = self.hub.state();
        let named = |member: &&Member| peer.is_none_or(|name| member.name == name);
        if let Some(name) = peer.filter(|name| state.membership.by_name(name).is_none()) {
            let known: Vec<&str> = state.membership.others().map(|member| member.name.as_str()).collect();
            return Err(WaitError::NoSuchPeer { name: name.to_string(), known: known.join(", ") });
        }
        let mut missing = Vec::new();
        for member in state.membership.others().filter(named) {
            for (lane, target) in targets.iter().filter(|(_, target)| *target > Seq::ZERO) {
                let acknowledged = state.watermarks.acknowledged(member.site, *lane).map(|point| point.seq);
                if acknowledged.is_none_or(|acknowledged| acknowledged < *target) {
                    let has = acknowledged.unwrap_or(Seq::ZERO);
                    missing.push(format!("{} has {has} of {target} in lane {lane}", member.name));
                }
            }
        }
        Ok(missing)
    }
}

impl<S: Store> Drop for Replicator<S> {
    fn drop(&mut self) {
        self.hub.stop.send_replace(true);
    }
}

/// Reads the store. Blocks.
fn open<S: Store>(
    store: Arc<S>,
    identity: SiteIdentity,
    config: Config,
    salts: [SealingSalt; Channel::ALL.len()],
    progress: watch::Sender<u64>,
) -> Result<Hub<S>, StartError> {
    let profile = identity.profile();
    if (profile.site, profile.volume) != (store.site(), store.volume_id()) {
        return Err(StartError::OtherStore { identity: profile.site, store: store.site() });
    }
    let address = config.advertise.clone().unwrap_or_else(|| profile.advertised_address.clone());
    let own = Member { site: profile.site, name: profile.site_name.clone(), address };
    let invitations = match store.store_path() {
        Some(path) => Invitations::load(&path)?,
        None => Invitations::default(),
    };
    let local = Local { volume: profile.volume, site: profile.site, credentials: Credentials::of(&identity), identity };
    let listener = progress.clone();
    store.on_progress(Box::new(move || listener.send_modify(|version| *version += 1)));
    Ok(Hub::new(store, local, own, config, salts, invitations, progress)?)
}

/// Keeps a shipper for each channel to every member.
async fn ship_to_all<S: Store>(hub: Arc<Hub<S>>) {
    let mut members = hub.members_changed.subscribe();
    let mut stop = hub.stop.subscribe();
    let mut shippers = JoinSet::new();
    let mut shipped_to = std::collections::BTreeSet::new();
    loop {
        members.mark_unchanged();
        let sites: Vec<SiteId> = hub.state().membership.others().map(|member| member.site).collect();
        for site in sites {
            if shipped_to.insert(site) {
                for channel in Channel::ALL {
                    shippers.spawn(ship::run(hub.clone(), site, channel));
                }
            }
        }
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            Some(ended) = shippers.join_next() => {
                if let Err(error) = ended {
                    tracing::error!("a shipper died: {error}");
                }
            }
            Ok(()) = members.changed() => {}
        }
    }
    while shippers.join_next().await.is_some() {}
}

async fn serve<S: Store>(hub: Arc<Hub<S>>, listener: TcpListener) {
    let mut stop = hub.stop.subscribe();
    let stopped = async move {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    if let Err(error) = server::serve(hub, listener, stopped).await {
        tracing::error!("the port for other sites is closed: {error}");
    }
}
