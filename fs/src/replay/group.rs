//! Applies a peer's records, a group to a batch.
//!
//! A group is applied whole or not at all, together with the lane's frontier; so after a crash the peer's records go on exactly where
//! the rows end. Writes are journalled as local ones: by value, but by extent when they are long and beyond the file's end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use proto::hlc::Stamp;
use proto::ids::{FileId, Incarnation, Lane, LanePoint, Position, Seq, SiteId};
use proto::record::{ContentChange, Data, Edit, Kind, Op, Record};

use super::ahead::Ahead;
use super::second_look::PATIENCE;
use super::{ReplayError, Replayed};
use crate::active::By;
use crate::content::object::Object;
use crate::error::FsError;
use crate::ops::data::{EXTENT_MIN_BYTES, disk, effect_of};
use crate::overwrite::ATTEMPTS;
use crate::peers::Frontier;
use crate::store::batch::Effect;
use crate::store::table::{self, Table};
use crate::tree::apply::{self, ApplyError};
use crate::tree::content::Decision;
use crate::txn::{Committed, Txn};
use crate::volume::{ObjectState, Volume, decode_point};

/// Bounds of a group: the writer's lock is held for it.
const GROUP_RECORDS: usize = 256;
const GROUP_BYTES: u64 = 1 << 20;

struct Group {
    committed: Committed,
    applied: usize,
    stopped: Option<ReplayError>,
}

impl Volume {
    /// Applies consecutive records of a peer's lane. Those at or below the frontier were sent twice and are passed over.
    pub fn replay(&self, origin: SiteId, incarnation: Incarnation, lane: Lane, records: &[Record]) -> Replayed {
        if lane == Lane::Sync {
            self.sync_in_use.note();
        }
        let mut lsn = self.journal.appended();
        let mut stopped = None;
        let frontier = self.frontier(origin, lane);
        let point = |record: &Record| LanePoint { incarnation, seq: record.seq };
        let mut rest = &records[records.partition_point(|record| point(record) <= frontier)..];
        while !rest.is_empty() && stopped.is_none() {
            match self.replay_group(origin, incarnation, lane, rest) {
                Ok(group) => {
                    lsn = group.committed.appended.lsn;
                    self.invalidate_replayed(lsn, group.committed.invalidations);
                    rest = &rest[group.applied..];
                    stopped = group.stopped;
                }
                Err(error) => stopped = Some(error),
            }
        }
        self.refresh_sync_roots();
        self.answer_replayed();
        Replayed { applied: self.frontier(origin, lane), lsn, stopped }
    }

    /// The last position of the lane applied here.
    pub fn frontier(&self, origin: SiteId, lane: Lane) -> LanePoint {
        let row = self.rows.get(Table::Frontier, &table::lane_key(origin, lane));
        match row.map(|row| row.map(decode_point)) {
            Ok(Some(Ok(point))) => point,
            Ok(None) => LanePoint::START,
            Ok(Some(Err(error))) => {
                tracing::error!(%origin, %lane, %error, "a frontier cannot be read");
                LanePoint::START
            }
            Err(error) => {
                tracing::error!(%origin, %lane, %error, "a frontier cannot be read");
                LanePoint::START
            }
        }
    }

    fn replay_group(
        &self,
        origin: SiteId,
        incarnation: Incarnation,
        lane: Lane,
        records: &[Record],
    ) -> Result<Group, ReplayError> {
        if origin == self.site() {
            let seq = records[0].seq;
            return Err(ReplayError::Refused { seq, why: "it claims to be this site's own".into() });
        }
        let copied;
        let records = match records {
            [record, ..] if record.copied().is_some() => {
                copied = [self.with_copied((origin, incarnation, lane), record.clone())?];
                &copied[..]
            }
            _ => first_group(records),
        };
        let made = self.make_group(origin, incarnation, lane, records, Instant::now() + PATIENCE, 0);
        let applied = made.as_ref().map_or(0, |group| group.applied);
        // Once the site has stopped, what did not become visible may be journalled.
        if applied < records.len() && self.check_writable().is_ok() {
            self.remove_uncreated(&records[applied..])?;
        }
        made
    }

