//! A copy of this site's state for a site that joins: rows, content, and how far every lane has come in them.
//!
//! ```text
//! chunk    := tag:u8 …                                          each below 2 MiB
//!   1 rows     := table:u8 list(key:bytes value:bytes)
//!   2 content  := file:uint offset:uint bytes
//!   3 frontier := site:uint lane:u8 incarnation:uint seq:uint    the last chunks
//!   4 clock    := hlc:uint                                       the first chunk
//! ```
//!
//! Rows are of one instant. Content is read after it, so it may be newer than its rows: the records that made it so come after the frontier, and
//! replaying them leads to the same bytes again. A crash before [`Volume::finish_snapshot`] leaves a store that is marked as incomplete.

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use proto::codec::{self, Reader};
use proto::hlc::Hlc;
use proto::ids::{FileId, Incarnation, Lane, LanePoint, Seq, SiteId};
use proto::record::{self, Kind};

use crate::content::holes::DataSegments;
use crate::error::FsError;
use crate::meta;
use crate::ops::data::disk;
use crate::store::overlay::View;
use crate::store::table::{self, Key, Table};
use crate::tree::inode::Inode;
use crate::txn::Txn;
use crate::volume::{Volume, decode_point, encode_point};

const CHUNK_BYTES: usize = 1 << 20;
const MAX_KEY_BYTES: usize = 512;
const MAX_VALUE_BYTES: usize = 1 << 17;
const ROWS: usize = 512;
/// What belongs to the tree. Everything else is this site's own affair.
const TABLES: [Table; 6] = [Table::Inode, Table::Entry, Table::Name, Table::Xattr, Table::Garbage, Table::Link];

/// The chunks of a snapshot, in order.
pub struct Snapshot {
    volume: Arc<Volume>,
    view: View,
    clock: Hlc,
    stage: Stage,
    frontiers: Vec<(SiteId, Lane, LanePoint)>,
}

enum Stage {
    Clock,
    Rows { table: usize, after: Option<Key> },
    Content { after: Option<Key>, files: std::vec::IntoIter<FileId>, at: Option<(FileId, u64)> },
    Frontiers,
}

impl Volume {
    /// Begins a snapshot of now.
    pub fn snapshot(self: &Arc<Self>) -> Result<Snapshot, FsError> {
        let (view, mut frontiers, lsn, clock) = {
            // Under the writer's lock rows, lanes and frontiers are of one instant.
            let writer = self.writer.lock();
            let own = Lane::ALL.map(|lane| {
                let seq = self.journal.lane_head(lane).seq;
                (self.site(), lane, LanePoint { incarnation: self.incarnation(), seq })
            });
            (self.rows.view(), own.to_vec(), self.journal.appended(), writer.clock.last())
        };
        for (key, row) in view.scan(Table::Frontier, None, usize::MAX)? {
            let (origin, lane) = table::lane_of_key(&key)?;
            frontiers.push((origin, lane, decode_point(row)?));
        }
        // The joining site must not be ahead of what this one finds after a power loss.
        self.wait_durable(lsn)?;
        Ok(Snapshot { volume: Arc::clone(self), view, clock, stage: Stage::Clock, frontiers })
    }

    /// Says in the store, durably, that a snapshot is being taken in. Only an empty volume takes one.
    pub fn begin_snapshot(&self) -> Result<(), FsError> {
        if !self.list(FileId::ROOT)?.is_empty() {
            return Err(FsError::NotEmpty);
        }
        let mut txn = Txn::begin(self)?;
        txn.put(Table::Meta, Bytes::from_static(meta::JOINING), Bytes::copy_from_slice(&1u64.to_be_bytes()));
        self.wait_durable(txn.commit_state()?.appended.lsn)
    }

    /// Whether a snapshot was begun and not finished: the store is of no use.
    pub fn is_joining(&self) -> Result<bool, FsError> {
        Ok(meta::Run::load(&self.rows)?.joining)
    }

    /// Takes one chunk in.
    pub fn load_snapshot(&self, chunk: &Bytes) -> Result<(), FsError> {
        let mut reader = Reader::new(chunk.clone());
        match reader.u8("a snapshot's chunk")? {
            1 => {
                let number = reader.u8("a table")?;
                let table = Table::from_u8(number).filter(|table| TABLES.contains(table));
                let table = table.ok_or_else(|| FsError::Damaged(format!("a snapshot has rows of table {number}")))?;
                let mut txn = Txn::begin(self)?;
                while reader.remaining() > 0 {
                    let key = reader.bytes(MAX_KEY_BYTES, "a key")?;
                    let value = reader.bytes(MAX_VALUE_BYTES, "a value")?;
                    txn.put(table, key, value);
                }
                txn.commit_state().map(drop)
            }
            2 => {
                let file = FileId(reader.u64("a file id")?);
                let offset = reader.u64("an offset")?;
                let bytes = reader.take(reader.remaining(), "content")?;
                let object = self.object(file)?;
                let _lock = object.write();
                // What lies beyond the size of the inode's row belongs to records that follow.
                let size = self.inode(file)?.size;
                let fits = size.saturating_sub(offset).min(bytes.len() as u64) as usize;
                object.write_all_at(offset, &bytes[..fits]).map_err(disk("writing an object"))?;
                self.dirty.mark(file, object.handle());
                Ok(())
            }
            3 => {
                let site = SiteId(reader.uint("a site")?);
                let lane = record::lane(&mut reader)?;
                let incarnation = Incarnation(reader.uint("an incarnation")?);
                let point = LanePoint { incarnation, seq: Seq(reader.u64("a sequence number")?) };
                let mut txn = Txn::begin(self)?;
                txn.put(Table::Frontier, table::lane_key(site, lane), encode_point(point));
                txn.commit_state().map(drop)
            }
            // What is done here from now on is later than everything in the snapshot.
            4 => {
                let hlc = Hlc(reader.u64("a clock reading")?);
                let mut txn = Txn::begin(self)?;
                let now_ms = self.now_ms();
                txn.clock().observe(hlc, now_ms).map_err(|drift| FsError::Damaged(drift.to_string()))?;
                txn.commit_state().map(drop)
            }
            _ => Err(FsError::Damaged("a snapshot has a chunk of an unknown kind".into())),
        }
    }

