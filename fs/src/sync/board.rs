//! The ledger under its lock, the threads that wait, and the thread that watches the time.
//!
//! Whoever ends waits tells their threads when the lock is released. The lock is held for a few look-ups; nothing else is locked meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};
use proto::ids::{Lane, LanePoint, SiteId};

use super::ledger::{Ledger, MemberPeer, Outbox, SyncRoot, Wait};
use super::parker::Parker;
use super::points::Points;
use super::root::News;
use super::state::Phase;
use super::terms::Need;
use crate::error::FsError;

/// See the module.
#[derive(Default)]
pub struct Board {
    state: Mutex<State>,
    /// The time to look at next has changed.
    retimed: Condvar,
    members: AtomicUsize,
    roots: AtomicUsize,
    /// Changes of policies that are taken over.
    followed: AtomicU64,
    looking: Mutex<()>,
}

#[derive(Default)]
struct State {
    ledger: Ledger,
    watched: bool,
    /// Why nobody may wait any more.
    ended: Option<String>,
}

impl Board {
    /// The members are these. `made` is all that this site has made.
    pub fn set_members(self: &Arc<Self>, members: Vec<MemberPeer>, made: &Points) {
        self.change(|ledger, now| ledger.set_members(members, made, now));
    }

    /// Policies have changed for the time `changes`: if that is news, the sync directories are those that `look` finds, and all that this site has made.
    pub fn follow_policies(self: &Arc<Self>, changes: u64, look: impl FnOnce() -> (Vec<SyncRoot>, Points)) {
        if self.followed.load(Ordering::Acquire) == changes {
            return;
        }
        // One at a time, so that nobody puts back what was before. Whoever comes second may look in vain.
        let _looking = self.looking.lock();
        let (roots, made) = look();
        self.change(|ledger, now| ledger.set_roots(roots, &made, now));
        self.followed.store(changes, Ordering::Release);
    }

    /// A peer's connection stands, or is gone.
    pub fn connected(self: &Arc<Self>, site: SiteId, connected: bool) {
        self.change(|ledger, now| ledger.connected(site, connected, now));
    }

    /// A peer has acknowledged a lane up to the point.
    pub fn acknowledged(&self, site: SiteId, lane: Lane, point: LanePoint) {
        let mut state = self.state.lock();
        state.ledger.acknowledged(site, lane, point, Instant::now());
        publish(state);
    }

    /// Whether there is anybody to wait for.
    pub fn has_members(&self) -> bool {
        self.members.load(Ordering::Relaxed) > 0
    }

    /// Whether any directory is sync.
    pub fn has_roots(&self) -> bool {
        self.roots.load(Ordering::Relaxed) > 0
    }

    /// From now on all directories of the needs are known; `made` is asked for if they were not.
    pub fn meet(self: &Arc<Self>, needs: &[Need], made: impl FnOnce() -> Points) {
        let known = |ledger: &Ledger| needs.iter().all(|need| ledger.knows(need.root));
        if !known(&self.state.lock().ledger) {
            let made = made();
            self.change(|ledger, now| ledger.add_roots(needs, &made, now));
        }
    }

    /// Refuses an operation that has changed nothing yet, where too many of the peers that it needs are known not to answer.
    ///
    /// # Errors
    /// [`FsError::PeersLack`]
    pub fn check(self: &Arc<Self>, needs: &[Need], made: impl FnOnce() -> Points) -> Result<(), FsError> {
        self.meet(needs, made);
        match self.state.lock().ledger.refusal(needs, Instant::now()) {
            None => Ok(()),
            Some(why) => Err(FsError::PeersLack(why)),
        }
    }

