//! The truncation rule: when a file's batches may be forgotten and the file used again.

use proto::ids::{Lane, Seq};

use super::lsn::{Heads, Lsn};

/// Why a file must stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// Its batches are not all folded in durably, or the objects that they wrote are not all flushed: recovery after a
    /// crash would miss them.
    Checkpoint,
    /// The file after it is not known to be durable: a power loss could take that one's header, and with this one gone nothing
    /// would say where the journal ended.
    Next,
    /// A peer has not acknowledged its records of this lane: it would have to catch up instead of reading on.
    Watermark(Lane),
}

/// What holds a file whose last batch is `last_lsn` and behind which the own lanes stand at `end`.
///
/// Files are recycled oldest first, so what is left is always one run of batches: whoever asks for
/// anything older can be told so by comparing with the oldest file's header, and a gap can only mean damage. The file that is
/// being written is never recycled: it says where the journal ends.
pub fn hold(
    last_lsn: Lsn,
    end: &Heads,
    durable: Lsn,
    checkpoint: Lsn,
    watermarks: &[Seq; Lane::ALL.len()],
) -> Option<Hold> {
    if checkpoint < last_lsn {
        return Some(Hold::Checkpoint);
    }
    // A file is begun with a batch in it, and flushed as a whole.
    if durable <= last_lsn {
        return Some(Hold::Next);
    }
    Lane::ALL.into_iter().find(|&lane| watermarks[lane as usize] < end.get(lane).seq).map(Hold::Watermark)
}