    fn make_group(
        &self,
        origin: SiteId,
        incarnation: Incarnation,
        lane: Lane,
        records: &[Record],
        patience: Instant,
        attempts: usize,
    ) -> Result<Group, ReplayError> {
        self.second_looks.wait(records, patience);
        if self.is_held(origin, lane) {
            return Err(ReplayError::Levelling);
        }
        // A full disk stops the lane, visibly, until there is room again.
        self.need_room(records.iter().map(Record::data_len).sum())?;
        self.prepare_overwritten(records)?;
        let made = {
            let objects = self.objects_of(records)?;
            let _locks: Vec<_> = objects.values().map(|object| object.write()).collect();
            if attempts > ATTEMPTS {
                let changes = records.iter().filter_map(content);
                let edits = changes.filter_map(|change| Some((objects.get(&change.file)?, &change.edit)));
                self.prepare_peers_locked(edits)?;
            }
            let mut ahead = Ahead::default();
            let made = match self.write_ahead((origin, incarnation, lane), records, &objects) {
                Ok(written) => {
                    ahead = written;
                    self.make_locked((origin, incarnation, lane), records, &objects, &mut ahead, patience)
                }
                Err(error) => Err(error.into()),
            };
            let complete = ahead.is_used() && matches!(made, Ok(Made::Group(_)));
            // Once the site has stopped, what did not become visible may be journalled, and recovery counts on its bytes.
            if !complete && self.check_writable().is_ok() {
                self.cut_uncommitted(&objects)?;
            }
            made?
        };
        match made {
            Made::Group(group) => Ok(group),
            Made::Again => self.make_group(origin, incarnation, lane, records, patience, attempts + 1),
            Made::OnlyFirst(count) => self.make_group(origin, incarnation, lane, &records[..count], patience, attempts),
        }
    }

    /// Under the locks of the objects.
    fn make_locked(
        &self,
        (origin, incarnation, lane): (SiteId, Incarnation, Lane),
        records: &[Record],
        objects: &BTreeMap<FileId, Arc<Object<ObjectState>>>,
        ahead: &mut Ahead,
        patience: Instant,
    ) -> Result<Made, ReplayError> {
        let txn = Txn::begin(self)?;
        // Under the writer's lock nobody begins one.
        if self.second_looks.concern(records) && Instant::now() < patience {
            return Ok(Made::Again);
        }
        // Under the writer's lock nobody begins to hold it.
        if self.is_held(origin, lane) {
            return Err(ReplayError::Levelling);
        }
        let frontier = self.frontier(origin, lane);
        let first = Position { site: origin, incarnation, lane, seq: records[0].seq };
        // Where a higher incarnation begins, the caller has checked against the origin's history.
        let expected = if incarnation > frontier.incarnation { first.seq } else { frontier.seq.next() };
        if first.seq != expected || incarnation < frontier.incarnation {
            return Err(ReplayError::Gap { expected, got: first.seq });
        }
        let mut making =
            Making { txn, objects, ahead, journalled: Vec::new(), pending: BTreeSet::new(), void: BTreeSet::new() };
        let mut stopped = None;
        let mut applied = 0;
        for (record, expected) in records.iter().zip(first.seq.0..) {
            if record.seq.0 != expected {
                stopped = Some(ReplayError::Gap { expected: Seq(expected), got: record.seq });
                break;
            }
            let position = Position { seq: record.seq, ..first };
            match making.record(position, record) {
                Ok(Step::Applied) => applied += 1,
                // Nothing has been done yet; the next attempt finds what another lane has made.
                Ok(Step::NextGroup) if applied == 0 => return Ok(Made::Again),
                Ok(Step::NextGroup) => break,
                // What the record left in the transaction's rows is not to be committed.
                Err(error) if applied == 0 => return Err(error),
                Err(error) => {
                    stopped = Some(error);
                    break;
                }
            }
        }
        if matches!(stopped, Some(ReplayError::Refused { .. } | ReplayError::Fs(_))) {
            // The failed record may have changed rows: apply those before it alone.
            return Ok(Made::OnlyFirst(applied));
        }
        let Record { seq: last, hlc, .. } = records[applied - 1];
        let Making { mut txn, journalled, .. } = making;
        let point = LanePoint { incarnation, seq: last };
        txn.put(Table::Frontier, table::lane_key(origin, lane), Frontier { origin, lane, point, hlc }.encode());
        let committed = txn.commit_replayed(first, last, &journalled, objects)?;
        Ok(Made::Group(Group { committed, applied, stopped }))
    }

