//! What a directory asks of the changes below it: whether writers wait for other sites, and how its records are shipped.
//!
//! A policy is set by extended attributes on directories, one attribute for each [`Key`], and holds for everything below: for each key the
//! nearest directory that sets it wins.
//!
//! | module | concept |
//! |---|---|
//! | [`attribute`] | names and values as text |
//! | [`resolve`] | inheritance, pure |
//! | [`cache`] | which directories set something, and what is in force where, in memory |
//! | [`places`] | the policies of a file or directory, from the tree |

pub mod attribute;
pub mod cache;
mod places;
pub mod resolve;

use std::time::Duration;

use proto::ids::{FileId, Lane};

/// Whether writers wait for the other sites.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Mode {
    /// They don't.
    #[default]
    Async,
    /// They do.
    Sync,
}

/// How many peers a writer in a sync directory waits for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Acks {
    /// Every peer.
    #[default]
    All,
    /// As many as make a majority of the sites together with this one.
    Majority,
    /// So many peers.
    Peers(u16),
}

/// What a sync directory does while too few peers answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum OnLoss {
    /// Goes on without them, says so, and is in sync again by itself.
    #[default]
    Degrade,
    /// Its callers get EIO after the timeout.
    Fail,
}

/// Which lane a directory's asynchronous records take.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Priority {
    /// Before the others.
    High,
    /// As all.
    #[default]
    Normal,
    /// After the others.
    Bulk,
}

/// Whether records are compressed on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Compress {
    /// Where a sample shrinks.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Which site may write.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum WriterSite {
    /// Any.
    #[default]
    Any,
    /// The one of this name; elsewhere writes get EROFS.
    Site(String),
}

/// A whole policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// See [`Mode`].
    pub mode: Mode,
    /// See [`Acks`].
    pub acks: Acks,
    /// See [`OnLoss`].
    pub on_loss: OnLoss,
    /// How long a caller waits for peers at most.
    pub timeout: Duration,
    /// See [`Priority`].
    pub priority: Priority,
    /// See [`Compress`].
    pub compress: Compress,
    /// See [`WriterSite`].
    pub writer: WriterSite,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            acks: Acks::default(),
            on_loss: OnLoss::default(),
            timeout: Duration::from_secs(10),
            priority: Priority::default(),
            compress: Compress::default(),
            writer: WriterSite::default(),
        }
    }
}

impl Policy {
    /// The lane of its records.
    pub fn lane(&self) -> Lane {
        match (self.mode, self.priority) {
            (Mode::Sync, _) => Lane::Sync,
            (Mode::Async, Priority::High) => Lane::High,
            (Mode::Async, Priority::Normal) => Lane::Normal,
            (Mode::Async, Priority::Bulk) => Lane::Bulk,
        }
    }
}

/// One attribute of a policy; without `user.syncline.` its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Key {
    /// `mode`
    Mode,
    /// `acks`
    Acks,
    /// `on-loss`
    OnLoss,
    /// `timeout`
    Timeout,
    /// `priority`
    Priority,
    /// `compress`
    Compress,
    /// `writer`
    Writer,
}

impl Key {
    /// Every key.
    pub const ALL: [Key; 7] =
        [Key::Mode, Key::Acks, Key::OnLoss, Key::Timeout, Key::Priority, Key::Compress, Key::Writer];
}

/// The policy in force at a place, and where it is from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Effective {
    /// The values.
    pub policy: Policy,
    /// For each of [`Key::ALL`] the directory that sets it; `None` where the default holds.
    pub sources: [Option<FileId>; Key::ALL.len()],
}

impl Effective {
    /// The directory that made this place sync. Its state of sync holds for all below that inherit from it.
    pub fn sync_root(&self) -> Option<FileId> {
        self.sources[0].filter(|_| self.policy.mode == Mode::Sync)
    }
}
