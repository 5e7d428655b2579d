//! Reads batches back: one by its place, or the own batches of a lane in order.

use std::sync::Arc;

use bytes::Bytes;
use proto::ids::{Incarnation, Lane, Seq};

use super::cursors::Cursor;
use super::error::ReadError;
use super::file::LiveFile;
use super::footer::{Point, Points};
use super::format::{BATCHES_AT, BatchHeader, BatchKind};
use super::lsn::Lsn;
use super::recent::Begin;
use super::scan::FileScan;
use super::shared::Shared;
use super::writer::Location;

/// A read that passes this much of other batches looks where its lane goes on.
const JUMP_AFTER_BYTES: u64 = 32 << 10;

/// Up to where a lane is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadEnd {
    /// What survives power loss.
    Durable,
    /// What survives the process.
    Appended,
}

/// A batch as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnedBatch {
    /// All but the body.
    pub header: BatchHeader,
    /// Table puts.
    pub state: Bytes,
    /// Encoded records.
    pub records: Bytes,
    /// Where it stands.
    pub location: Location,
}

/// An own batch of a lane, without its table puts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnBatch {
    /// Its number in the journal.
    pub lsn: Lsn,
    /// The incarnation that made its records.
    pub incarnation: Incarnation,
    /// Its first record.
    pub first_seq: Seq,
    /// Its last record.
    pub last_seq: Seq,
    /// Bytes of the lane's records up to and with it, since the site began.
    pub lane_bytes: u64,
    /// Its encoded records.
    pub records: Bytes,
    /// Where it stands.
    pub location: Location,
}

/// Part of a file that may be read.
struct FileView {
    live: Arc<LiveFile>,
    /// Where its batches end.
    end: u64,
    /// Its last batch; for the active file, no bound.
    last_lsn: Lsn,
    /// Where its points are: at hand for the active file, in the footer of a full one.
    point: Option<Point>,
}

impl Shared {
    /// The batch at a place.
    pub fn read_at(&self, location: Location) -> Result<OwnedBatch, ReadError> {
        let Location { generation, offset } = location;
        let gone = ReadError::Gone { generation, offset };
        let Some(view) = self.file_from(generation).filter(|view| view.live.header.generation == generation) else {
            return Err(gone);
        };
        let unreadable = ReadError::Unreadable { file: view.live.on_disk.path.clone(), offset };
        if let Some((mut scan, header)) = FileScan::one(view.live, view.end, offset)?
            && let (Some(state), Some(records)) = (scan.state(&header)?, scan.records(&header)?)
        {
            return Ok(OwnedBatch { header, state, records, location });
        }
        Err(if generation < self.oldest_generation() { gone } else { unreadable })
    }

    /// Own batches of the lane that hold records after `after`, in order, up to `end`; at least one if there is one, and no more
    /// once they have `limit_bytes` of records.
    ///
    /// The cost does not grow with what stands between them: where other batches go on for longer than the points are apart, the points say
    /// where the lane goes on, and files without a record of the lane are left out.
    pub fn read_lane(
        &self,
        lane: Lane,
        after: Seq,
        limit_bytes: usize,
        end: ReadEnd,
    ) -> Result<Vec<OwnBatch>, ReadError> {
        let (until, head) = match end {
            ReadEnd::Durable => {
                let state = self.commit.state.lock();
                (state.durable, state.heads.get(lane))
            }
            ReadEnd::Appended => {
                let writer = self.writer.lock();
                (writer.appended, writer.heads.get(lane))
            }
        };
        let (mut batches, mut bytes) = (Vec::new(), 0);
        let mut at = (after, 0);
        if after >= head.seq {
            return Ok(batches);
        }
        let mut walk = self.walk(lane, after, until)?;
        let (mut passed_bytes, mut jump_after) = (0, JUMP_AFTER_BYTES);
        while at.0 < head.seq && (batches.is_empty() || bytes < limit_bytes) {
            let next_file = walk.is_at_end_of_file();
            if next_file || passed_bytes > jump_after {
                // Where there is no better place in this file, the next record is no further than the points are apart.
                jump_after = if walk.jump(at.0)? || next_file { JUMP_AFTER_BYTES } else { u64::MAX };
                passed_bytes = 0;
            }
            let Some(header) = walk.peek()? else { break };
            passed_bytes += header.total_bytes();
            if header.kind == BatchKind::Own && header.lane == lane && header.last_seq > after {
                (passed_bytes, jump_after) = (0, JUMP_AFTER_BYTES);
                let Some(records) = walk.scan.records(&header)? else { return Err(walk.lost()) };
                bytes += records.len();
                at = (header.last_seq, header.lane_bytes);
                batches.push(OwnBatch {
                    lsn: header.lsn,
                    incarnation: header.incarnation,
                    first_seq: header.first_seq,
                    last_seq: header.last_seq,
                    lane_bytes: header.lane_bytes,
                    records,
                    location: walk.location(),
                });
            }
            walk.scan.skip(&header);
        }
        if !batches.is_empty() {
            self.remember(&walk, at.0, at.1);
        }
        Ok(batches)
    }

