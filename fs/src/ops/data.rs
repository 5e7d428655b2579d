//! Reading and changing content.
//!
//! A write is journalled by value when it is short or overwrites bytes, and by extent when it is long and adds to the end:
//!
//! | | first | then | then |
//! |---|---|---|---|
//! | by value | batch with the bytes appended to the journal | bytes into the object | rows visible |
//! | by extent | bytes into the object, beyond its committed end | batch appended | rows visible |
//!
//! By value, a crash after the first step is completed by recovery. By extent, a crash after the first step leaves bytes
//! beyond the end that no row knows: they are cut when the object is next opened. What [`super::copy`] copies goes as by extent.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use proto::hlc::Stamp;
use proto::ids::FileId;
use proto::record::{ContentChange, Data, Edit, Kind, MAX_DATA_BYTES, Op, Record};

use super::Scope;
use super::attr::without_suid;
use crate::active::By;
use crate::content::object::Object;
use crate::error::FsError;
use crate::pins::Extent;
use crate::store::batch::Effect;
use crate::tree::apply;
use crate::tree::content::size_after;
use crate::txn::{Txn, deps};
use crate::types::{HandleId, Invalidation};
use crate::volume::{ObjectState, Volume};

/// Shorter writes go by value: one flush of the journal then serves many files.
pub(crate) const EXTENT_MIN_BYTES: usize = 64 << 10;

/// Every file system below takes files of this length.
const LONG_BYTES: u64 = 1 << 30;

impl Volume {
    /// Reads up to `len` bytes; fewer at the end of the file.
    pub fn read(&self, handle: HandleId, offset: u64, len: u32) -> Result<Vec<u8>, FsError> {
        let handle = self.handle(handle)?;
        if !handle.flags.read {
            return Err(FsError::BadHandle);
        }
        self.object(handle.file)?.read_up_to(offset, len as usize).map_err(disk("reading an object"))
    }

    /// Writes; an appending handle at the end, whatever the offset. `kill_suid` clears suid and sgid.
    pub fn write(&self, handle: HandleId, offset: u64, data: &[u8], kill_suid: bool) -> Result<u32, FsError> {
        let handle = self.handle(handle)?;
        if !handle.flags.write {
            return Err(FsError::BadHandle);
        }
        // What is refused, or writes nothing, takes no capabilities away.
        if data.is_empty() {
            return Ok(0);
        }
        let first = data.len().min(MAX_DATA_BYTES) as u64;
        if !handle.flags.append {
            check_end(offset.checked_add(first))?;
        }
        self.need_room(first)?;
        self.drop_capabilities(handle.file)?;
        let mut written = 0;
        for piece in data.chunks(MAX_DATA_BYTES) {
            let at = if handle.flags.append { At::End } else { At::Offset(offset + written as u64) };
            // There is room for the first piece.
            let room = if written == 0 { Ok(()) } else { self.need_room(piece.len() as u64) };
            match room.and_then(|()| self.write_piece(handle.file, at, piece, kill_suid)) {
                Ok(()) => written += piece.len(),
                Err(_) if written > 0 => break,
                Err(error) => return Err(error),
            }
        }
        self.answer_noted();
        if handle.flags.sync {
            self.sync_file(handle.file)?;
        }
        Ok(written as u32)
    }

    /// Truncation or a hole. Whether there was anything to change.
    pub(crate) fn edit(&self, file: FileId, edit: Edit, kill_suid: bool) -> Result<bool, FsError> {
        let edited = self.edit_locked(file, edit, kill_suid, false);
        self.answer_noted();
        edited
    }

    /// Makes the file longer, with a hole, unless it is so long already: another writer may have come in between. Whether it did.
    pub(crate) fn grow(&self, file: FileId, size: u64, kill_suid: bool) -> Result<bool, FsError> {
        let grown = self.edit_locked(file, Edit::Truncate { size }, kill_suid, true);
        self.answer_noted();
        grown
    }

