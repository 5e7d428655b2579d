//! The chunks of a site's state and content on their way to another site.
//!
//! ```text
//! chunk    := tag:u8 …                                          each below 2 MiB
//!   1 rows     := table:u8 list(key:bytes value:bytes)           in the order of their keys
//!   2 content  := file:uint offset:uint bytes
//!   3 frontier := site:uint lane:u8 incarnation:uint seq:uint
//!   4 clock    := hlc:uint
//!   5 whole    := file:uint                                      all of the file's content has come
//!   6 end                                                        all of the state has come
//! ```

use bytes::Bytes;
use proto::codec::{self, DecodeError, Reader};
use proto::hlc::Hlc;
use proto::ids::{FileId, Incarnation, Lane, LanePoint, Seq, SiteId};
use proto::record;

use crate::store::table::{Key, Table, Value};

/// No chunk of rows or content is made much larger.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;
const MAX_KEY_BYTES: usize = 512;
const MAX_VALUE_BYTES: usize = 1 << 17;

/// One chunk, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Chunk {
    /// Rows of one table.
    Rows { table: Table, rows: Vec<(Key, Value)> },
    /// A piece of a file's content.
    Content { file: FileId, offset: u64, bytes: Bytes },
    /// How far a lane has come there.
    Frontier { site: SiteId, lane: Lane, point: LanePoint },
    /// The clock there.
    Clock(Hlc),
    /// The file's content is complete.
    Whole(FileId),
    /// The state is complete.
    End,
}

impl Chunk {
    /// The chunk's bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(match self {
            Chunk::Content { bytes, .. } => bytes.len() + 32,
            _ => 64,
        });
        match self {
            Chunk::Rows { table, rows } => {
                out.extend([1, *table as u8]);
                for (key, value) in rows {
                    codec::put_bytes(&mut out, key);
                    codec::put_bytes(&mut out, value);
                }
            }
            Chunk::Content { file, offset, bytes } => {
                out.push(2);
                codec::put_u64(&mut out, file.0);
                codec::put_u64(&mut out, *offset);
                out.extend_from_slice(bytes);
            }
            Chunk::Frontier { site, lane, point } => {
                out.push(3);
                codec::put_u64(&mut out, u64::from(site.0));
                out.push(*lane as u8);
                codec::put_u64(&mut out, u64::from(point.incarnation.0));
                codec::put_u64(&mut out, point.seq.0);
            }
            Chunk::Clock(hlc) => {
                out.push(4);
                codec::put_u64(&mut out, hlc.0);
            }
            Chunk::Whole(file) => {
                out.push(5);
                codec::put_u64(&mut out, file.0);
            }
            Chunk::End => out.push(6),
        }
        out.into()
    }

    /// Reads a chunk.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let chunk = match reader.u8("a state's chunk")? {
            1 => {
                let table = Table::from_u8(reader.u8("a table")?).ok_or(DecodeError::Invalid { what: "a table" })?;
                let mut rows = Vec::new();
                while reader.remaining() > 0 {
                    let key = reader.bytes(MAX_KEY_BYTES, "a key")?;
                    rows.push((key, reader.bytes(MAX_VALUE_BYTES, "a value")?));
                }
                Chunk::Rows { table, rows }
            }
            2 => {
                let file = FileId(reader.u64("a file id")?);
                let offset = reader.u64("an offset")?;
                Chunk::Content { file, offset, bytes: reader.take(reader.remaining(), "content")? }
            }
            3 => {
                let site = SiteId(reader.uint("a site")?);
                let lane = record::lane(&mut reader)?;
                let incarnation = Incarnation(reader.uint("an incarnation")?);
                let seq = Seq(reader.u64("a sequence number")?);
                Chunk::Frontier { site, lane, point: LanePoint { incarnation, seq } }
            }
            4 => Chunk::Clock(Hlc(reader.u64("a clock reading")?)),
            5 => Chunk::Whole(FileId(reader.u64("a file id")?)),
            6 => Chunk::End,
            _ => return Err(DecodeError::Invalid { what: "a state's chunk" }),
        };
        reader.finish("a state's chunk")?;
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn chunks_survive_a_round_trip() {
        let file = FileId::new(SiteId(3), 7).expect("a counter");
        let row = (Bytes::from_static(b"key"), Bytes::from_static(b"value"));
        let point = LanePoint { incarnation: Incarnation(2), seq: Seq(1 << 40) };
        for chunk in [
            Chunk::Rows { table: Table::Entry, rows: vec![row.clone(), row] },
            Chunk::Content { file, offset: 1 << 50, bytes: Bytes::from_static(b"bytes") },
            Chunk::Frontier { site: SiteId(4), lane: Lane::High, point },
            Chunk::Clock(Hlc(99)),
            Chunk::Whole(file),
            Chunk::End,
        ] {
            assert_eq!(Chunk::decode(&chunk.encode()), Ok(chunk));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Chunk::decode(&bytes.into());
        }
    }
}
