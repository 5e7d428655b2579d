//! Measures two sites, with plain ext4 beside them in the same run: throughput here is noisy, ratios are less so.
//!
//! - [`disk`] makes a fresh journalled ext4 for each store and for the baseline: the root file system may have no journal.
//! - [`workload`] is the work, the same code for a mount and for the baseline; [`lag`] how late a small file is seen.
//! - [`sync`] measures directories whose writers wait for the other site, beside a [`round_trip`] between two sockets.
//! - [`usage`] is what the daemons take; [`report`] keeps the figures and prints them beside the [`rivals`]' ones.
//! - [`run`] puts it in order.
//!
//! "Identical at B" is when `syncline wait` at A has returned: B has applied everything and holds it durably. The
//! content is then compared, outside the timed part, and the run fails when it differs.

pub mod disk;
pub mod lag;
pub mod report;
pub mod rivals;
pub mod round_trip;
pub mod run;
pub mod sync;
pub mod usage;
pub mod workload;
