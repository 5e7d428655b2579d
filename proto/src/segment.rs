//! A segment: a run of consecutive records of one lane of one origin, as it is compressed, sealed, shipped and acknowledged.
//!
//! ```text
//! segment := header (89 bytes, in the clear, authenticated) | body, sealed | tag (16 bytes)
//! ```
//!
//! The header's layout is in [`header`]. The plain body is the records' bytes ([`Record::encode`]) one after another. Its sealed
//! length is not stated: the transport frames messages, and the tag proves the end. How it is sealed is in [`crate::seal`].
//!
//! Invariants, kept when building and checked again when opening, since a peer may be hostile: at least one record; sequence numbers
//! are `first..=last` without a gap; no record refers to bytes by extent, for only its origin has those; nothing exceeds
//! the limits below; a compressed body is smaller than the plain one, which is decompressed into exactly its stated length.

pub mod header;

use bytes::Bytes;

use crate::codec::{DecodeError, Reader};
use crate::ids::{Incarnation, Lane, Seq, SiteId, VolumeId};
use crate::record::{ContentChange, Data, Edit, Op, Record};
pub use crate::segment::header::{Codec, HEADER_BYTES, Header, Run};

/// The most plain bytes in a segment. The largest record (1 MiB of data, or 4096 moves of the longest names with as many
/// deps, 1.5 MiB) always fits.
pub const MAX_SEGMENT_BYTES: usize = 2 << 20;
/// How many plain bytes a shipper aims at: it cuts before the record that would pass this, and a larger record goes alone.
pub const TARGET_SEGMENT_BYTES: usize = 1 << 20;
/// The most records in a segment: bounds the memory of a receiver, for which a small record is many times its bytes.
pub const MAX_SEGMENT_RECORDS: usize = 1 << 16;
/// The length of the tag behind the body in bytes.
pub const TAG_BYTES: usize = 16;
/// The longest sealed segment in bytes: what a transport must let through, and need not exceed.
pub const MAX_SEALED_BYTES: usize = HEADER_BYTES + MAX_SEGMENT_BYTES + TAG_BYTES;

/// A body of up to this many bytes is its own sample.
const SAMPLE_BYTES: usize = 64 << 10;
/// A sample is made of pieces of this size, evenly spread: a window of LZ4 is longer, but data that shrinks shows it here.
const SAMPLE_PIECE_BYTES: usize = 4 << 10;
/// Compression is worth the receiver's time when it saves one byte of this many.
const WORTHWHILE_ONE_IN: usize = 16;

/// Whether a segment is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compression {
    /// If it shrinks enough to be worth the receiver's time; where a sample does not, the rest is not tried.
    #[default]
    Auto,
    /// If it shrinks at all.
    Always,
    /// It is not tried.
    Never,
}

/// Why records can't become a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BuildError {
    /// There is no record.
    #[error("a segment needs at least one record")]
    Empty,
    /// The sequence numbers have a gap, a repetition, or start at 0.
    #[error("record {found} stands where {expected} belongs: a segment's records must be consecutive")]
    NotConsecutive {
        /// The number that belongs there.
        expected: Seq,
        /// The number that the record has.
        found: Seq,
    },
    /// A record refers to bytes that only its origin has.
    #[error("record {seq} refers to its bytes by extent; read them before building the segment")]
    Extent {
        /// The record.
        seq: Seq,
    },
    /// More than [`MAX_SEGMENT_BYTES`] or [`MAX_SEGMENT_RECORDS`].
    #[error("the records exceed a segment: only the first {fitting} fit into one")]
    TooLarge {
        /// How many of the records fit.
        fitting: usize,
    },
}

/// Why bytes are not a segment that this site may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// Shorter than any segment.
    #[error("{bytes} bytes are too few for a segment; the transfer was cut short")]
    TooShort {
        /// How many there are.
        bytes: usize,
    },
    /// Longer than any segment.
    #[error("{bytes} bytes are more than a segment may have")]
    TooLong {
        /// How many there are.
        bytes: usize,
    },
    /// Does not begin like a segment.
    #[error("the bytes do not begin like a segment")]
    NotASegment,
    /// A later format.
    #[error("the segment has format {version}, this site knows {known}; upgrade this site", known = header::VERSION)]
    UnknownVersion {
        /// The format's number.
        version: u8,
    },
    /// A header that no site writes.
    #[error("the segment's header is not valid: {what}")]
    Header {
        /// The field.
        what: &'static str,
    },
    /// It belongs to another volume.
    #[error("the segment is of volume {found}, this site has {expected}")]
    OtherVolume {
        /// The segment's.
        found: VolumeId,
        /// This site's.
        expected: VolumeId,
    },
    /// Not sealed by a site that has the volume's key, or changed since.
    #[error("the segment was not sealed with this volume's key, or was changed on the way")]
    NotAuthentic,
    /// A sealed body that does not decompress to its stated length.
    #[error("the segment does not decompress to its stated length")]
    Decompress,
    /// A sealed body that has a record which is none.
    #[error("a record in the segment can't be read: {0}")]
    Record(#[from] DecodeError),
    /// A sealed body with other sequence numbers than the header's.
    #[error("the segment has record {found} where {expected} belongs")]
    NotConsecutive {
        /// The number that belongs there.
        expected: Seq,
        /// The number that the record has.
        found: Seq,
    },
    /// A sealed body with a record that refers to bytes which only its origin has.
    #[error("record {seq} in the segment refers to its bytes by extent")]
    Extent {
        /// The record.
        seq: Seq,
    },
}

