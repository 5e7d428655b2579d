//! What recovery has to do to an object after a crash. Pure: edits in, a plan out.
//!
//! After a crash the journal says which edits were made to a file since the checkpoint; the object shows any part of their
//! effects. [`plan`] makes the edits again, oldest first, but for bytes that a newer extent has put there.
//!
//! What the writer keeps to, all under the object's exclusive lock:
//!
//! 1. Effects reach the object in the order of the journal.
//! 2. An edit other than an extent is journalled *before* its effect.
//! 3. An extent starts at or beyond the file's size, and its bytes are in the object *before* it is journalled; they are durable
//!    there before the journal is durable that far. (So then is every earlier effect: the same flush took it along.)
//! 4. When journalling fails, the object is cut back to the file's size before anything else is done to it.
//!
//! # Why the plan is right
//!
//! Take any byte below the final size, and the newest edit that determines it. (A write and an extent determine their range,
//! a punch too; a truncation to `size` determines all from `size` on, as zero; a replacement determines all.)
//!
//! - *A write, punch, truncation or replacement*: the plan makes it after every older edit, whatever the object shows, and no newer
//!   edit determines the byte.
//! - *An extent*: its bytes were in the object when it was journalled (3). Effects before it came before (1), so they
//!   don't disturb it, and the plan leaves its bytes out of older edits. Newer edits don't determine this byte. So the object shows the
//!   right byte; the plan doesn't touch it.
//! - *None*: no effect since the checkpoint touched it, and what was written for an extent whose record is lost lies beyond the
//!   size that the file had then (3), which is the final size. The object shows the checkpoint's byte; the plan doesn't touch it.
//!
//! Bytes beyond the final size are cut off. This holds for every subset of the effects after the last extent, in any order, also
//! for torn ones: the page cache may write back what it likes.
//!
//! Holes come out right too: whether a block is allocated depends on the last edits that touched it, and they are made again in their
//! order. The end of the file matters to that: a hole that reaches it frees the last block whole, so while the steps are made the
//! object is longer than any of them reaches, and a hole that reached the end when it was made is one up to infinity here.
//! (Making only what nothing newer covers would lose the block of a write that a truncation cut to its first bytes. The price is room
//! for by-value bytes that a newer edit frees again, as much as was written since the checkpoint.)
//!
//! # Why it may be run again
//!
//! The plan depends on the journal alone, not on the object. Its steps touch no byte of a surviving extent or of the checkpoint,
//! so after any part of them the argument above holds again.
//!
//! # Changes that are newer than the journal
//!
//! After a power loss the object may show edits that the journal has lost. Then it is marked ([`crate::overwrite`]), and each byte may be as one of
//! them left it: recovery takes it so. Also its length: what is shorter than [`least_len`] was cut.
//!
//! It may also start too early: with edits that an earlier checkpoint has covered.

use std::ops::Range;

use super::range_set::RangeSet;

/// An edit of one file's content, as journalled. `S` says where the bytes of a write by value are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edit<S> {
    /// Bytes by value.
    Write {
        /// Where, in bytes.
        offset: u64,
        /// How many.
        len: u64,
        /// Where to find them.
        source: S,
    },
    /// Bytes that were in the object before the edit was journalled.
    Extent {
        /// Where, in bytes.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// The file ends at `size`; where it grows, with a hole.
    Truncate {
        /// The new size in bytes.
        size: u64,
    },
    /// A hole, which doesn't change the size. One that reaches the end of the file has an endless length.
    Punch {
        /// Where, in bytes.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// All content is a hole of `size` bytes.
    Replace {
        /// The new size in bytes.
        size: u64,
    },
}

/// What makes one object right: the length, then the steps in order. See [`super::redo_run`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan<S> {
    /// The length that the object must have.
    pub size: u64,
    /// The length that it has while the steps are made.
    pub work_len: u64,
    /// All below `work_len`.
    pub steps: Vec<Step<S>>,
    /// An object that is shorter than this before the first step has lost bytes of an extent: the store is damaged.
    pub min_len: u64,
}

