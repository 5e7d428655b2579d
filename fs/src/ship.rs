//! This site's own records, as peers get them: in order, with all their bytes, or where a peer has them; durable here, but for the sync lane.

use bytes::{Bytes, BytesMut};
use proto::codec::Reader;
use proto::hlc::Hlc;
use proto::ids::{Incarnation, Lane, Seq};
use proto::record::{CopiedRange, Data, Edit, Op, Record};

use crate::error::FsError;
use crate::journal::{BatchKind, Location, ReadEnd, ReadError};
use crate::ops::data::disk;
use crate::pins::SavedRange;
use crate::policy::Compress;
use crate::store::table::{self, Table};
use crate::volume::Volume;

/// How records are shipped whose bytes were copied from a file that peers have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Copies {
    /// As what they are: see [`Data::Copy`].
    ByReference,
    /// With their bytes, for who has others there.
    ByValue,
}

/// A record ready to ship: no bytes by extent.
#[derive(Clone, Debug)]
pub struct ShipRecord {
    /// The record.
    pub record: Record,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Bytes of records in this lane up to and with this one, since the site began.
    pub lane_bytes: u64,
    /// What the policy of the directory says.
    pub compress: Compress,
}

/// How far a lane has come here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneHead {
    /// The last record journalled.
    pub appended: Seq,
    /// The last record that survives power loss.
    pub durable: Seq,
    /// Bytes of records up to `appended`, since the site began.
    pub lane_bytes: u64,
}

impl LaneHead {
    /// Up to where the lane may be shipped: the sync lane ships while it flushes, since its writers wait for both.
    pub fn shippable(&self, lane: Lane) -> Seq {
        if lane == Lane::Sync { self.appended } else { self.durable }
    }
}

/// What a peer lacks of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backlog {
    /// Records.
    pub records: u64,
    /// Bytes of records.
    pub bytes: u64,
    /// The clock reading of the oldest.
    pub oldest: Option<Hlc>,
}

/// Why a lane cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadLaneError {
    /// The journal has dropped them.
    #[error("the records after {after} of lane {lane} are no longer in the journal")]
    Truncated {
        /// The lane.
        lane: Lane,
        /// The last record that the reader has.
        after: Seq,
    },
    /// The store failed.
    #[error(transparent)]
    Fs(#[from] FsError),
}

impl Volume {
    /// How far a lane of this site has come.
    pub fn lane_head(&self, lane: Lane) -> LaneHead {
        let durable = self.journal.durable_lane_head(lane).seq;
        let head = self.journal.lane_head(lane);
        LaneHead { appended: head.seq, durable, lane_bytes: head.lane_bytes }
    }

    /// Shippable records after `after`, in order; at least one if there is one, about `limit_bytes` at most.
    ///
    /// In the sync lane these are all that are appended. A record is in the journal a moment before its rows are visible; what shipping needs of them
    /// is there before: bytes by value are in the record, bytes by extent or copy in the object, and who reads them waits for the object's lock,
    /// which the writer holds until it is done.
    pub fn read_lane(
        &self,
        lane: Lane,
        after: Seq,
        limit_bytes: usize,
        copies: Copies,
    ) -> Result<Vec<ShipRecord>, ReadLaneError> {
        let batches = self.journal.read_lane(lane, after, limit_bytes, read_end(lane));
        let batches = batches.map_err(|error| read_error(error, lane, after))?;
        let mut records = Vec::new();
        let mut bytes = 0;
        for batch in batches {
            let mut reader = Reader::new(batch.records);
            while reader.remaining() > 0 {
                let record = Record::decode(&mut reader).map_err(FsError::from)?;
                if record.seq <= after {
                    continue;
                }
                let record = self.with_bytes(lane, record, copies)?;
                bytes += record.bytes().map_or(0, |bytes| bytes.len() as u64);
                let compress = self.compress(&record)?;
                let (incarnation, lane_bytes) = (batch.incarnation, batch.lane_bytes);
                records.push(ShipRecord { record, incarnation, lane_bytes, compress });
            }
            // Bytes by extent do not count in the journal's own limit.
            if bytes >= limit_bytes as u64 {
                break;
            }
        }
        Ok(records)
    }

