//! Which bytes of objects unacknowledged records still refer to.
//!
//! A record by extent has its bytes in the object; so has one by copy, for peers that don't find them where they were copied from. Before they are overwritten there, the journal takes a copy (a *saved* range), so that
//! a peer gets what was written then, not what stands there later. Live pieces of one file never overlap: an extent holds bytes beyond
//! the end of the file, and what a truncation cut off has been saved before.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use bytes::Bytes;
use proto::codec::DecodeError;
use proto::ids::{FileId, Lane, Seq};

use crate::content::range_set::RangeSet;
use crate::journal::Location;
use crate::store::table::read_u64;

/// A record's extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// The file.
    pub file: FileId,
    /// Where, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
}

impl Extent {
    /// The row: file, offset, length, each 8 bytes big-endian.
    pub fn encode(&self) -> Bytes {
        [self.file.0, self.offset, self.len].iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    /// Reads a row.
    pub fn decode(row: &[u8]) -> Result<Self, DecodeError> {
        let [file, offset, len] = three(row, "an extent")?;
        Ok(Self { file: FileId(file), offset, len })
    }
}

/// Where the journal keeps overwritten bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SavedRange {
    /// The batch that holds them.
    pub location: Location,
    /// How many bytes.
    pub len: u64,
}

impl SavedRange {
    /// The row: generation of the journal file, offset in it, length, each 8 bytes big-endian.
    pub fn encode(&self) -> Bytes {
        let Location { generation, offset } = self.location;
        [generation, offset, self.len].iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    /// Reads a row.
    pub fn decode(row: &[u8]) -> Result<Self, DecodeError> {
        let [generation, offset, len] = three(row, "a saved range")?;
        Ok(Self { location: Location { generation, offset }, len })
    }
}

fn three(row: &[u8], what: &'static str) -> Result<[u64; 3], DecodeError> {
    if row.len() != 24 {
        return Err(DecodeError::Invalid { what });
    }
    Ok([read_u64(&row[..8], what)?, read_u64(&row[8..16], what)?, read_u64(&row[16..], what)?])
}

/// A part of a record's extent that still stands in the object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The record's lane.
    pub lane: Lane,
    /// The record's number.
    pub seq: Seq,
    /// Where, in bytes.
    pub range: Range<u64>,
}

/// All extents of unacknowledged records.
#[derive(Default, Debug)]
pub struct Pins {
    extents: BTreeMap<(Lane, Seq), Extent>,
    /// How many of them there are by file.
    counts: HashMap<FileId, usize>,
    /// By file and start: end, lane and number of the record.
    live: HashMap<FileId, BTreeMap<u64, (u64, Lane, Seq)>>,
}

impl Pins {
    /// A new record's extent, all of it in the object.
    pub fn insert(&mut self, lane: Lane, seq: Seq, extent: Extent) {
        self.load(lane, seq, extent, &RangeSet::new());
    }

    /// The extent of a record of which `saved` is in the journal and the rest in the object. In any order: where a later extent stands, the earlier
    /// has been saved, so that of all records at most one has a live piece at a place.
    pub fn load(&mut self, lane: Lane, seq: Seq, extent: Extent, saved: &RangeSet) {
        if self.extents.insert((lane, seq), extent).is_none() {
            *self.counts.entry(extent.file).or_default() += 1;
        }
        for piece in saved.gaps(extent.offset..extent.offset + extent.len) {
            self.live.entry(extent.file).or_default().insert(piece.start, (piece.end, lane, seq));
        }
    }

    /// Whether any record refers to the file's bytes, also by copies of all of them: they are shipped through the file.
    pub fn has(&self, file: FileId) -> bool {
        self.counts.contains_key(&file)
    }

    /// The pieces that stand within `range` of the object, cut to it.
    pub fn overlapping(&self, file: FileId, range: Range<u64>) -> Vec<Piece> {
        let Some(pieces) = self.live.get(&file) else { return Vec::new() };
        let first = pieces.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        pieces
            .range(first..range.end)
            .filter(|(_, (end, ..))| *end > range.start)
            .map(|(start, (end, lane, seq))| Piece {
                lane: *lane,
                seq: *seq,
                range: (*start).max(range.start)..(*end).min(range.end),
            })
            .collect()
    }