    /// Long writes of records that were not committed left bytes beyond the ends of objects: a later write further on would show them.
    fn cut_uncommitted(&self, objects: &BTreeMap<FileId, Arc<Object<ObjectState>>>) -> Result<(), FsError> {
        for (file, object) in objects {
            let size = self.size_or_none(*file)?;
            let cut = object.len().and_then(|len| if len > size { object.set_len(size) } else { Ok(()) });
            if let Err(error) = cut {
                return Err(self.stop_writing("bytes of a record that failed could not be cut off", error));
            }
        }
        Ok(())
    }

    /// Objects were opened for files that these records did not create. They may never be created here: a peer's state may come instead of the records.
    fn remove_uncreated(&self, records: &[Record]) -> Result<(), FsError> {
        for record in records {
            if let Op::Create { file, kind: Kind::Regular, .. } = &record.op
                && matches!(self.inode(*file), Err(FsError::NotFound))
            {
                self.remove_object(*file).map_err(disk("removing an object"))?;
            }
        }
        Ok(())
    }

    /// Prepares the objects of which the group overwrites committed bytes, with one flush for all.
    fn prepare_overwritten(&self, records: &[Record]) -> Result<(), FsError> {
        let mut edits = Vec::new();
        for change in records.iter().filter_map(content) {
            match self.inode(change.file) {
                Ok(inode) if !self.is_prepared(change.file, &inode, &change.edit, By::Peers) => {
                    edits.push((change.file, &change.edit));
                }
                Ok(_) | Err(FsError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        self.prepare_peers(edits)
    }

    /// The objects of the files whose content the group changes, of those that are here or that it creates.
    fn objects_of(&self, records: &[Record]) -> Result<BTreeMap<FileId, Arc<Object<ObjectState>>>, FsError> {
        let mut objects = BTreeMap::new();
        let mut created = BTreeSet::new();
        for record in records {
            if let Op::Create { file, .. } = &record.op {
                created.insert(*file);
            }
            let Some(change) = content(record) else { continue };
            if objects.contains_key(&change.file) {
                continue;
            }
            let object = if created.contains(&change.file) {
                self.finish_removal(change.file)?;
                self.objects.get(change.file).map_err(disk("opening an object"))?
            } else {
                match self.object(change.file) {
                    Err(FsError::NotFound) => continue,
                    object => object?,
                }
            };
            objects.insert(change.file, object);
        }
        Ok(objects)
    }
}

/// What came of the attempt to make a group.
enum Made {
    Group(Group),
    /// Nothing: it needs objects that were not looked for, or a program looks again at what it changes.
    Again,
    /// Nothing: only so many of its records can be made.
    OnlyFirst(usize),
}

enum Step {
    Applied,
    /// The record must see the effects of those before it in the object, or an object that this group did not find or prepare.
    NextGroup,
}

/// A group's transaction, being made.
struct Making<'a> {
    txn: Txn<'a>,
    objects: &'a BTreeMap<FileId, Arc<Object<ObjectState>>>,
    ahead: &'a mut Ahead,
    /// Records whose bytes the batch carries.
    journalled: Vec<Record>,
    /// Files with effects that are made only at the commit.
    pending: BTreeSet<FileId>,
    /// Files in whose objects bytes stand of a record that has lost.
    void: BTreeSet<FileId>,
}

impl Making<'_> {
    fn record(&mut self, position: Position, record: &Record) -> Result<Step, ReplayError> {
        let now_ms = self.txn.volume.now_ms();
        if let Some(dep) = record.deps.iter().find(|dep| !self.txn.volume.is_applied(**dep, position)) {
            return Err(ReplayError::MissingDep(*dep));
        }
        // Those bytes are cut off after this group.
        if content(record).is_some_and(|change| self.void.contains(&change.file)) {
            return Ok(Step::NextGroup);
        }
        let inode = content(record).and_then(|change| self.txn.inode(change.file).transpose()).transpose()?;
        // Another lane, or another site's, has made the file since the objects were looked for.
        if inode.is_some() && content(record).is_some_and(|change| !self.objects.contains_key(&change.file)) {
            return Ok(Step::NextGroup);
        }
        let size = inode.map_or(0, |inode| inode.size);
        // A program has changed the file meanwhile. What the group itself has put there is committed with it, and needs nothing.
        if let Some(change) = content(record).filter(|change| self.objects.contains_key(&change.file)) {
            let volume = self.txn.volume;
            let committed = volume.inode(change.file);
            if committed.is_ok_and(|inode| !volume.is_prepared(change.file, &inode, &change.edit, By::Peers)) {
                return Ok(Step::NextGroup);
            }
        }
        let long = is_extent(record, size);
        if long && content(record).is_some_and(|change| self.pending.contains(&change.file)) {
            return Ok(Step::NextGroup);
        }
        if record.extent_len() > 0 || record.copied().is_some() {
            return Err(ReplayError::Refused { seq: record.seq, why: "its bytes did not come with it".into() });
        }
        self.txn.clock().observe(record.hlc, now_ms)?;
        let stamp = Stamp { hlc: record.hlc, position };
        let decision = apply::apply(&mut self.txn, stamp, &record.op).map_err(|error| match error {
            ApplyError::Refused(why) => ReplayError::Refused { seq: record.seq, why },
            ApplyError::Fs(error) => ReplayError::Fs(error),
        })?;
        if let (Decision::Make, Some(change)) = (decision, content(record)) {
            self.make(record, change, size, long)?;
        } else if let Some(change) = content(record)
            && self.ahead.has(record.seq)
        {
            self.void.insert(change.file);
        }
        Ok(Step::Applied)
    }

    fn make(&mut self, record: &Record, change: &ContentChange, size: u64, long: bool) -> Result<(), FsError> {
        let file = change.file;
        let object = self.objects.get(&file).ok_or_else(|| FsError::Damaged(format!("no object for file {file}")))?;
        let volume = self.txn.volume;
        volume.make_room(object, size, &change.edit)?;
        if let (true, Edit::Write { offset, data: Data::Bytes(bytes) }) = (long, &change.edit) {
            if !self.ahead.take(record.seq) {
                object.write_all_at(*offset, bytes).map_err(disk("writing an object"))?;
                volume.dirty.mark(file, object.handle());
            }
            self.txn.effect(file, Effect::Extent { offset: *offset, len: bytes.len() as u64 });
            return Ok(());
        }
        if let Some(effect) = effect_of(&change.edit, size, self.journalled.len() as u32) {
            if matches!(effect, Effect::Write { .. }) {
                self.journalled.push(record.clone());
            }
            self.pending.insert(file);
            self.txn.effect(file, effect);
        }
        Ok(())
    }
}

/// Whether the record's bytes go into the object before the batch is journalled: many bytes beyond the end. Never in place: a crash before the
/// batch would leave a later state of the file than all else shows, and unsaved bytes of an extent would be lost.
fn is_extent(record: &Record, size: u64) -> bool {
    match content(record).map(|change| &change.edit) {
        Some(Edit::Write { offset, data: Data::Bytes(bytes) }) => bytes.len() >= EXTENT_MIN_BYTES && *offset >= size,
        _ => false,
    }
}

pub(super) fn content(record: &Record) -> Option<&ContentChange> {
    match &record.op {
        Op::Content(change) => Some(change),
        _ => None,
    }
}

/// Up to a copy, which is looked for when all before it is applied.
fn first_group(records: &[Record]) -> &[Record] {
    let mut bytes = 0;
    let of_group = records.iter().take(GROUP_RECORDS).take_while(|record| record.copied().is_none());
    let fits = of_group.take_while(|record| {
        let first = bytes == 0;
        bytes += record.data_len() + 1;
        first || bytes <= GROUP_BYTES
    });
    &records[..fits.count()]
}