    /// What a peer lacks that has acknowledged up to `acknowledged`.
    pub fn backlog(&self, lane: Lane, acknowledged: Seq) -> Result<Backlog, ReadLaneError> {
        let head = self.lane_head(lane);
        if acknowledged >= head.appended {
            return Ok(Backlog { records: 0, bytes: 0, oldest: None });
        }
        let has =
            self.journal.lane_bytes_at(lane, acknowledged).map_err(|error| read_error(error, lane, acknowledged))?;
        let oldest = match self.journal.read_lane(lane, acknowledged, 1, read_end(lane)) {
            Ok(batches) => match batches.into_iter().next() {
                Some(batch) => Some(Record::decode(&mut Reader::new(batch.records)).map_err(FsError::from)?.hlc),
                // Not durable yet: made within the last flush interval.
                None => Some(Hlc::from_ms(self.now_ms())),
            },
            Err(error) => return Err(read_error(error, lane, acknowledged)),
        };
        Ok(Backlog { records: head.appended.0 - acknowledged.0, bytes: head.lane_bytes.saturating_sub(has), oldest })
    }

    /// What the policy of the most urgent place says of the content. The rest is short, and goes as it comes.
    fn compress(&self, record: &Record) -> Result<Compress, FsError> {
        let Op::Content(change) = &record.op else { return Ok(Compress::Auto) };
        Ok(self.policies_of(change.file)?.first().map_or(Compress::Auto, |effective| effective.policy.compress))
    }

    /// Fills in the bytes of an extent, or of a copy: from the object, and from the journal where the object's have been overwritten since.
    fn with_bytes(&self, lane: Lane, mut record: Record, copies: Copies) -> Result<Record, FsError> {
        let Op::Content(change) = &mut record.op else { return Ok(record) };
        let Edit::Write { offset, data } = &mut change.edit else { return Ok(record) };
        let len = match data {
            Data::Extent(len) => *len,
            Data::Copy(CopiedRange { len, .. }) if copies == Copies::ByValue => *len,
            Data::Copy(_) | Data::Bytes(_) => return Ok(record),
        };
        let object = self.object(change.file)?;
        let mut bytes = BytesMut::zeroed(len as usize);
        // Under the lock nobody overwrites the object, and what was overwritten before has been saved.
        let lock = object.read();
        let saved = self.rows.scan(Table::Saved, &table::extent_key(lane, record.seq), None, usize::MAX)?;
        let read = object.read_at(*offset, &mut bytes).map_err(disk("reading an object"))?;
        drop(lock);
        let mut missing = read as u64..u64::from(len);
        for (key, row) in saved.into_iter().rev() {
            let at = table::saved_offset_of_key(&key)?.saturating_sub(*offset);
            let kept = self.saved_bytes(SavedRange::decode(&row)?.location)?;
            let end = at + kept.len() as u64;
            let place = bytes.get_mut(at as usize..end as usize);
            place
                .ok_or_else(|| FsError::Damaged(format!("saved bytes of record {} do not fit", record.seq)))?
                .copy_from_slice(&kept);
            if end >= missing.end {
                missing.end = missing.end.min(at);
            }
        }
        if missing.start < missing.end {
            let why = format!("the object of file {} lacks bytes of record {}", change.file, record.seq);
            return Err(FsError::Damaged(why));
        }
        *data = Data::Bytes(bytes.freeze());
        Ok(record)
    }

    fn saved_bytes(&self, location: Location) -> Result<Bytes, FsError> {
        let batch = self.journal.read_at(location).map_err(|error| FsError::Damaged(error.to_string()))?;
        if batch.header.kind != BatchKind::Saved {
            return Err(FsError::Damaged(format!("no saved bytes at {location:?} of the journal")));
        }
        Ok(batch.records)
    }
}

/// See [`LaneHead::shippable`].
fn read_end(lane: Lane) -> ReadEnd {
    if lane == Lane::Sync { ReadEnd::Appended } else { ReadEnd::Durable }
}

pub(crate) fn read_error(error: ReadError, lane: Lane, after: Seq) -> ReadLaneError {
    match error {
        ReadError::Truncated { .. } => ReadLaneError::Truncated { lane, after },
        other => ReadLaneError::Fs(FsError::Damaged(other.to_string())),
    }
}
