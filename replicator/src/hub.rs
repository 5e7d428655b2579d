//! What the tasks of one site's replicator share: who the members are, what they have, what is applied here.
//!
//! The state stands behind one lock that is held for moments only, never across an await or a call of the store. Whoever changes
//! it says so on a watch channel; tasks wait for those. A task that waits for several channels reads the state afterwards,
//! so it never acts on an older state than the one it was woken for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fs::error::FsError;
use fs::journal::Lsn;
use fs::peers::Member;
use fs::ship::LaneHead;
use parking_lot::{Mutex, MutexGuard};
use proto::history::Histories;
use proto::ids::{Lane, LanePoint, Seq, SiteId, VolumeId};
use proto::seal::SealingSalt;
use tokio::sync::{OwnedMutexGuard, watch};

use crate::channel::Channel;
use crate::clock;
use crate::config::Config;
use crate::frontiers::{Frontiers, Head};
use crate::identity::certificate;
use crate::identity::invitations::Invitations;
use crate::identity::site_identity::SiteIdentity;
use crate::level;
use crate::limits::Limits;
use crate::limits::pacer::Pacer;
use crate::membership::{Membership, MembershipError};
use crate::progress::{OriginProgress, PeerProgress};
use crate::segments::Segments;
use crate::stable::TheirStable;
use crate::store::Store;
use crate::transport::Credentials;
use crate::watermark::{StablePoint, Watermarks};

/// How many lanes there are.
pub const LANES: usize = Lane::ALL.len();

/// A call that works on no more is short.
const SHORT_BYTES: u64 = 64 << 10;

/// What this site is made of.
pub struct Local {
    /// The volume.
    pub volume: VolumeId,
    /// This site.
    pub site: SiteId,
    /// What it proves itself with.
    pub credentials: Credentials,
    /// Keys and certificates.
    pub identity: SiteIdentity,
}

/// See the module.
pub struct Hub<S> {
    pub store: Arc<S>,
    pub local: Local,
    pub config: Config,
    pub segments: Segments<S>,
    /// Rises when something is appended to the sync lane, or more is durable.
    pub progress: watch::Sender<u64>,
    /// Own lanes: what is appended and durable.
    pub heads: watch::Sender<[LaneHead; LANES]>,
    /// The histories of the own lanes. Whoever changes them in the store shows them here.
    pub histories: watch::Sender<Arc<Histories>>,
    /// Peers to level from.
    pub level: level::Requests,
    /// Held while what a peer had becomes part of this site's state and of its histories: nobody is given the one without the other.
    pub levelled: tokio::sync::RwLock<()>,
    /// The version of the members.
    pub members_changed: watch::Sender<u64>,
    /// Rises when more of another site's lane is applied here.
    pub applied: watch::Sender<u64>,
    /// Rises when a peer has answered, or could not be reached.
    pub met: watch::Sender<u64>,
    /// Rises when a peer has acknowledged more.
    pub acked: watch::Sender<u64>,
    /// Rises when an own stable point has moved.
    pub stable: watch::Sender<u64>,
    /// Rises when a limit or a pause was changed.
    pub limits_changed: watch::Sender<u64>,
    /// True once the replicator shuts down.
    pub stop: watch::Sender<bool>,
    state: Mutex<State>,
    /// Held while members are stored, and while a site id is given out.
    pub learning: tokio::sync::Mutex<()>,
    /// Which tokens are outstanding.
    pub invitations: tokio::sync::Mutex<Invitations>,
}

/// Where a call of the store runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// On the task's thread: shorter than the way to any other.
    Here,
    /// On the task's thread, which the runtime replaces meanwhile.
    Replaced,
    /// On a thread for blocking calls.
    Pool,
}

impl Place {
    /// Of a call that works on so many bytes. The sync lane's writers wait for each hop between threads.
    pub fn of(channel: Channel, bytes: u64) -> Self {
        match channel {
            Channel::Async => Place::Pool,
            Channel::Sync if bytes <= SHORT_BYTES => Place::Here,
            Channel::Sync => Place::Replaced,
        }
    }

    /// Of a call that waits for the disk.
    pub fn waiting(channel: Channel) -> Self {
        if channel == Channel::Sync { Place::Replaced } else { Place::Pool }
    }
}

/// What the lock protects.
pub struct State {
    pub membership: Membership,
    pub watermarks: Watermarks,
    pub frontiers: Frontiers,
    /// The last watermark told to the store.
    pub watermark: [Seq; LANES],
    /// The newest stable point of each own lane, as told to peers.
    pub own_stable: [Option<StablePoint>; LANES],
    pub their_stable: TheirStable,
    pub peers: BTreeMap<SiteId, PeerProgress>,
    pub origins: BTreeMap<SiteId, OriginProgress>,
    pub limits: Limits,
    pub pacers: BTreeMap<SiteId, Pacer>,
    streams: BTreeMap<(SiteId, Channel), StreamSlot>,
}

