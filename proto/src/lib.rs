//! What two sites must agree on: ids, hybrid logical clock, records, the segment format with compression and
//! sealing, the gRPC services.
//!
//! Pure: no file, no socket, no clock and no randomness but by argument.
//!
//! | module | concept |
//! |---|---|
//! | [`ids`] | site, file, entry, lane, position |
//! | [`history`] | incarnations of a lane, and how to go on after a lost tail |
//! | [`hlc`] | hybrid logical clock and stamp |
//! | [`name`] | the name of a directory entry |
//! | [`record`] | one change to the tree |
//! | [`segment`] | a run of records as it travels |
//! | [`seal`] | sealing and opening of segments; why no nonce repeats |
//! | [`codec`] | the primitives of the binary formats |
//! | `grpc` | the services between sites (feature `grpc`) |

pub mod codec;
#[cfg(feature = "grpc")]
pub mod grpc;
pub mod history;
pub mod hlc;
pub mod ids;
pub mod name;
pub mod record;
pub mod seal;
pub mod segment;
