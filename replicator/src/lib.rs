//! Carries records between sites.
//!
//! Each pair of sites has two streams for each direction, see [`channel`]: a site dials every other and ships its own records; the other
//! answers. Records keep their origin, so nothing echoes. `fs` does not know this crate: it journals, and replays what it is given.
//!
//! | module | concept |
//! |---|---|
//! | [`replicator`] | starts and ends everything; what the daemon calls |
//! | [`engine`] | what one peer is sent and when: pure |
//! | [`limits`] | how fast a peer gets a lane: pure |
//! | [`channel`] | which lanes go over which connection |
//! | [`watermark`], [`stable`] | how far journals need not be kept, and what nobody can still refer to: pure |
//! | [`membership`] | who belongs to the volume: pure |
//! | [`dial`], [`ship`], [`segments`] | connects, reads, seals, sends |
//! | [`receive`], [`replay`] | checks, opens, applies, makes durable, acknowledges |
//! | [`level`] | one site takes another's state, where records can't bring it level |
//! | [`keep`] | keeps the store level with what the peers have said |
//! | [`join`], [`identity`] | how a site comes in, and what it proves itself with |
//! | [`hub`] | what the tasks share |
//! | [`transport`] | the only user of tonic |
//! | [`store`] | what is needed of `fs` |

mod channel;
mod clock;
pub mod config;
mod dial;
pub mod engine;
mod frames;
pub mod frontiers;
mod hello;
mod hub;
pub mod identity;
pub mod join;
mod keep;
mod level;
pub mod limits;
pub mod membership;
mod progress;
mod receive;
mod replay;
pub mod replicator;
mod segments;
mod ship;
pub mod stable;
pub mod status;
pub mod store;
mod transport;
pub mod watermark;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod join_tests;
#[cfg(test)]
mod level_tests;
#[cfg(test)]
mod protocol_tests;
#[cfg(test)]
mod testing;

pub use config::Config;
pub use join::enter::{JoinError, JoinProgress, JoinRequest, join};
pub use limits::{LimitError, LimitStatus};
pub use replicator::{Replicator, StartError, WaitError};
pub use status::ReplicationStatus;
