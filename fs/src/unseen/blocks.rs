//! Content as it is journalled, by the hashes of its blocks.
//!
//! It follows what the daemon itself changes by reckoning, never by reading what the daemon wrote: a mapping may store into the same block at the same
//! moment, and what it stored must differ from what is expected here.

use std::io;
use std::ops::Range;

use xxhash_rust::xxh3::xxh3_128;

const BLOCK_BYTES: u64 = 64 << 10;
/// Of a block in which a mapping has stored something that is not journalled. No bytes have this hash, but for one chance in 2^128.
const UNKNOWN: u128 = 0;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blocks {
    size: u64,
    hashes: Vec<u128>,
}

/// What the daemon is about to change.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// These bytes.
    Write { offset: u64, bytes: &'a [u8] },
    /// Bytes that are there already, at or beyond the end.
    Extent { offset: u64, len: u64 },
    /// The length; more are zeros.
    Truncate { size: u64 },
    /// Zeros, within the length.
    Punch { offset: u64, len: u64 },
    /// All is zeros.
    Replace { size: u64 },
}

impl Blocks {
    /// Content of no bytes.
    pub fn empty() -> Self {
        Self { size: 0, hashes: Vec::new() }
    }

    /// Takes what `read` (offset, length) finds for what is journalled, `size` bytes. Calls `differs` with each block that is not as it was.
    pub fn take<E>(
        &mut self,
        size: u64,
        mut read: impl FnMut(u64, u64) -> Result<Vec<u8>, E>,
        mut differs: impl FnMut(u64, Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let count = usize::try_from(size.div_ceil(BLOCK_BYTES)).unwrap_or(usize::MAX);
        self.hashes.resize(count, UNKNOWN);
        self.size = size;
        for index in 0..count {
            let block = block(index, size);
            let bytes = read(block.start, block.end - block.start)?;
            let hash = xxh3_128(&bytes);
            if self.hashes[index] != hash {
                differs(block.start, bytes)?;
                self.hashes[index] = hash;
            }
        }
        Ok(())
    }

    /// Follows a change before it is made. `read` finds what is there now, at most so many bytes.
    pub fn follow(
        &mut self,
        change: Change<'_>,
        mut read: impl FnMut(u64, u64) -> io::Result<Vec<u8>>,
    ) -> io::Result<()> {
        let old = self.size;
        let (touched, new) = match change {
            Change::Write { offset, bytes } => reach(old, offset, bytes.len() as u64),
            Change::Extent { offset, len } => reach(old, offset, len),
            Change::Truncate { size } if size < old => (size..size + u64::from(size % BLOCK_BYTES != 0), size),
            Change::Truncate { size } => (old..size, size),
            Change::Punch { offset, len } => (offset.min(old)..offset.saturating_add(len).min(old), old),
            Change::Replace { size } => {
                self.hashes.clear();
                self.size = 0;
                (0..size, size)
            }
        };
        let old = self.size;
        let first = index_of(touched.start);
        let last = index_of(touched.end.saturating_add(BLOCK_BYTES - 1));
        let (empty, mut zeros) = (Vec::new(), None);
        self.hashes.resize(index_of(new.saturating_add(BLOCK_BYTES - 1)), UNKNOWN);
        for index in first..last.min(self.hashes.len()) {
            let (before, after) = (block(index, old), block(index, new));
            let mut bytes =
                if before.is_empty() { empty.clone() } else { read(before.start, before.end - before.start)? };
            let is_known = before.is_empty() || self.hashes[index] == xxh3_128(&bytes);
            let whole = after.end - after.start == BLOCK_BYTES;
            let brings = match change {
                Change::Write { offset, bytes } => part(&after, offset, bytes.len() as u64),
                Change::Extent { offset, len } => part(&after, offset, len),
                Change::Punch { offset, len } => part(&after, offset, len),
                Change::Truncate { .. } | Change::Replace { .. } => 0..0,
            };
            if before.is_empty() && brings.is_empty() && whole {
                self.hashes[index] = *zeros.get_or_insert_with(|| xxh3_128(&vec![0; BLOCK_BYTES as usize]));
                continue;
            }
            bytes.resize((after.end - after.start) as usize, 0);
            if !brings.is_empty() {
                let within = (brings.start - after.start) as usize..(brings.end - after.start) as usize;
                match change {
                    Change::Write { offset, bytes: new } => {
                        let from = (brings.start - offset) as usize;
                        bytes[within.clone()].copy_from_slice(&new[from..from + within.len()]);
                    }
                    Change::Extent { .. } => {
                        let there = read(brings.start, brings.end - brings.start)?;
                        if there.len() != within.len() {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                        bytes[within].copy_from_slice(&there);
                    }
                    _ => bytes[within].fill(0),
                }
            }
            self.hashes[index] = if is_known { xxh3_128(&bytes) } else { UNKNOWN };
        }
        self.size = new;
        Ok(())
    }
}

fn index_of(offset: u64) -> usize {
    usize::try_from(offset / BLOCK_BYTES).unwrap_or(usize::MAX)
}

/// A block of content of this size.
fn block(index: usize, size: u64) -> Range<u64> {
    let start = (index as u64 * BLOCK_BYTES).min(size);
    start..(start + BLOCK_BYTES).min(size)
}

/// The bytes of a block that a change brings.
fn part(block: &Range<u64>, offset: u64, len: u64) -> Range<u64> {
    let (start, end) = (offset.max(block.start), offset.saturating_add(len).min(block.end));
    start..end.max(start)
}

/// What bytes at `offset` touch of `old` bytes, a gap before them included, and the size with them.
fn reach(old: u64, offset: u64, len: u64) -> (Range<u64>, u64) {
    let end = offset.saturating_add(len);
    (offset.min(old)..end, end.max(old))
}

#[cfg(test)]
#[path = "blocks_tests.rs"]
mod tests;
