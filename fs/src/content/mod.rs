//! The bytes of regular files: plain, sparse files below `objects/` of the store, one for each [`proto::ids::FileId`].
//!
//! Nothing here knows names, records or the journal. From the bottom up:
//!
//! - [`range_set`]: sets of byte ranges.
//! - [`objects`]: the directory of objects: opening, removing, listing.
//! - [`dirty`]: which objects a flush has to reach, and the flush.
//! - [`object`]: one object's content, with exact input and output.
//! - [`table`]: the objects in use, one [`object::Object`] for each file, and a bounded cache of idle ones.
//! - [`holes`]: walking and copying data without the holes between.
//! - [`redo`]: what recovery has to do to an object after a crash; [`redo_run`] does it.

pub mod dirty;
pub mod holes;
pub mod object;
pub mod objects;
pub mod range_set;
pub mod redo;
pub mod redo_run;
pub mod table;