    /// Bytes of the lane's records up to and with `seq`, since the site began; when `seq` is inside a batch, up to the
    /// batch before.
    pub fn lane_bytes_at(&self, lane: Lane, seq: Seq) -> Result<u64, ReadError> {
        let (appended, head) = {
            let writer = self.writer.lock();
            (writer.appended, writer.heads.get(lane))
        };
        if seq >= head.seq {
            return Ok(head.lane_bytes);
        }
        if let Some(cursor) = self.cursors.lock().find(lane, seq) {
            return Ok(cursor.lane_bytes);
        }
        let mut walk = self.walk(lane, seq, appended)?;
        let mut bytes = walk.lane_bytes;
        // A walk begins at the last point before the next record: that is at most as far away as the points are from each other.
        while let Some(header) = walk.peek()? {
            if header.kind == BatchKind::Own && header.lane == lane {
                if header.last_seq > seq {
                    break;
                }
                bytes = header.lane_bytes;
            }
            walk.scan.skip(&header);
        }
        self.remember(&walk, seq, bytes);
        Ok(bytes)
    }

    /// Starts at the latest known place that has no record of the lane after `after` before it; ends behind `until`.
    fn walk(&self, lane: Lane, after: Seq, until: Lsn) -> Result<Walk<'_>, ReadError> {
        let cursor = self.cursors.lock().find(lane, after);
        let (view, recent) = self.file_of(lane, after)?;
        let recent = recent.map(|begin| Cursor {
            lane,
            seq: begin.before,
            lane_bytes: begin.lane_bytes,
            location: begin.location,
            lsn: begin.lsn,
        });
        let cursor = [cursor, recent].into_iter().flatten().max_by_key(|cursor| cursor.lsn);
        let start = view.live.header;
        let cursor = cursor.filter(|cursor| cursor.location.generation >= start.generation);
        let point = match (view.point, cursor) {
            (Some(point), _) => Some(point),
            (None, Some(_)) => None,
            (None, None) => self.points(&view)?.last_where(|point| point.heads.get(lane).seq <= after).copied(),
        };
        let first = Point { offset: BATCHES_AT, lsn: start.first_lsn, heads: start.heads };
        let point = point.unwrap_or(first);
        let (scan, last_lsn, lane_bytes) = match cursor {
            Some(cursor) if cursor.lsn > point.lsn => {
                let generation = cursor.location.generation;
                let view = self.file_from(generation).filter(|view| view.live.header.generation == generation);
                let Some(view) = view else { return Err(self.truncated(lane, after)) };
                let scan = FileScan::at(view.live, view.end, cursor.location.offset, cursor.lsn);
                (scan, view.last_lsn, cursor.lane_bytes)
            }
            _ => {
                let scan = FileScan::at(view.live, view.end, point.offset, point.lsn);
                (scan, view.last_lsn, point.heads.get(lane).lane_bytes)
            }
        };
        Ok(Walk { shared: self, lane, after, scan, last_lsn, until, lane_bytes })
    }

    fn remember(&self, walk: &Walk<'_>, seq: Seq, lane_bytes: u64) {
        let cursor = Cursor { lane: walk.lane, seq, lane_bytes, location: walk.location(), lsn: walk.scan.lsn() };
        self.cursors.lock().put(cursor);
    }

    /// The last file before which the lane has no record after `after`, and the batch that goes on from there if it is one of the latest.
    fn file_of(&self, lane: Lane, after: Seq) -> Result<(FileView, Option<Begin>), ReadError> {
        let writer = self.writer.lock();
        let floor = writer.oldest().header.heads.get(lane).seq;
        if after < floor {
            return Err(ReadError::Truncated { lane, after, floor });
        }
        let recent = writer.recent.find(lane, after);
        let active = &writer.active;
        if active.live.header.heads.get(lane).seq <= after {
            let point = active.points.last_where(|point| point.heads.get(lane).seq <= after).copied();
            let first =
                Point { offset: BATCHES_AT, lsn: active.live.header.first_lsn, heads: active.live.header.heads };
            let (live, point) = (active.live.clone(), Some(point.unwrap_or(first)));
            return Ok((FileView { live, end: active.tail, last_lsn: Lsn(u64::MAX), point }, recent));
        }
        let behind = writer.sealed.partition_point(|file| file.live.header.heads.get(lane).seq <= after);
        let file = &writer.sealed[behind.saturating_sub(1)];
        Ok((FileView { live: file.live.clone(), end: u64::MAX, last_lsn: file.last_lsn, point: None }, recent))
    }

    /// The first live file of at least this generation.
    fn file_from(&self, generation: u64) -> Option<FileView> {
        let writer = self.writer.lock();
        let index = writer.sealed.partition_point(|file| file.live.header.generation < generation);
        if let Some(file) = writer.sealed.get(index) {
            return Some(FileView { live: file.live.clone(), end: u64::MAX, last_lsn: file.last_lsn, point: None });
        }
        let active = &writer.active;
        (active.live.header.generation >= generation).then(|| FileView {
            live: active.live.clone(),
            end: active.tail,
            last_lsn: Lsn(u64::MAX),
            point: None,
        })
    }

    fn oldest_generation(&self) -> u64 {
        self.writer.lock().oldest().header.generation
    }

    fn truncated(&self, lane: Lane, after: Seq) -> ReadError {
        let floor = self.writer.lock().oldest().header.heads.get(lane).seq;
        ReadError::Truncated { lane, after, floor }
    }

    /// The points of a full file, from its footer or, if that is lost, from its batches.
    fn points(&self, view: &FileView) -> Result<Points, ReadError> {
        let (live, last_lsn) = (&view.live, view.last_lsn);
        let footer_at = live.batches_end();
        let mut bytes = vec![0; (live.on_disk.file_bytes - footer_at) as usize];
        live.on_disk.read(&mut bytes, footer_at)?;
        if let Some(points) = Points::decode(&bytes, last_lsn, live.seed) {
            return Ok(points);
        }
        tracing::info!(file = %live.on_disk.path.display(), "rebuilding the footer of a journal file");
        let mut points = Points::default();
        let mut heads = live.header.heads;
        let mut scan = FileScan::new(live.clone(), view.end);
        while scan.lsn() <= last_lsn {
            let Some(header) = scan.peek()? else {
                let Some(_) = self.file_from(live.header.generation).filter(|now| now.last_lsn == last_lsn) else {
                    return Err(ReadError::Gone { generation: live.header.generation, offset: scan.offset() });
                };
                return Err(scan.damaged().into());
            };
            points.note(Point { offset: scan.offset(), lsn: header.lsn, heads });
            header.advance(&mut heads);
            scan.skip(&header);
        }
        // If the file was recycled meanwhile this footer is not valid in its new use, and is overwritten when that ends.
        live.on_disk.write(&points.encode(last_lsn, live.seed), footer_at).map_err(ReadError::from)?;
        Ok(points)
    }
}

