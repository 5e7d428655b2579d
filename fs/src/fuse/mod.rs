//! Translates between the kernel and the volume, and does nothing else. The only user of `fuser`.
//!
//! - [`session`]: mounts, ends, and tells the kernel what replay changed.
//! - `requests`: one method per kind of request: arguments in, one call of the volume, answer out.
//! - `adapter`: what they share.
//! - `answer`: results as answers.
//! - `open_file`: what opening and creating take.
//! - `opening`: opens and releases; holds what the kernel may read without us.
//! - `open_mode`: the state machine behind it, pure.
//! - `directory`: listings of open directories.
//! - `attributes`, `data`: what a request's numbers mean, pure.
//! - `convert`: types of the one side as types of the other.
//! - `mapped`: files whose mappings go to the object below.
//! - `invalidate`: the order and form in which the kernel's caches are told.
//! - `mount_point`: what can be known to be wrong before mounting.
//! - `waits`: requests that wait, for the disk or other sites, never take the last thread.
//!
//! **Caches.** The kernel may keep every name, every missing name and all attributes for [`convert::TTL`]. This is right
//! because there are two ways only for them to change: by a request, and then the kernel knows; or without one (replay,
//! writes through a shared mapping, suid bits that a write cleared), and then the volume must report an
//! [`Invalidation`](crate::types::Invalidation).

mod adapter;
mod answer;
mod attributes;
mod convert;
mod data;
mod directory;
mod invalidate;
mod mapped;
mod mount_point;
mod open_file;
mod open_mode;
mod opening;
mod requests;
pub mod session;
mod waits;

pub use mount_point::{MountError, store_of_source};
pub use session::{EndError, MountOptions, MountedSession, SessionInfo, UnmountError, mount};