    fn edit_locked(&self, file: FileId, edit: Edit, kill_suid: bool, only_longer: bool) -> Result<bool, FsError> {
        check_end(match edit {
            Edit::Truncate { size } | Edit::Replace { size } => Some(size),
            Edit::Punch { offset, len } => offset.checked_add(len),
            Edit::Write { .. } => None,
        })?;
        match self.inode(file)?.kind {
            Kind::Regular => {}
            Kind::Directory => return Err(FsError::IsDirectory),
            _ => return Err(FsError::Invalid("only regular files have a size to set")),
        }
        self.drop_capabilities(file)?;
        let mut attempts = 0;
        let object = self.object(file)?;
        let _lock = loop {
            if let Some(lock) = self.prepare_own(&object, object.write(), &edit, &mut attempts)? {
                break lock;
            }
        };
        // An emptied file does not depend on what stood in it: later it wins over other sites' content whole.
        let edit = if edit == (Edit::Truncate { size: 0 }) { Edit::Replace { size: 0 } } else { edit };
        let txn = Txn::begin(self)?;
        let size = txn.existing(file)?.size;
        let edit = match edit {
            Edit::Punch { offset, len } => {
                let end = (offset + len).min(size);
                if offset >= end {
                    return Ok(false);
                }
                Edit::Punch { offset, len: end - offset }
            }
            Edit::Truncate { size: new } if only_longer && new <= size => return Ok(false),
            other => other,
        };
        self.commit_content(txn, file, &object, edit, kill_suid, None).map(|_| true)
    }

    fn write_piece(&self, file: FileId, at: At, data: &[u8], kill_suid: bool) -> Result<(), FsError> {
        let mut attempts = 0;
        loop {
            let object = self.object(file)?;
            let lock = object.write();
            let size = self.inode(file)?.size;
            let offset = match at {
                At::Offset(offset) => offset,
                At::End => size,
            };
            check_end(offset.checked_add(data.len() as u64))?;
            if data.len() >= EXTENT_MIN_BYTES && offset >= size {
                return self.write_extent(file, &object, size, offset, data, kill_suid);
            }
            let edit = Edit::Write { offset, data: Data::Bytes(Bytes::copy_from_slice(data)) };
            let Some(_lock) = self.prepare_own(&object, lock, &edit, &mut attempts)? else { continue };
            return self.commit_content(Txn::begin(self)?, file, &object, edit, kill_suid, None).map(drop);
        }
    }

    /// The bytes go into the object first, beyond its committed end; flushed before the journal that refers to them.
    fn write_extent(
        &self,
        file: FileId,
        object: &Arc<Object<ObjectState>>,
        size: u64,
        offset: u64,
        data: &[u8],
        kill_suid: bool,
    ) -> Result<(), FsError> {
        let written = object.write_all_at(offset, data).map_err(disk("writing an object"));
        let committed = written.and_then(|()| {
            self.dirty.mark(file, object.handle());
            let edit = Edit::Write { offset, data: Data::Extent(data.len() as u32) };
            self.commit_content(Txn::begin(self)?, file, object, edit, kill_suid, None).map(drop)
        });
        if committed.is_err() {
            self.cut_uncommitted_end(object, size)?;
        }
        committed
    }

    /// Nothing refers to the bytes beyond the end. If they can't be cut now, the site stops: a later write further on would show them.
    pub(super) fn cut_uncommitted_end(&self, object: &Object<ObjectState>, size: u64) -> Result<(), FsError> {
        let cut = object.set_len(size);
        cut.map_err(|error| self.stop_writing("bytes of a failed write could not be cut off", error))
    }

    /// Journals a content change made by this site, `upon` something else too, and makes it. The caller holds the object's lock.
    pub(super) fn commit_content(
        &self,
        txn: Txn<'_>,
        file: FileId,
        object: &Arc<Object<ObjectState>>,
        edit: Edit,
        kill_suid: bool,
        upon: Option<Stamp>,
    ) -> Result<crate::txn::Committed, FsError> {
        let inode = txn.existing(file)?;
        let time = txn.now();
        let mode = Some(without_suid(inode.perms.mode)).filter(|mode| kill_suid && *mode != inode.perms.mode);
        let change = ContentChange { file, base: inode.content, edit, mtime: Some(time), mode, time };
        debug_assert!(self.is_prepared(file, &inode, &change.edit, By::ThisSite));
        let touched = inode.stamps().into_iter().chain(upon);
        let effect = effect_of(&change.edit, inode.size, 0);
        self.make_room(object, inode.size, &change.edit)?;
        let committed = commit_change(txn, change, touched, effect, object)?;
        if mode.is_some() {
            self.invalidate_later(vec![Invalidation::Attr { file }]);
        }
        Ok(committed)
    }