    /// The piece has been saved: the object may lose it.
    pub fn saved(&mut self, file: FileId, piece: &Piece) {
        let Some(pieces) = self.live.get_mut(&file) else { return };
        let Some((&start, &(end, lane, seq))) = pieces.range(..=piece.range.start).next_back() else { return };
        if (lane, seq) != (piece.lane, piece.seq) || end < piece.range.end {
            return;
        }
        pieces.remove(&start);
        if start < piece.range.start {
            pieces.insert(start, (piece.range.start, lane, seq));
        }
        if piece.range.end < end {
            pieces.insert(piece.range.end, (end, lane, seq));
        }
        if pieces.is_empty() {
            self.live.remove(&file);
        }
    }

    /// The numbers of the lane's records up to `seq`, at most `limit`.
    pub fn up_to(&self, lane: Lane, seq: Seq, limit: usize) -> Vec<Seq> {
        self.extents.range((lane, Seq::ZERO)..=(lane, seq)).take(limit).map(|((_, seq), _)| *seq).collect()
    }

    /// Every peer has the record.
    pub fn release(&mut self, lane: Lane, seq: Seq) {
        let Some(extent) = self.extents.remove(&(lane, seq)) else { return };
        if let Some(count) = self.counts.get_mut(&extent.file) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&extent.file);
            }
        }
        let Some(pieces) = self.live.get_mut(&extent.file) else { return };
        let starts: Vec<u64> = pieces
            .range(extent.offset..extent.offset + extent.len)
            .filter(|(_, (_, l, s))| (*l, *s) == (lane, seq))
            .map(|(start, _)| *start)
            .collect();
        for start in starts {
            pieces.remove(&start);
        }
        if pieces.is_empty() {
            self.live.remove(&extent.file);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proto::ids::SiteId;

    use super::*;

    proptest! {
        /// The model: who refers to each byte.
        #[test]
        fn pieces_equal_a_map_of_bytes(steps in vec((0u8..4, 0u64..40, 1u64..12), 1..60)) {
            let file = FileId::new(SiteId(1), 1).expect("a counter");
            let mut pins = Pins::default();
            let mut model: BTreeMap<u64, u64> = BTreeMap::new();
            let mut rows: BTreeMap<u64, (Extent, RangeSet)> = BTreeMap::new();
            let (mut end, mut last) = (0, 0);
            for (what, offset, len) in steps {
                match what {
                    0 => {
                        last += 1;
                        let extent = Extent { file, offset: end, len };
                        pins.insert(Lane::Normal, Seq(last), extent);
                        rows.insert(last, (extent, RangeSet::new()));
                        model.extend((end..end + len).map(|byte| (byte, last)));
                        end += len;
                    }
                    1 => {
                        for piece in pins.overlapping(file, offset..offset + len) {
                            pins.saved(file, &piece);
                            rows.get_mut(&piece.seq.0).expect("a row").1.insert(piece.range);
                        }
                        model.retain(|byte, _| !(offset..offset + len).contains(byte));
                        // Saved before it is cut: the next extent may stand where this one did.
                        end = if len % 3 == 0 { end.min(offset).max(model.keys().next_back().map_or(0, |byte| byte + 1)) } else { end };
                    }
                    2 => {
                        // As after a start, in an order that is not that of the records.
                        pins = Pins::default();
                        for (seq, (extent, saved)) in rows.iter().rev() {
                            pins.load(Lane::Normal, Seq(*seq), *extent, saved);
                        }
                    }
                    _ => {
                        for seq in pins.up_to(Lane::Normal, Seq(offset / 8), usize::MAX) {
                            pins.release(Lane::Normal, seq);
                            rows.remove(&seq.0);
                        }
                        model.retain(|_, seq| *seq > offset / 8);
                    }
                }
                let mut found = BTreeMap::new();
                for piece in pins.overlapping(file, 0..u64::MAX) {
                    found.extend(piece.range.clone().map(|byte| (byte, piece.seq.0)));
                }
                prop_assert_eq!(&found, &model);
                prop_assert_eq!(pins.has(file), !pins.extents.is_empty());
            }
        }
    }
}