/// At most one stream of a channel from each origin replays. The newest wins; it starts when the one before has ended.
#[derive(Default)]
struct StreamSlot {
    newest: watch::Sender<u64>,
    /// Up to where replayed records may not be durable yet.
    turn: Arc<tokio::sync::Mutex<Option<Lsn>>>,
}

/// The turn of one stream from an origin.
pub struct Turn {
    /// Up to where replayed records may not be durable yet.
    pub undurable: OwnedMutexGuard<Option<Lsn>>,
    /// Changes when a newer stream wants its turn.
    pub replaced: watch::Receiver<u64>,
}

/// Why members were not taken in.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// They can't be right.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// They could not be stored.
    #[error("could not store the members: {0}")]
    Store(#[from] FsError),
}

impl<S: Store> Hub<S> {
    /// Reads all that the store knows. Blocks.
    pub fn new(
        store: Arc<S>,
        local: Local,
        own: Member,
        config: Config,
        salts: [SealingSalt; Channel::ALL.len()],
        invitations: Invitations,
        progress: watch::Sender<u64>,
    ) -> Result<Self, FsError> {
        let membership = Membership::new(own, store.members()?);
        let mut watermarks = Watermarks::default();
        let mut peers = BTreeMap::new();
        for member in membership.others() {
            let mut acknowledged = [None; LANES];
            for (lane, point) in Lane::ALL.into_iter().zip(&mut acknowledged) {
                *point = store.acknowledged(member.site, lane)?;
            }
            watermarks.add(member.site, acknowledged);
            peers.insert(member.site, PeerProgress::default());
        }
        let mut frontiers = Frontiers::default();
        for frontier in store.frontiers()? {
            frontiers.advance(Head { site: frontier.origin, lane: frontier.lane, point: frontier.point });
        }
        let heads = Lane::ALL.map(|lane| store.lane_head(lane));
        let histories = store.own_histories();
        let state = State {
            membership,
            watermarks,
            frontiers,
            watermark: [Seq::ZERO; LANES],
            own_stable: Default::default(),
            their_stable: TheirStable::default(),
            peers,
            origins: BTreeMap::new(),
            limits: Limits::new(&config.limits, &config.schedules),
            pacers: BTreeMap::new(),
            streams: BTreeMap::new(),
        };
        let segments = Segments::new(store.clone(), local.identity.volume_key(), salts);
        Ok(Self {
            store,
            local,
            config,
            segments,
            progress,
            heads: watch::Sender::new(heads),
            histories: watch::Sender::new(histories),
            level: level::Requests::default(),
            levelled: tokio::sync::RwLock::new(()),
            members_changed: watch::Sender::new(state.membership.version()),
            applied: watch::Sender::new(0),
            met: watch::Sender::new(0),
            acked: watch::Sender::new(0),
            stable: watch::Sender::new(0),
            limits_changed: watch::Sender::new(0),
            stop: watch::Sender::new(false),
            state: Mutex::new(state),
            learning: tokio::sync::Mutex::new(()),
            invitations: tokio::sync::Mutex::new(invitations),
        })
    }

