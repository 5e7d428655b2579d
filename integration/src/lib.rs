//! Several sites under test, as real processes with real mounts.
//!
//! - [`cluster`] starts sites ([`site`]) whose connections go through [`link`]s that can be cut, stalled, delayed and slowed.
//! - [`sync_state`] sets policies and tells how sync directories stand with their peers.
//! - [`tree`] reads a directory tree with all that a replica must have, [`compare`] says in what two differ.
//! - [`real_tree`] makes trees like those that people keep; [`crash`] writes so that a loss is noticed; [`faults`] breaks things.
//! - [`mapper`] drives a program that maps files, which a test can lose.
//! - [`random`] makes random system calls, through mounts and on plain ext4 beside them.
//! - [`tools`] finds test suites of others; [`postgres`] and [`python`] run programs that need more than a call.
//! - [`beside`] does the same in a plain directory and in a mount, and demands the same results.
//! - [`bench`] measures, with plain ext4 beside it.
//!
//! The harness fails by panic (see [`outcome`]); whatever it started is stopped, unmounted and removed when its owner is
//! dropped, and by the [`reaper`] when the whole test process dies.

pub mod bench;
pub mod beside;
pub mod binary;
pub mod cluster;
pub mod compare;
pub mod crash;
pub mod faults;
pub mod link;
pub mod link_source;
pub mod mapper;
pub mod outcome;
pub mod postgres;
pub mod proxy;
pub mod python;
pub mod random;
pub mod real_tree;
pub mod reaper;
pub mod seed;
pub mod site;
pub mod status;
pub mod sync_state;
pub mod tools;
pub mod tree;
pub mod way;