/// One step of a plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step<S> {
    /// Make a hole.
    Punch(Range<u64>),
    /// Write bytes of the journal.
    Write(Rewrite<S>),
}

/// A part of a write by value that is in no newer extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewrite<S> {
    /// Where in the object, in bytes.
    pub offset: u64,
    /// Whose bytes.
    pub source: S,
    /// From which of them on.
    pub source_offset: u64,
    /// How many.
    pub len: u64,
}

/// More than a block of any file system below.
const MARGIN_BYTES: u64 = 128 << 10;

/// Plans for one file: its `edits` in the order of the journal, and the size that it has after them.
pub fn plan<S, I>(edits: I, size: u64) -> Plan<S>
where
    S: Copy,
    I: IntoIterator<Item = Edit<S>, IntoIter: DoubleEndedIterator>,
{
    // Cutting to the final size is the newest edit of all: nothing in the blocks behind it is of interest.
    let work_len = size.saturating_add(MARGIN_BYTES).min(i64::MAX as u64).max(size);
    let mut extents = RangeSet::from(work_len..u64::MAX);
    let mut covered = RangeSet::from(size..u64::MAX);
    let mut plan = Plan { size, work_len, steps: Vec::new(), min_len: 0 };
    for edit in edits.into_iter().rev() {
        let range = edit.range();
        match edit {
            Edit::Write { offset, source, .. } => plan.steps.extend(extents.gaps(range.clone()).map(|gap| {
                let (source_offset, len) = (gap.start - offset, gap.end - gap.start);
                Step::Write(Rewrite { offset: gap.start, source, source_offset, len })
            })),
            Edit::Truncate { .. } | Edit::Punch { .. } | Edit::Replace { .. } => {
                plan.steps.extend(extents.gaps(range.clone()).map(Step::Punch));
            }
            Edit::Extent { .. } => {
                plan.min_len = covered.gaps(range.clone()).map(|gap| gap.end).fold(plan.min_len, u64::max);
                extents.insert(range.clone());
            }
        }
        covered.insert(range);
    }
    plan.steps.reverse();
    plan
}

/// The length that the object of a file with `size` bytes before `edits` has at least, of which any part has reached it since the checkpoint. If it is
/// shorter, a newer edit has cut it.
pub fn least_len<S: Copy>(size: u64, edits: impl IntoIterator<Item = Edit<S>>) -> u64 {
    let (mut size, mut least) = (size, size);
    for edit in edits {
        size = size_after(size, [edit]);
        least = match edit {
            Edit::Write { .. } | Edit::Punch { .. } => least,
            // It is there with all before it.
            Edit::Extent { .. } => size,
            Edit::Truncate { .. } => least.min(size),
            // Emptied first.
            Edit::Replace { .. } => 0,
        };
    }
    least
}

/// The size after `edits` of a file that had `size` bytes before them.
pub fn size_after<S>(size: u64, edits: impl IntoIterator<Item = Edit<S>>) -> u64 {
    edits.into_iter().fold(size, |size, edit| match edit {
        Edit::Write { len: 0, .. } | Edit::Extent { len: 0, .. } | Edit::Punch { .. } => size,
        Edit::Write { offset, len, .. } | Edit::Extent { offset, len } => size.max(offset.saturating_add(len)),
        Edit::Truncate { size } | Edit::Replace { size } => size,
    })
}

impl<S> Edit<S> {
    /// The bytes that it determines.
    fn range(&self) -> Range<u64> {
        match *self {
            Edit::Write { offset, len, .. } | Edit::Extent { offset, len } | Edit::Punch { offset, len } => {
                offset..offset.saturating_add(len)
            }
            Edit::Truncate { size } => size..u64::MAX,
            Edit::Replace { .. } => 0..u64::MAX,
        }
    }
}

#[cfg(test)]
#[path = "redo_tests.rs"]
mod tests;
