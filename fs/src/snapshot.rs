//! A copy of this site's state for a site that joins: rows, content, and how far every lane has come in them.
//!
//! The chunks are those of [`crate::level`]: the clock first, then rows, content, and the frontiers last.
//!
//! Rows are of one instant. Content is read after it, so it may be newer than its rows: the records that made it so come after the frontier, and
//! replaying them leads to the same bytes again. A crash before [`Volume::finish_snapshot`] leaves a store that is marked as incomplete.

use std::sync::Arc;

use bytes::Bytes;
use proto::ids::FileId;
use proto::record::Kind;

use crate::error::FsError;
use crate::level::chunk::Chunk;
use crate::level::state::{Instant, ROWS, Rows, content};
use crate::meta;
use crate::ops::data::disk;
use crate::store::table::{self, Key, Table};
use crate::tree::inode::Inode;
use crate::txn::Txn;
use crate::volume::{Volume, encode_point};

/// What belongs to the tree. Everything else is this site's own affair.
const TABLES: [Table; 6] = [Table::Inode, Table::Entry, Table::Name, Table::Xattr, Table::Garbage, Table::Link];

/// The chunks of a snapshot, in order.
pub struct Snapshot {
    volume: Arc<Volume>,
    instant: Instant,
    stage: Stage,
}

enum Stage {
    Clock,
    Rows(Rows),
    Content { after: Option<Key>, files: std::vec::IntoIter<FileId>, at: Option<(FileId, u64)> },
    Frontiers,
}

impl Volume {
    /// Begins a snapshot of now.
    pub fn snapshot(self: &Arc<Self>) -> Result<Snapshot, FsError> {
        Ok(Snapshot { volume: Arc::clone(self), instant: self.instant()?, stage: Stage::Clock })
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
        match Chunk::decode(chunk)? {
            Chunk::Rows { table, rows } => {
                if !TABLES.contains(&table) {
                    return Err(FsError::Damaged(format!("a snapshot has rows of table {table:?}")));
                }
                let mut txn = Txn::begin(self)?;
                rows.into_iter().for_each(|(key, value)| txn.put(table, key, value));
                txn.commit_state().map(drop)
            }
            Chunk::Content { file, offset, bytes } => {
                let object = self.object(file)?;
                let _lock = object.write();
                // What lies beyond the size of the inode's row belongs to records that follow.
                let size = self.inode(file)?.size;
                let fits = size.saturating_sub(offset).min(bytes.len() as u64) as usize;
                object.write_all_at(offset, &bytes[..fits]).map_err(disk("writing an object"))?;
                self.dirty.mark(file, object.handle());
                Ok(())
            }
            Chunk::Frontier { site, lane, point } => {
                let mut txn = Txn::begin(self)?;
                txn.put(Table::Frontier, table::lane_key(site, lane), encode_point(point));
                txn.commit_state().map(drop)
            }
            // What is done here from now on is later than everything in the snapshot.
            Chunk::Clock(hlc) => {
                let mut txn = Txn::begin(self)?;
                let now_ms = self.now_ms();
                txn.clock().observe(hlc, now_ms).map_err(|drift| FsError::Damaged(drift.to_string()))?;
                txn.commit_state().map(drop)
            }
            Chunk::Whole(_) | Chunk::End => Err(FsError::Damaged("a snapshot has a chunk of an unknown kind".into())),
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
        let view = &self.instant.view;
        loop {
            match &mut self.stage {
                Stage::Clock => {
                    self.stage = Stage::Rows(Rows::new(TABLES.to_vec()));
                    return Ok(Some(Chunk::Clock(self.instant.clock).encode()));
                }
                Stage::Rows(rows) => match rows.next(view)? {
                    Some(chunk) => return Ok(Some(chunk)),
                    None => self.stage = Stage::Content { after: None, files: Vec::new().into_iter(), at: None },
                },
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
                    let rows = view.scan(Table::Inode, after.as_deref(), ROWS)?;
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
                    let next = self.instant.frontiers.pop();
                    return Ok(next.map(|(site, lane, point)| Chunk::Frontier { site, lane, point }.encode()));
                }
            }
        }
    }
}

impl Iterator for Snapshot {
    type Item = Result<Bytes, FsError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