/// Goes from batch to batch and from file to file.
struct Walk<'a> {
    shared: &'a Shared,
    lane: Lane,
    after: Seq,
    scan: FileScan,
    /// Of the file that is walked.
    last_lsn: Lsn,
    until: Lsn,
    /// Of the lane, where the walk starts.
    lane_bytes: u64,
}

impl Walk<'_> {
    fn is_at_end_of_file(&self) -> bool {
        self.scan.lsn() > self.last_lsn
    }

    /// Leaves out what has no record of the lane after `seq`, up to which it was read. False where there is nothing to leave out.
    fn jump(&mut self, seq: Seq) -> Result<bool, ReadError> {
        let further = self.shared.walk(self.lane, seq, self.until)?;
        let is_further = further.scan.lsn() > self.scan.lsn();
        if is_further {
            (self.scan, self.last_lsn) = (further.scan, further.last_lsn);
        }
        Ok(is_further)
    }

    /// The next batch's header; `None` at the end.
    fn peek(&mut self) -> Result<Option<BatchHeader>, ReadError> {
        if self.scan.lsn() > self.until {
            return Ok(None);
        }
        if self.is_at_end_of_file() {
            let next = self.shared.file_from(self.scan.file().header.generation + 1);
            let Some(next) = next.filter(|next| next.live.header.first_lsn == self.scan.lsn()) else {
                return Err(self.lost());
            };
            self.last_lsn = next.last_lsn;
            self.scan = FileScan::new(next.live, next.end);
        }
        match self.scan.peek()? {
            Some(header) => Ok(Some(header)),
            None => Err(self.lost()),
        }
    }

    fn location(&self) -> Location {
        Location { generation: self.scan.file().header.generation, offset: self.scan.offset() }
    }

    /// Why the batch that must be here is not: recycled under the reader, or damaged.
    fn lost(&self) -> ReadError {
        if self.scan.file().header.generation < self.shared.oldest_generation() {
            self.shared.truncated(self.lane, self.after)
        } else {
            self.scan.damaged().into()
        }
    }
}