    /// The state. Never hold it across an await or a call of the store.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Runs a call of the store for a stream.
    pub async fn calling<T: Send + 'static>(
        self: &Arc<Self>,
        place: Place,
        call: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        match place {
            Place::Here => call(self),
            Place::Replaced => tokio::task::block_in_place(|| call(self)),
            Place::Pool => self.blocking(call).await,
        }
    }

    /// Runs a call of the store where it may block.
    pub async fn blocking<T: Send + 'static>(self: &Arc<Self>, call: impl FnOnce(&Self) -> T + Send + 'static) -> T {
        let hub = self.clone();
        match tokio::task::spawn_blocking(move || call(&hub)).await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down: this task goes with it.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Reads the own lanes' heads and shows them. Blocks.
    pub fn refresh_heads(&self) -> [LaneHead; LANES] {
        let heads = Lane::ALL.map(|lane| self.store.lane_head(lane));
        self.heads.send_if_modified(|shown| {
            // Two threads may read and show in different orders: what is shown never falls.
            let before = *shown;
            for (shown, read) in shown.iter_mut().zip(&heads) {
                shown.appended = read.appended.max(shown.appended);
                shown.durable = read.durable.max(shown.durable);
                shown.lane_bytes = read.lane_bytes.max(shown.lane_bytes);
            }
            *shown != before
        });
        heads
    }

    /// Takes in what a site tells of the members; what is new is stored durably before it counts.
    pub async fn learn(self: &Arc<Self>, told: &[Member], from: Option<SiteId>) -> Result<(), LearnError> {
        let news = self.state().membership.news(told, from)?;
        if news.is_empty() {
            return Ok(());
        }
        let learning = self.learning.lock().await;
        self.learn_locked(&learning, told, from).await
    }

    /// As [`learn`](Self::learn), by who holds the lock.
    pub async fn learn_locked(
        self: &Arc<Self>,
        _learning: &tokio::sync::MutexGuard<'_, ()>,
        told: &[Member],
        from: Option<SiteId>,
    ) -> Result<(), LearnError> {
        let news = self.state().membership.news(told, from)?;
        let stored = news.clone();
        self.blocking(move |hub| stored.iter().try_for_each(|member| hub.store.put_member(member))).await?;
        let mut state = self.state();
        for member in &news {
            // Before anyone can see the new member: from here on it holds the watermarks where they are.
            state.watermarks.add(member.site, [None; LANES]);
            state.peers.entry(member.site).or_default().wake();
            tracing::info!(site = %member.site, name = member.name, address = member.address, "learnt of a member");
        }
        state.membership.adopt(&news);
        self.members_changed.send_replace(state.membership.version());
        Ok(())
    }

    /// A peer has applied and made durable all of an own lane up to `point`, when its own lanes stood at `heads`.
    pub fn acknowledge(&self, peer: SiteId, lane: Lane, point: LanePoint, heads: &[Head]) {
        // First of all: writers wait for it.
        self.store.peer_acknowledged(peer, lane, point);
        let mut state = self.state();
        let State { watermarks, frontiers, peers, .. } = &mut *state;
        watermarks.acknowledge(peer, lane, point, heads, frontiers);
        if let Some(progress) = peers.get_mut(&peer) {
            progress.stopped[lane as usize] = None;
        }
        self.acked.send_modify(|version| *version += 1);
    }

    /// More of another site's lane is applied here.
    pub fn note_applied(&self, head: Head) {
        let mut state = self.state();
        let State { watermarks, frontiers, .. } = &mut *state;
        if frontiers.advance(head) {
            watermarks.applied(frontiers);
            self.applied.send_modify(|version| *version += 1);
        }
    }

    /// The own lanes' histories.
    pub fn own_histories(&self) -> Arc<Histories> {
        self.histories.borrow().clone()
    }

    /// Reads what has become of frontiers and histories beside replay, and shows it. Blocks.
    pub fn refresh_frontiers(&self) -> Result<(), FsError> {
        for frontier in self.store.frontiers()?.into_iter().filter(|frontier| frontier.origin != self.local.site) {
            self.note_applied(Head { site: frontier.origin, lane: frontier.lane, point: frontier.point });
        }
        self.histories.send_if_modified(|shown| {
            let histories = self.store.own_histories();
            let changed = *shown != histories;
            *shown = histories;
            changed
        });
        Ok(())
    }

    /// Waits for the turn of a new stream of a channel from `origin`; the one before is told to end. `None` if it doesn't in time.
    pub async fn take_turn(&self, origin: SiteId, channel: Channel, limit: Duration) -> Option<Turn> {
        let (turn, replaced) = {
            let mut state = self.state();
            let slot = state.streams.entry((origin, channel)).or_default();
            slot.newest.send_modify(|number| *number += 1);
            (slot.turn.clone(), slot.newest.subscribe())
        };
        let undurable = tokio::time::timeout(limit, turn.lock_owned()).await.ok()?;
        // A still newer one came meanwhile.
        if replaced.has_changed().unwrap_or(true) { None } else { Some(Turn { undurable, replaced }) }
    }

    /// From when on each lane may be sent to a peer, on the steady clock.
    pub fn open_at_ms(&self, peer: SiteId) -> [u64; LANES] {
        let mut state = self.state();
        if !state.limits.in_use() {
            return [0; LANES];
        }
        let (now_ms, local) = (clock::steady_ms(), clock::local_time());
        let State { membership, limits, pacers, .. } = &mut *state;
        let name = membership.get(peer).map(|member| member.name.as_str()).unwrap_or_default();
        let pacer = pacers.entry(peer).or_default();
        pacer.set(now_ms, limits.in_force(name, local));
        pacer.open_at_ms(now_ms)
    }

    /// Bytes of a lane were sent to a peer.
    pub fn charge(&self, peer: SiteId, lane: Lane, bytes: u64) {
        self.state().pacers.entry(peer).or_default().charge(clock::steady_ms(), lane, bytes);
    }

    /// Changes what is shown of the way to a peer.
    pub fn peer(&self, peer: SiteId, change: impl FnOnce(&mut PeerProgress)) {
        change(self.state().peers.entry(peer).or_default());
    }

    /// Changes what is shown of the way from an origin.
    pub fn origin(&self, origin: SiteId, change: impl FnOnce(&mut OriginProgress)) {
        change(self.state().origins.entry(origin).or_default());
    }

    /// A site's name for messages.
    pub fn name_of(&self, site: SiteId) -> String {
        let state = self.state();
        state.membership.get(site).map_or_else(|| format!("site {site}"), |member| member.name.clone())
    }

    /// Says why the clock of a peer can't be right, if it is too far ahead.
    pub fn check_clock(&self, reading: proto::hlc::Hlc) -> Result<(), proto::hlc::Drift> {
        let now_ms = clock::wall_ms();
        proto::hlc::Clock::new(Default::default(), self.config.max_clock_drift).observe(reading, now_ms)
    }

    /// The name that the certificate of a site has.
    pub fn server_name(&self, site: SiteId) -> String {
        certificate::server_name(self.local.volume, site)
    }
}