/// A segment that is not sealed yet. Sealing takes it: it is sealed once, and the same bytes go to every peer.
#[derive(Debug)]
pub struct PlainSegment {
    pub(crate) run: Run,
    pub(crate) codec: Codec,
    pub(crate) plain_bytes: u32,
    /// Room for the header, then the body, so that sealing happens in place; capacity for the tag.
    pub(crate) message: Vec<u8>,
}

impl PlainSegment {
    /// Encodes the records, which must be consecutive, and compresses them as asked.
    ///
    /// # Errors
    /// [`BuildError`]; with `TooLarge` the caller builds from the first `fitting` records instead.
    pub fn build(
        volume: VolumeId,
        origin: SiteId,
        incarnation: Incarnation,
        lane: Lane,
        records: &[Record],
        compression: Compression,
    ) -> Result<Self, BuildError> {
        let first = records.first().ok_or(BuildError::Empty)?.seq;
        let mut last = Seq::ZERO;
        let mut message = vec![0; HEADER_BYTES];
        for (index, record) in records.iter().enumerate() {
            let expected = if index == 0 { first.max(Seq::ZERO.next()) } else { last.next() };
            if record.seq != expected || record.seq == Seq(u64::MAX) {
                return Err(BuildError::NotConsecutive { expected, found: record.seq });
            }
            if is_extent(record) {
                return Err(BuildError::Extent { seq: record.seq });
            }
            record.encode(&mut message);
            if message.len() - HEADER_BYTES > MAX_SEGMENT_BYTES || index == MAX_SEGMENT_RECORDS {
                return Err(BuildError::TooLarge { fitting: index });
            }
            last = record.seq;
        }
        let run = Run { volume, origin, incarnation, lane, first, last };
        let plain_bytes = (message.len() - HEADER_BYTES) as u32;
        let (codec, message) = match compress(&message[HEADER_BYTES..], compression) {
            Some(compressed) => (Codec::Lz4Block, compressed),
            None => (Codec::None, message),
        };
        Ok(Self { run, codec, plain_bytes, message })
    }

    /// Which records it has.
    pub fn run(&self) -> Run {
        self.run
    }

    /// How it is compressed.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// The length of the records' bytes, not compressed.
    pub fn plain_bytes(&self) -> usize {
        self.plain_bytes as usize
    }

    /// The length that it will have when sealed, in bytes.
    pub fn sealed_bytes(&self) -> usize {
        self.message.len() + TAG_BYTES
    }
}

/// Room for a header and the compressed form of `plain`, if it is worth having.
fn compress(plain: &[u8], compression: Compression) -> Option<Vec<u8>> {
    let worthwhile = |plain: usize, compressed: usize| match compression {
        Compression::Auto => compressed < plain - plain / WORTHWHILE_ONE_IN,
        Compression::Always => compressed < plain,
        Compression::Never => false,
    };
    if compression == Compression::Never {
        return None;
    }
    if compression == Compression::Auto && plain.len() > SAMPLE_BYTES {
        let pieces = SAMPLE_BYTES / SAMPLE_PIECE_BYTES;
        let stride = (plain.len() - SAMPLE_PIECE_BYTES) / (pieces - 1);
        let mut sample = Vec::with_capacity(SAMPLE_BYTES);
        for piece in 0..pieces {
            sample.extend_from_slice(&plain[piece * stride..][..SAMPLE_PIECE_BYTES]);
        }
        if !worthwhile(sample.len(), lz4_flex::block::compress(&sample).len()) {
            return None;
        }
    }
    let room = lz4_flex::block::get_maximum_output_size(plain.len());
    let mut message = vec![0; HEADER_BYTES + room];
    let compressed = lz4_flex::block::compress_into(plain, &mut message[HEADER_BYTES..]).ok()?;
    message.truncate(HEADER_BYTES + compressed);
    worthwhile(plain.len(), compressed).then_some(message)
}

/// The records of a body that has been opened, which must be those of the header.
pub(crate) fn records(header: &Header, body: Vec<u8>) -> Result<Vec<Record>, OpenError> {
    let plain = match header.codec {
        Codec::None => body,
        Codec::Lz4Block => {
            let mut plain = vec![0; header.plain_bytes as usize];
            match lz4_flex::block::decompress_into(&body, &mut plain) {
                Ok(bytes) if bytes == plain.len() => plain,
                _ => return Err(OpenError::Decompress),
            }
        }
    };
    let mut reader = Reader::new(Bytes::from(plain));
    let mut records = Vec::new();
    for expected in (header.run.first.0..=header.run.last.0).map(Seq) {
        let record = Record::decode(&mut reader)?;
        if record.seq != expected {
            return Err(OpenError::NotConsecutive { expected, found: record.seq });
        }
        if is_extent(&record) {
            return Err(OpenError::Extent { seq: record.seq });
        }
        records.push(record);
    }
    reader.finish("the segment's end")?;
    Ok(records)
}

fn is_extent(record: &Record) -> bool {
    matches!(record.op, Op::Content(ContentChange { edit: Edit::Write { data: Data::Extent(_), .. }, .. }))
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
