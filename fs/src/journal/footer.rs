//! The footer of a full file: sparse points, so that a reader finds its place without reading from the start.
//!
//! ```text
//! footer magic:u32 count:u32 last_lsn:u64 count × (offset:u64 lsn:u64 heads) checksum:u64
//! ```
//!
//! It is a hint: what it says also follows from the batches, and a lost or damaged one is rebuilt from them.

use super::format::{BLOCK_BYTES, Get, HEADS_BYTES, Put, round_up, seal, sealed};
use super::lsn::{Heads, Lsn};

/// A point is kept about every so many bytes of batches.
pub const POINT_INTERVAL_BYTES: u64 = 256 << 10;

const MAGIC: u32 = u32::from_le_bytes(*b"JFTR");
const FIXED_BYTES: usize = 24;
const POINT_BYTES: usize = 16 + HEADS_BYTES;

/// A place where a batch begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Point {
    /// Where, in bytes.
    pub offset: u64,
    /// The batch.
    pub lsn: Lsn,
    /// The own lanes' heads before it.
    pub heads: Heads,
}

/// The points of one file, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Points(Vec<Point>);

impl Points {
    /// Takes note of a batch; keeps it when the last point is far enough behind.
    pub fn note(&mut self, point: Point) {
        if self.0.last().is_none_or(|last| point.offset >= last.offset + POINT_INTERVAL_BYTES) {
            self.0.push(point);
        }
    }

    /// The last point for which `before` holds; it holds for a prefix of the points.
    pub fn last_where(&self, before: impl Fn(&Point) -> bool) -> Option<&Point> {
        self.0.partition_point(before).checked_sub(1).and_then(|index| self.0.get(index))
    }

    /// The footer as it stands in a file with this seed.
    pub fn encode(&self, last_lsn: Lsn, seed: u64) -> Vec<u8> {
        let mut out = vec![0; FIXED_BYTES + self.0.len() * POINT_BYTES];
        let mut put = Put::new(&mut out);
        put.u32(MAGIC).u32(self.0.len() as u32).u64(last_lsn.0);
        for point in &self.0 {
            put.u64(point.offset).u64(point.lsn.0).heads(&point.heads);
        }
        seal(&mut out, seed);
        out
    }

    /// Reads the footer of a file whose last batch is `last_lsn`; `None` when there is none of this use of the file.
    pub fn decode(bytes: &[u8], last_lsn: Lsn, seed: u64) -> Option<Self> {
        if bytes.len() < FIXED_BYTES {
            return None;
        }
        let mut get = Get::new(bytes);
        let (magic, count, last) = (get.u32(), get.u32() as usize, Lsn(get.u64()));
        let len = count.checked_mul(POINT_BYTES)?.checked_add(FIXED_BYTES)?;
        if magic != MAGIC || last != last_lsn || len > bytes.len() || !sealed(&bytes[..len], seed) {
            return None;
        }
        let point = |_| Point { offset: get.u64(), lsn: Lsn(get.u64()), heads: get.heads() };
        Some(Self((0..count).map(point).collect()))
    }
}

/// What is reserved for the footer at the end of a file of this size.
pub fn footer_bytes(file_bytes: u64) -> u64 {
    let points = file_bytes / POINT_INTERVAL_BYTES + 1;
    round_up(FIXED_BYTES as u64 + points * POINT_BYTES as u64, BLOCK_BYTES)
}
