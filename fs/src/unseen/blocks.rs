//! Content as it is journalled, by the hashes of its blocks.
//!
//! It follows what the daemon itself changes by reckoning, never by reading what the daemon wrote: a mapping may store into the same block at the same
//! moment, and what it stored must differ from what is expected here.

use std::collections::BTreeMap;
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
    /// By number. Those that are missing are zeros: a long hole takes no memory and no time.
    hashes: BTreeMap<u64, u128>,
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

/// An object, as far as it is looked at.
pub trait Bytes {
    /// Why it can't be read.
    type Error;
    /// What is there, at most so many bytes.
    fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, Self::Error>;
    /// The first byte at or after `offset` that is in no hole.
    fn next_data(&self, offset: u64) -> Result<Option<u64>, Self::Error>;
}

impl Blocks {
    /// Content of no bytes.
    pub fn empty() -> Self {
        Self { size: 0, hashes: BTreeMap::new() }
    }

    /// Takes what it finds for what is journalled, in `size` bytes from `from` on, but not in more than `most` blocks. Calls `differs` with each block
    /// that is not as it was. Where to go on, if there is more.
    pub fn take<B: Bytes>(
        &mut self,
        size: u64,
        (from, most): (u64, usize),
        bytes: &B,
        mut differs: impl FnMut(u64, Vec<u8>) -> Result<(), B::Error>,
    ) -> Result<Option<u64>, B::Error> {
        self.cut(size);
        let mut at = from;
        for _ in 0..most {
            if at >= size {
                return Ok(None);
            }
            let data = bytes.next_data(at)?.filter(|data| *data < size).map(index_of);
            let known = self.hashes.range(index_of(at)..).next().map(|(index, _)| *index);
            let Some(index) = data.into_iter().chain(known).min() else { return Ok(None) };
            let block = block(index, size);
            let found = bytes.read(block.start, block.end - block.start)?;
            let hash = hash_of(&found);
            if self.hashes.get(&index).copied() != hash {
                differs(block.start, found)?;
                self.set(index, hash);
            }
            at = block.end;
        }
        Ok(Some(at))
    }

    /// Follows a change before it is made. `read` finds what is there now, at most so many bytes.
    pub fn follow(
        &mut self,
        change: Change<'_>,
        mut read: impl FnMut(u64, u64) -> io::Result<Vec<u8>>,
    ) -> io::Result<()> {
        let old = self.size;
        let (brought, new) = match change {
            Change::Write { offset, bytes } => reach(old, offset, bytes.len() as u64),
            Change::Extent { offset, len } => reach(old, offset, len),
            Change::Punch { offset, len } => (offset.min(old)..offset.saturating_add(len).min(old), old),
            Change::Truncate { size } => (0..0, size),
            Change::Replace { size } => {
                self.hashes.clear();
                self.size = size;
                return Ok(());
            }
        };
        let (first, last) = (index_of(brought.start), index_of(brought.end.saturating_add(BLOCK_BYTES - 1)));
        // The last block of the shorter one has another length, and so another hash.
        let edge = index_of(old.min(new));
        if old != new && !(first..last).contains(&edge) {
            self.follow_block(edge, new, change, &brought, &mut read)?;
        }
        if matches!(change, Change::Punch { .. }) && last - first > 2 {
            // Those between are zeros, whatever has been there.
            while let Some(index) = self.hashes.range(first + 1..last - 1).next().map(|(index, _)| *index) {
                self.hashes.remove(&index);
            }
            self.follow_block(first, new, change, &brought, &mut read)?;
            self.follow_block(last - 1, new, change, &brought, &mut read)?;
        } else if !brought.is_empty() {
            for index in first..last {
                self.follow_block(index, new, change, &brought, &mut read)?;
            }
        }
        self.cut(new);
        Ok(())
    }

    fn follow_block(
        &mut self,
        index: u64,
        new: u64,
        change: Change<'_>,
        brought: &Range<u64>,
        read: &mut impl FnMut(u64, u64) -> io::Result<Vec<u8>>,
    ) -> io::Result<()> {
        let (before, after) = (block(index, self.size), block(index, new));
        let brings = brought.start.max(after.start)..brought.end.min(after.end);
        // What is brought whole is known, whatever has been there.
        let looked_at = !before.is_empty() && brings != after;
        let mut bytes = if looked_at { read(before.start, before.end - before.start)? } else { Vec::new() };
        let is_known = !looked_at || self.hashes.get(&index).copied() == hash_of(&bytes);
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
        self.set(index, if is_known { hash_of(&bytes) } else { Some(UNKNOWN) });
        Ok(())
    }

    /// Nothing is beyond the end.
    fn cut(&mut self, size: u64) {
        self.size = size;
        drop(self.hashes.split_off(&index_of(size.saturating_add(BLOCK_BYTES - 1))));
    }

    fn set(&mut self, index: u64, hash: Option<u128>) {
        match hash {
            Some(hash) => self.hashes.insert(index, hash),
            None => self.hashes.remove(&index),
        };
    }
}

/// `None` of zeros.
fn hash_of(bytes: &[u8]) -> Option<u128> {
    bytes.iter().any(|byte| *byte != 0).then(|| xxh3_128(bytes))
}

fn index_of(offset: u64) -> u64 {
    offset / BLOCK_BYTES
}

/// A block of content of this size.
fn block(index: u64, size: u64) -> Range<u64> {
    let start = (index * BLOCK_BYTES).min(size);
    start..start.saturating_add(BLOCK_BYTES).min(size)
}

/// Where bytes at `offset` go, and the size of what has `old` bytes with them.
fn reach(old: u64, offset: u64, len: u64) -> (Range<u64>, u64) {
    let end = offset.saturating_add(len);
    (offset..end, end.max(old))
}

#[cfg(test)]
#[path = "blocks_tests.rs"]
mod tests;