    /// Tries, before the change is journalled, whether the object can be as long as the change makes it: what is journalled and then fails stops
    /// the site. A length without a change is cut when the object is next opened, and hides nothing until then.
    pub(crate) fn make_room(&self, object: &Object<ObjectState>, size: u64, edit: &Edit) -> Result<(), FsError> {
        let after = size_after(size, edit);
        if after <= size
            || after < LONG_BYTES
            || matches!(edit, Edit::Write { data: Data::Extent(_) | Data::Copy(_), .. })
        {
            return Ok(());
        }
        object.set_len(after).map_err(disk("making an object longer"))
    }

    /// Copies the bytes that get a record of their own, and to which unacknowledged records refer, into the journal. They stay in the object: a copy that is
    /// lost is not needed.
    pub(crate) fn copy_to_journal(
        &self,
        txn: &mut Txn<'_>,
        object: &Object<ObjectState>,
        size: u64,
        change: &ContentChange,
    ) -> Result<(), FsError> {
        let range = overwritten(size, &change.edit);
        let pieces = self.pins.lock().overlapping(change.file, range);
        for piece in pieces {
            txn.save_piece(object, change.file, piece)?;
        }
        Ok(())
    }
}

/// Commits a content record with its effect.
pub(crate) fn commit_change(
    mut txn: Txn<'_>,
    change: ContentChange,
    touched: impl IntoIterator<Item = Stamp>,
    effect: Option<Effect>,
    object: &Arc<Object<ObjectState>>,
) -> Result<crate::txn::Committed, FsError> {
    let file = change.file;
    let scope = Scope::of(&txn, &[file])?;
    let touched: Vec<Stamp> = touched.into_iter().collect();
    let lane = scope.lane(&txn, &touched);
    let stamp = txn.next_stamp(lane);
    let deps = deps(stamp.position.site, lane, touched);
    if let Edit::Write { offset, data: data @ (Data::Extent(_) | Data::Copy(_)) } = &change.edit {
        txn.pin(lane, stamp.position.seq, Extent { file, offset: *offset, len: data.len() });
    }
    let op = Op::Content(change);
    apply::apply(&mut txn, stamp, &op).map_err(super::local)?;
    if let Some(effect) = effect {
        txn.effect(file, effect);
    }
    let record = Record { seq: stamp.position.seq, hlc: stamp.hlc, deps, op };
    let objects = BTreeMap::from([(file, Arc::clone(object))]);
    txn.commit_own(lane, &record, &objects)
}

/// What an edit does to the object of a file with `size` bytes; `record` is the index of its record in the batch.
pub(crate) fn effect_of(edit: &Edit, size: u64, record: u32) -> Option<Effect> {
    Some(match edit {
        Edit::Write { offset, data: Data::Bytes(_) } => Effect::Write { offset: *offset, record },
        Edit::Write { offset, data: data @ (Data::Extent(_) | Data::Copy(_)) } => {
            Effect::Extent { offset: *offset, len: data.len() }
        }
        Edit::Truncate { size } => Effect::Truncate { size: *size },
        // A hole that reaches the end frees the last block whole: recovery has to know.
        Edit::Punch { offset, len } if *offset + *len >= size => Effect::Punch { offset: *offset, len: 0 },
        Edit::Punch { offset, len } => Effect::Punch { offset: *offset, len: *len },
        Edit::Replace { size } => Effect::Replace { size: *size },
    })
}

/// The committed bytes that an edit takes away.
pub(crate) fn overwritten(size: u64, edit: &Edit) -> Range<u64> {
    match edit {
        Edit::Write { offset, data } => *offset..(*offset + data.len()).min(size).max(*offset),
        Edit::Punch { offset, len } => *offset..(*offset + *len).min(size).max(*offset),
        Edit::Truncate { size: new } => *new..size.max(*new),
        Edit::Replace { .. } => 0..size,
    }
}

#[derive(Clone, Copy)]
enum At {
    Offset(u64),
    End,
}

/// Files end at 2^63 - 1 at the latest.
pub(super) fn check_end(end: Option<u64>) -> Result<(), FsError> {
    if end.is_some_and(|end| end <= i64::MAX as u64) { Ok(()) } else { Err(FsError::TooLarge) }
}

pub(crate) fn disk(what: &'static str) -> impl FnOnce(std::io::Error) -> FsError {
    move |source| FsError::Disk { what, source }
}