    /// All chunks are in: makes them durable and the store complete.
    pub fn finish_snapshot(&self) -> Result<(), FsError> {
        let mut txn = Txn::begin(self)?;
        txn.delete(Table::Meta, Bytes::from_static(meta::JOINING));
        self.wait_durable(txn.commit_state()?.appended.lsn)?;
        self.fold_now()
    }
}

impl Snapshot {
    fn step(&mut self) -> Result<Option<Bytes>, FsError> {
        loop {
            match &mut self.stage {
                Stage::Clock => {
                    self.stage = Stage::Rows { table: 0, after: None };
                    let mut chunk = vec![4];
                    codec::put_u64(&mut chunk, self.clock.0);
                    return Ok(Some(chunk.into()));
                }
                Stage::Rows { table, after } => {
                    let Some(current) = TABLES.get(*table).copied() else {
                        self.stage = Stage::Content { after: None, files: Vec::new().into_iter(), at: None };
                        continue;
                    };
                    let rows = self.view.scan(current, after.as_deref(), ROWS)?;
                    let mut chunk = vec![1, current as u8];
                    for (key, value) in rows {
                        codec::put_bytes(&mut chunk, &key);
                        codec::put_bytes(&mut chunk, &value);
                        *after = Some(key);
                        if chunk.len() >= CHUNK_BYTES {
                            break;
                        }
                    }
                    if chunk.len() > 2 {
                        return Ok(Some(chunk.into()));
                    }
                    (*table, *after) = (*table + 1, None);
                }
                Stage::Content { after, files, at } => {
                    if at.is_none() {
                        *at = files.next().map(|file| (file, 0));
                    }
                    if let Some((file, offset)) = at {
                        match content(&self.volume, *file, *offset)? {
                            Some((next, chunk)) => {
                                *offset = next;
                                return Ok(Some(chunk));
                            }
                            None => *at = None,
                        }
                        continue;
                    }
                    let rows = self.view.scan(Table::Inode, after.as_deref(), ROWS)?;
                    let Some((last, _)) = rows.last() else {
                        self.stage = Stage::Frontiers;
                        continue;
                    };
                    *after = Some(last.clone());
                    let mut regular = Vec::new();
                    for (key, row) in rows {
                        let inode = Inode::decode(row)?;
                        if inode.kind == Kind::Regular && inode.size > 0 {
                            regular.push(FileId(table::read_u64(&key, "an inode's key")?));
                        }
                    }
                    *files = regular.into_iter();
                }
                Stage::Frontiers => {
                    let Some((site, lane, point)) = self.frontiers.pop() else { return Ok(None) };
                    let mut chunk = vec![3];
                    codec::put_u64(&mut chunk, u64::from(site.0));
                    chunk.push(lane as u8);
                    codec::put_u64(&mut chunk, u64::from(point.incarnation.0));
                    codec::put_u64(&mut chunk, point.seq.0);
                    return Ok(Some(chunk.into()));
                }
            }
        }
    }
}

/// The next data of a file from `offset` on, and where to go on. A file that is gone has none: its removal follows.
fn content(volume: &Volume, file: FileId, offset: u64) -> Result<Option<(u64, Bytes)>, FsError> {
    let object = match volume.object(file) {
        Err(FsError::NotFound) => return Ok(None),
        object => object?,
    };
    let _lock = object.read();
    let Some(segment) = DataSegments::new(object.handle(), offset, u64::MAX, CHUNK_BYTES as u64).next() else {
        return Ok(None);
    };
    let (at, len) = segment.map_err(disk("looking for data"))?;
    let mut bytes = vec![0; len as usize];
    let read = object.read_at(at, &mut bytes).map_err(disk("reading an object"))?;
    let mut chunk = vec![2];
    codec::put_u64(&mut chunk, file.0);
    codec::put_u64(&mut chunk, at);
    chunk.put_slice(&bytes[..read]);
    Ok(Some((at + len, chunk.into())))
}

impl Iterator for Snapshot {
    type Item = Result<Bytes, FsError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
