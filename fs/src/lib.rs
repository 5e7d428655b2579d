//! A complete journalled file system for one site: namespace, content, journal, recovery, replay.
//!
//! Threads and locks; no network, no runtime. From the bottom up:
//!
//! | module | concept |
//! |---|---|
//! | [`journal`] | batches in preallocated files, group commit, recovery of their intact end |
//! | [`content`] | the bytes of regular files, as plain sparse files |
//! | [`store`] | the tables: rows in front of redb, and redb |
//! | [`tree`] | inodes, entries, names; the one way in which a record changes them |
//! | [`txn`] | one atomic change, being made |
//! | [`ops`] | what programs call |
//! | [`policy`] | what a directory asks of the changes below it |
//! | [`sync`] | waiting for other sites where the policy says so |
//! | [`replay`] | what peers' records do here |
//! | [`ship`] | this site's own records, for peers |
//! | [`incarnation`] | new incarnations after a lost tail, and what is known of the others' |
//! | [`level`] | a peer's state, taken in where its records are gone |
//! | [`snapshot`] | the whole state, for a site that joins |
//! | [`volume`] | the open store that holds all this together |
//! | [`fuse`] | the translation between the kernel and the volume |

pub mod active;
pub mod content;
pub mod effects;
pub mod error;
pub mod fold;
pub mod fuse;
pub mod incarnation;
pub mod journal;
pub mod level;
pub mod meta;
pub mod ops;
pub mod overwrite;
pub mod peers;
pub mod pins;
pub mod policy;
pub mod recovery;
pub mod removals;
pub mod replay;
pub mod room;
pub mod ship;
pub mod snapshot;
pub mod store;
pub mod sync;
pub mod tree;
pub mod txn;
pub mod types;
pub mod unseen;
pub mod visible;
pub mod volume;
