//! The state of the volume: tables of rows, changed by atomic batches.
//!
//! ```text
//!   put / delete ──▶ batch ──▶ journal file (write)          [`batch`]
//!                      └─────▶ overlay, visible at once       [`overlay`]
//!                                 └──▶ redb, in the background [`db`]
//! ```
//!
//! A row is looked up in the overlay first, then in redb. Only [`db`] knows redb.

pub mod batch;
pub mod db;

pub mod overlay;
pub mod table;
