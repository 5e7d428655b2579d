//! Levelling: one site takes another's state where records can't bring it level.
//!
//! ```text
//!   the shipper finds: the peer knows more of this site than this site ──▶ ask(lost tail) ─┐
//!   the peer says: this site lacks what its journal can't give ──────────▶ ask ────────────┴▶ one at a time: take
//!
//!   take:  turns of the peer's streams ─▶ state, and content of what is wanted ─▶ frontiers rise ─▶ a new incarnation, if records were lost
//!   give:  histories, state, content of what is asked for
//! ```
//!
//! A lost tail: before anything else an incarnation is opened in which nobody knows any position, unless one was in this run. So this site's programs go
//! on writing meanwhile. When the state is in, another is opened that says what was recovered (see [`proto::history`]); the other sites are
//! told by new handshakes. A crash between the two leaves a history that does not have the tail, and the next handshake finds it again.
//!
//! An attempt that fails is not repeated from here: the streams dial again, and find the same.
//!
//! | module | concept |
//! |---|---|
//! | [`told`] | what a peer's welcome says of this site's lanes |
//! | [`take`] | this site takes a peer's state |
//! | [`give`] | a peer takes this site's |

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proto::ids::{Incarnation, SiteId};
use tokio::sync::Notify;

use crate::hub::Hub;
use crate::store::Store;

pub mod give;
pub mod take;
pub mod told;

use told::Told;

/// How long the other side may take for one frame.
pub const FRAME_LIMIT: Duration = Duration::from_secs(60);
/// The most files wanted in one frame.
pub const MAX_WANTED: usize = 4_096;

/// Peers to level from, and how far that has come.
#[derive(Default)]
pub struct Requests {
    wanted: Mutex<BTreeMap<SiteId, Option<Arc<Told>>>>,
    asked: Notify,
    /// The incarnation that was opened in this run, if one was.
    opened: Mutex<Option<Incarnation>>,
    progress: Mutex<Option<Progress>>,
}

/// How far levelling has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// From whom.
    pub from: SiteId,
    /// Since when, in ms since the Unix epoch.
    pub since_ms: u64,
    /// Chunks of the state that are in.
    pub chunks: u64,
    /// Files whose content is in.
    pub files: u64,
    /// Bytes that came.
    pub bytes: u64,
}

impl Requests {
    /// Asks to level from a peer; with what it told if it has what this site lost. Once for however many ask.
    pub fn ask(&self, from: SiteId, lost_tail: Option<Arc<Told>>) {
        let mut wanted = self.wanted.lock();
        let known = wanted.entry(from).or_default();
        *known = lost_tail.or(known.take());
        self.asked.notify_one();
    }

    /// How far it has come, while this site levels.
    pub fn progress(&self) -> Option<Progress> {
        self.progress.lock().clone()
    }

    fn set_progress(&self, progress: Option<Progress>) {
        *self.progress.lock() = progress;
    }

    fn advance(&self, change: impl FnOnce(&mut Progress)) {
        if let Some(progress) = &mut *self.progress.lock() {
            change(progress);
        }
    }

    fn next(&self) -> Option<(SiteId, Option<Arc<Told>>)> {
        self.wanted.lock().pop_first()
    }

    /// Whether all that this site makes from now on has positions that nobody knows.
    fn is_fresh(&self, current: Incarnation, above: Incarnation) -> bool {
        *self.opened.lock() == Some(current) && above <= current
    }

    fn set_opened(&self, incarnation: Incarnation) {
        *self.opened.lock() = Some(incarnation);
    }
}

/// Opens an incarnation higher than `above`, unless this site has one of its own in this run. Blocks.
pub fn open_fresh<S: Store>(hub: &Hub<S>, above: Incarnation) -> Result<(), fs::error::FsError> {
    let current = hub.store.incarnation();
    if hub.level.is_fresh(current, above) {
        return Ok(());
    }
    let opened = hub.store.begin_incarnation(current.max(above), &Default::default())?;
    hub.level.set_opened(opened);
    hub.refresh_frontiers()
}

/// Levels whenever it is asked to, one peer at a time.
pub async fn run<S: Store>(hub: Arc<Hub<S>>) {
    let mut stop = hub.stop.subscribe();
    loop {
        let Some((from, lost_tail)) = hub.level.next() else {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = hub.level.asked.notified() => continue,
            }
        };
        let name = hub.name_of(from);
        let taken = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            taken = take::take(&hub, from, lost_tail) => taken,
        };
        hub.level.set_progress(None);
        match taken {
            Ok(()) => tracing::info!(peer = name, "this site is level with the peer's state"),
            Err(error) => tracing::warn!(peer = name, "could not take the peer's state: {error}"),
        }
        // Whatever waits for it: the peer's shipper finds this site level when it dials, this site's finds what it had lost.
        hub.peer(from, |progress| progress.wake());
    }
}
