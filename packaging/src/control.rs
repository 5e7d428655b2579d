//! How the command line speaks with the daemon: one request and one reply, a line of JSON each, over a Unix socket in
//! the store. Before the reply to a `Wait` there may be lines that say how far it is.
//!
//! The socket has mode 0600 in a directory of mode 0700, and the daemon asks the kernel who calls: only the daemon's own
//! user and root are answered. Lines are limited in length, and both ends in time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub mod client;
mod handlers;
pub mod report;
pub mod server;

use report::{FlowReport, Report, WaitOutcome};

/// The version of what is below. A daemon and a command of different versions say so instead of guessing.
pub const VERSION: u32 = 2;
/// The longest line either way, in bytes. A status with a hundred peers has some tens of thousands.
pub const MAX_LINE_BYTES: u64 = 4 << 20;

/// The longest wait that can be asked for: longer than anybody waits, and short enough to count with.
pub const MAX_WAIT: Duration = Duration::from_secs(366 * 86_400);

const SOCKET: &str = "control.sock";

/// Where a store's daemon listens. May be longer than a socket's address can be: connect through the directory.
pub fn socket_path(store: &Path) -> PathBuf {
    store.join(SOCKET)
}

/// A line to the daemon.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RequestLine {
    /// [`VERSION`] of the sender.
    pub version: u32,
    /// What is asked.
    pub request: Request,
}

/// What a daemon can be asked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Whether it is there.
    Ping,
    /// How it is, and how far the peers are.
    Status,
    /// Make durable what was changed so far, and answer when the peers have applied it. Told at least once a second how far it is.
    Wait {
        /// What is at this path and below it, in bytes, from the volume's root.
        path: Vec<u8>,
        /// This peer only.
        peer: Option<String>,
        /// What was journalled in this lane only.
        lane: Option<String>,
        /// No longer than this.
        timeout_ms: u64,
    },
    /// A token for a new site.
    Invite {
        /// How long it can be used.
        valid_ms: u64,
    },
    /// Change how fast records go to the peers, if `change` says so, and tell how fast they may.
    Flow {
        /// To this peer only.
        peer: Option<String>,
        /// Of this lane only.
        lane: Option<String>,
        /// What to change.
        change: Option<FlowChange>,
    },
    /// Flush, unmount, end.
    Unmount,
}

/// A change to how fast records go to the peers. It holds until the daemon ends, or the next change.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum FlowChange {
    /// No faster than this.
    Limit {
        /// `None`: as fast as can be.
        bytes_per_second: Option<u64>,
    },
    /// Not at all.
    Pause,
    /// Again.
    Resume,
}

/// A line from the daemon.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ReplyLine {
    /// [`VERSION`] of the sender.
    pub version: u32,
    /// The answer.
    pub reply: Reply,
}

/// What a daemon answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reply {
    /// To `Ping`.
    Pong {
        /// The daemon's process.
        pid: u32,
    },
    /// To `Status`.
    Status {
        /// Everything.
        report: Box<Report>,
    },
    /// To `Wait`, before the answer: how far it is.
    Waiting {
        /// As of now.
        outcome: WaitOutcome,
    },
    /// To `Wait`.
    Waited {
        /// Whether they are level.
        outcome: WaitOutcome,
    },
    /// To `Flow`.
    Flow {
        /// As it is now; those that were asked for.
        flows: Vec<FlowReport>,
    },
    /// To `Invite`.
    Invited {
        /// One line without a newline.
        token: String,
    },
    /// To `Unmount`: it is unmounted, and the daemon is about to end.
    Unmounted,
    /// To `Unmount`: programs use the mount; nothing was changed.
    Busy {
        /// Who, one a line.
        users: String,
    },
    /// It did not work.
    Failed {
        /// Why, and what to do.
        message: String,
    },
}
