//! A site's rows as of one instant, in chunks: what a joining site and a site that is being levelled get.

use std::sync::Arc;
use std::vec::IntoIter;

use bytes::Bytes;
use proto::hlc::Hlc;
use proto::ids::{FileId, Lane, LanePoint, SiteId};

use super::Chunks;
use super::chunk::{CHUNK_BYTES, Chunk};
use crate::content::holes::DataSegments;
use crate::error::FsError;
use crate::ops::data::disk;
use crate::store::overlay::View;
use crate::store::table::{self, Key, Table};
use crate::volume::{Volume, decode_point};

/// Rows to a chunk.
pub(crate) const ROWS: usize = 512;

/// Rows, clock and frontiers of one instant.
pub(crate) struct Instant {
    pub view: View,
    pub clock: Hlc,
    /// How far every lane has come in the rows, this site's own too.
    pub frontiers: Vec<(SiteId, Lane, LanePoint)>,
}

/// The rows of some tables, table by table, each in the order of its keys.
pub(crate) struct Rows {
    tables: IntoIter<Table>,
    at: Option<(Table, Option<Key>)>,
}

impl Volume {
    /// This instant.
    pub(crate) fn instant(&self) -> Result<Instant, FsError> {
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
        // The other site must not be ahead of what this one finds after a power loss.
        self.wait_durable(lsn)?;
        Ok(Instant { view, clock, frontiers })
    }

    /// This site's state as of now, without content.
    pub fn state(self: &Arc<Self>) -> Result<Chunks, FsError> {
        let Instant { view, clock, frontiers } = self.instant()?;
        // What the receiver needs to judge the rows comes before them.
        let first = frontiers.into_iter().map(|(site, lane, point)| Chunk::Frontier { site, lane, point });
        let first: Vec<_> = std::iter::once(Chunk::Clock(clock)).chain(first).map(|chunk| Ok(chunk.encode())).collect();
        let mut rows = Rows::new(super::TABLES.to_vec());
        let rows = std::iter::from_fn(move || rows.next(&view).transpose());
        Ok(Box::new(first.into_iter().chain(rows).chain(std::iter::once(Ok(Chunk::End.encode())))))
    }

    /// A file's whole content, perhaps newer than the state: the records that made it so follow. A file that is gone has none; its removal follows.
    pub fn content(self: &Arc<Self>, file: FileId) -> Result<Chunks, FsError> {
        let volume = Arc::clone(self);
        let mut next = Some(0);
        Ok(Box::new(std::iter::from_fn(move || {
            let offset = next.take()?;
            Some(match content(&volume, file, offset) {
                Ok(Some((after, chunk))) => {
                    next = Some(after);
                    Ok(chunk)
                }
                Ok(None) => Ok(Chunk::Whole(file).encode()),
                Err(error) => Err(error),
            })
        })))
    }
}

impl Rows {
    pub fn new(tables: Vec<Table>) -> Self {
        let mut tables = tables.into_iter();
        let at = tables.next().map(|table| (table, None));
        Self { tables, at }
    }

    /// The next chunk of rows.
    pub fn next(&mut self, view: &View) -> Result<Option<Bytes>, FsError> {
        while let Some((table, after)) = &mut self.at {
            let mut rows = view.scan(*table, after.as_deref(), ROWS)?;
            let mut bytes = 0;
            let fit = rows.iter().take_while(|(key, value)| {
                let fits = bytes < CHUNK_BYTES;
                bytes += key.len() + value.len();
                fits
            });
            let fit = fit.count();
            rows.truncate(fit);
            if let Some((last, _)) = rows.last() {
                *after = Some(last.clone());
                return Ok(Some(Chunk::Rows { table: *table, rows }.encode()));
            }
            self.at = self.tables.next().map(|table| (table, None));
        }
        Ok(None)
    }
}

/// The next data of a file from `offset` on, and where to go on. `None`: there is no more, or the file is gone.
pub(crate) fn content(volume: &Volume, file: FileId, offset: u64) -> Result<Option<(u64, Bytes)>, FsError> {
    let object = match volume.object(file) {
        Err(FsError::NotFound) => return Ok(None),
        object => object?,
    };
    let _lock = object.read();
    let Some(segment) = DataSegments::new(object.handle(), offset, u64::MAX, CHUNK_BYTES as u64).next() else {
        return Ok(None);
    };
    let (at, len) = segment.map_err(disk("looking for data"))?;
    let bytes = object.read_up_to(at, len as usize).map_err(disk("reading an object"))?;
    Ok(Some((at + len, Chunk::Content { file, offset: at, bytes: bytes.into() }.encode())))
}