    /// Returns when the needs are satisfied, or can't be in time. What `sleeping` gives is kept while the thread sleeps.
    ///
    /// # Errors
    /// [`FsError::PeersLack`]
    pub fn wait<G>(
        &self,
        points: Points,
        needs: Vec<Need>,
        started: Instant,
        sleeping: impl FnOnce() -> G,
    ) -> Result<(), FsError> {
        let parker = Arc::new(Parker::default());
        let wait = Wait { points, needs, started, parker: parker.clone() };
        let mut state = self.state.lock();
        let begun = state.ledger.begin(wait, Instant::now());
        if let Some(why) = state.ended.clone() {
            state.ledger.end_waits(&why);
        }
        publish(state);
        let _sleeping = begun.map(|_| sleeping());
        let mut until = begun.map(|(_, until)| until);
        loop {
            if let Some(outcome) = parker.sleep(until) {
                return outcome.map_err(FsError::PeersLack);
            }
            if let Some((id, _)) = begun {
                let mut state = self.state.lock();
                until = state.ledger.expired(id, Instant::now());
                publish(state);
            }
        }
    }

    /// Ends the waits of now.
    pub fn release(&self, why: &str) {
        let mut state = self.state.lock();
        state.ledger.end_waits(why);
        publish(state);
    }

    /// Ends the waits of now, and each that begins later.
    pub fn end(&self, why: &str) {
        self.state.lock().ended.get_or_insert_with(|| why.to_owned());
        self.release(why);
        self.retimed.notify_all();
    }

    /// Looks at the ledger as of now.
    pub fn read<R>(&self, look: impl FnOnce(&Ledger, Instant) -> R) -> R {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.ledger.tick(now);
        let read = look(&state.ledger, now);
        publish(state);
        read
    }

    /// Changes what time may have to be watched for.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut Ledger, Instant)) {
        let mut state = self.state.lock();
        let now = Instant::now();
        change(&mut state.ledger, now);
        self.members.store(state.ledger.members().count(), Ordering::Relaxed);
        self.roots.store(state.ledger.roots().count(), Ordering::Relaxed);
        let next = state.ledger.tick(now);
        let watch = next.is_some() && state.ended.is_none() && !state.watched;
        state.watched |= watch;
        publish(state);
        if !watch {
            self.retimed.notify_all();
            return;
        }
        let board = self.clone();
        let watcher = std::thread::Builder::new().name("sync-time".into()).spawn(move || board.watch());
        if let Err(error) = watcher {
            // Waits have their own time limits; only the log and the state are late, until somebody asks.
            tracing::warn!(%error, "no thread watches when lost peers are given up");
            self.state.lock().watched = false;
        }
    }

    /// Gives up who is gone for too long, on time. Ends when nobody is gone.
    fn watch(&self) {
        let mut state = self.state.lock();
        loop {
            let next = state.ledger.tick(Instant::now()).filter(|_| state.ended.is_none());
            let Some(next) = next else {
                state.watched = false;
                return publish(state);
            };
            let outbox = state.ledger.take_outbox();
            if outbox.is_empty() {
                self.retimed.wait_until(&mut state, next);
            } else {
                MutexGuard::unlocked(&mut state, || tell(outbox));
            }
        }
    }
}

/// Releases the lock, then tells what there is to tell.
fn publish(mut state: MutexGuard<'_, State>) {
    let outbox = state.ledger.take_outbox();
    drop(state);
    tell(outbox);
}

fn tell(outbox: Outbox) {
    outbox.outcomes.into_iter().for_each(|(parker, outcome)| parker.tell(outcome));
    outbox.news.into_iter().for_each(log);
}

fn log(news: News) {
    let News { path, peer, phase, lost, records } = news;
    match (phase, lost) {
        (Phase::InSync, _) => tracing::info!("{path}: {peer} is in sync"),
        (Phase::CatchingUp { .. }, _) => tracing::info!(records, "{path}: {peer} answers and is catching up"),
        (Phase::Degraded, Some(lost)) => {
            tracing::warn!(records, "{path}: {peer} is given up until it is back: not connected for {lost:.1?}");
        }
        (Phase::Degraded, None) => {
            tracing::warn!(
                records,
                "{path}: {peer} is given up until it answers: it is connected, but did not acknowledge in time"
            );
        }
    }
}
