//! Writing so that a loss is noticed (promise 2: acknowledged is kept).
//!
//! - [`model`] is the tree as it must be, in memory; it decides the next operation from the seed, and takes it over.
//! - [`operation`] is one operation: one system call that changes the tree, so that it is either acknowledged or in flight.
//! - [`writer`] is a process that does them.
//! - [`log`] is what the writer notes outside the mount: each operation before it is made, and after it was acknowledged.
//!
//! The operations follow from the seed alone. So the log holds only numbers, and who reads it makes the model anew, up to the
//! last acknowledged operation; the one in flight at the crash may have happened or not, nothing else may.

pub mod log;
pub mod model;
pub mod operation;
pub mod writer;
