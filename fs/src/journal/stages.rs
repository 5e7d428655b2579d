//! The order of the stages of a batch and of a record, as far as the journal knows them.
//!
//! ```text
//! batches            appended ≥ durable ≥ checkpoint ≥ truncated
//! records of a lane  appended ≥ durable ≥ watermark  ≥ truncated
//! ```
//!
//! Checked in debug builds where a stage is reached. The watermark comes from outside and may name more than there
//! is (a site without peers sets it to the highest number), so it is only compared with what is truncated.

use proto::ids::{Lane, Seq};

use super::lsn::{Heads, Lsn};

/// What was appended becomes durable, and nothing else.
pub fn check_durable(appended: Lsn, durable: Lsn, before: Lsn) {
    debug_assert!(appended >= durable, "batch {durable} became durable, but the last one appended is {appended}");
    debug_assert!(durable >= before, "batch {before} was durable, now only {durable} is");
}

/// Only durable batches are folded in for good: otherwise a power loss would keep a change and lose its record.
pub fn check_checkpoint(durable: Lsn, checkpoint: Lsn) {
    debug_assert!(durable >= checkpoint, "batch {checkpoint} was folded in, but only {durable} is durable");
}

/// Only what is folded in and acknowledged is truncated.
pub fn check_truncated(checkpoint: Lsn, watermarks: &[Seq], last_lsn: Lsn, end: &Heads) {
    debug_assert!(checkpoint >= last_lsn, "batch {last_lsn} is truncated, but only {checkpoint} is folded in");
    for lane in Lane::ALL {
        let (watermark, seq) = (watermarks[lane as usize], end.get(lane).seq);
        debug_assert!(watermark >= seq, "record {seq} of lane {lane} is truncated above the watermark {watermark}");
    }
}
