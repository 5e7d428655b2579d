//! Brings a store up after any end.
//!
//! 1. The journal's batches after the checkpoint are read in order; their rows go in front of redb again.
//! 2. The objects that these batches changed are made right: see [`crate::content::redo`].
//! 3. After a power loss (another boot, and no clean end) the objects marked active may hold bytes without a record, or lack a truncated end: they are cut or
//!    taken as they are, and their content is shipped whole. See [`crate::active`].
//! 4. Answers to peers that were noted but not made are made.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use proto::codec::Reader;
use proto::ids::FileId;
use proto::record::{Edit, MAX_DATA_BYTES, Record};

use crate::active::MAPPED;
use crate::content::holes::DataSegments;
use crate::content::objects::Found;
use crate::content::range_set::RangeSet;
use crate::content::redo;
use crate::error::FsError;
use crate::journal::{BatchKind, Lsn, Recovered};
use crate::level::staged::StageId;
use crate::ops::data::disk;
use crate::pins::{Extent, SavedRange};
use crate::store::batch::{Effect, State};
use crate::store::table::{self, Repair, Table};
use crate::tree::apply::note_repair;
use crate::txn::Txn;
use crate::volume::Volume;

impl Volume {
    /// Steps 1 and 2.
    pub(crate) fn redo_journal(&self, recovered: Recovered) -> Result<(), FsError> {
        let mut edits: BTreeMap<FileId, Vec<Journalled>> = BTreeMap::new();
        let mut batches = 0u64;
        let mut gone = BTreeSet::new();
        for batch in recovered {
            let batch = batch.map_err(|error| FsError::Damaged(error.to_string()))?;
            batches += 1;
            let state = State::decode(batch.state)?;
            {
                let mut writer = self.writer.lock();
                let hlc = writer.clock.last().max(state.hlc);
                writer.clock = proto::hlc::Clock::new(hlc, self.options.max_clock_drift);
                writer.next_file = writer.next_file.max(state.next_file);
            }
            if batch.header.kind != BatchKind::Saved {
                let records = decode_records(batch.records)?;
                for (file, effect) in state.effects {
                    let edits = edits.entry(file).or_default();
                    match effect {
                        Effect::Adopt { size, stage } => {
                            self.adopt_again(edits, size, StageId(stage), batch.header.lsn)?
                        }
                        effect => edits.push(journalled(effect, &records)?),
                    }
                }
            }
            for put in state.puts.iter().filter(|put| put.table == Table::Inode && put.value.is_none()) {
                gone.insert(FileId(table::read_u64(&put.key, "an inode's key")?));
            }
            self.rows.publish(state.puts);
        }
        self.staged.remove_others().map_err(disk("listing staged files"))?;
        // The crash may have come between the batch and the removal of the object.
        for file in gone {
            self.remove_object(file).map_err(disk("removing an object"))?;
        }
        let files = edits.len();
        for (file, edits) in edits {
            self.redo_object(file, edits)?;
        }
        if batches > 0 {
            tracing::info!(batches, files, "recovered from the journal");
        }
        Ok(())
    }

    fn redo_object(&self, file: FileId, edits: Vec<Journalled>) -> Result<(), FsError> {
        let size = match self.inode(file) {
            Ok(inode) => inode.size,
            // Removed and reclaimed since: its object is gone or going.
            Err(FsError::NotFound) => {
                return self.remove_object(file).map_err(disk("removing an object"));
            }
            Err(error) => return Err(error),
        };
        let object = self.objects.get(file).map_err(disk("opening an object"))?;
        let mut state = object.write();
        let sources = edits.iter().enumerate().map(|(index, edit)| edit.edit(index));
        let plan = redo::plan(sources.collect::<Vec<_>>(), size);
        let bytes = |write: &redo::Rewrite<usize>| edits[write.source].read(write.source_offset, write.len);
        plan.run(&object, bytes).map_err(|error| FsError::Damaged(error.to_string()))?;
        state.checked = true;
        Ok(())
    }

    /// After a power loss: the objects of files whose creation was lost with the end of the journal. Their ids are given again, and [`redo`] counts on
    /// it that an object shows nothing that its file never had.
    pub(crate) fn remove_orphans(&self) -> Result<(), FsError> {
        let mut orphans = Vec::new();
        for found in self.objects_dir.list().map_err(disk("listing the objects"))? {
            if let Found::Object(file) = found.map_err(disk("listing the objects"))?
                && self.rows.get(Table::Inode, &table::file_key(file))?.is_none()
            {
                orphans.push(file);
            }
        }
        for file in &orphans {
            self.remove_object(*file).map_err(disk("removing an object"))?;
        }
        if !orphans.is_empty() {
            tracing::info!(objects = orphans.len(), "removed the objects of files whose creation was lost");
        }
        Ok(())
    }

    /// Content from a staged file: to an object the same as a replacement and writes by value.
    fn adopt_again(&self, edits: &mut Vec<Journalled>, size: u64, stage: StageId, lsn: Lsn) -> Result<(), FsError> {
        let handle = Arc::new(self.staged.reopen(stage, lsn).map_err(disk("opening a staged file"))?);
        edits.push(Journalled { effect: Effect::Replace { size }, bytes: Source::Batch(Bytes::new()) });
        for segment in DataSegments::new(&handle, 0, size, MAX_DATA_BYTES as u64) {
            let (offset, len) = segment.map_err(disk("looking for data"))?;
            let bytes = Source::Staged(Arc::clone(&handle), len);
            edits.push(Journalled { effect: Effect::Write { offset, record: 0 }, bytes });
        }
        Ok(())
    }

    /// Unacknowledged extents, for [`crate::pins`].
    pub(crate) fn load_pins(&self) -> Result<(), FsError> {
        let mut pins = self.pins.lock();
        for (key, row) in self.rows.scan(Table::Extent, b"", None, usize::MAX)? {
            let (lane, seq) = table::extent_of_key(&key)?;
            let mut saved = RangeSet::new();
            for (key, row) in self.rows.scan(Table::Saved, &key, None, usize::MAX)? {
                let offset = table::saved_offset_of_key(&key)?;
                saved.insert(offset..offset + SavedRange::decode(&row)?.len);
            }
            pins.load(lane, seq, Extent::decode(&row)?, &saved);
        }
        Ok(())
    }

    /// Step 3.
    pub(crate) fn settle_active(&self, power_lost: bool, clean: bool) -> Result<(), FsError> {
        let mut files = Vec::new();
        for (key, row) in self.rows.scan(Table::Active, b"", None, usize::MAX)? {
            let file = FileId(table::read_u64(&key, "an active object")?);
            self.active.load([file]);
            if power_lost || (!clean && row == MAPPED) {
                files.push(file);
            }
        }
        for file in files {
            let Ok(inode) = self.inode(file) else { continue };
            let object = self.objects.get(file).map_err(disk("opening an object"))?;
            let len = object.len().map_err(disk("stat of an object"))?;
            if len < inode.size {
                // A truncation reached the disk and its record did not: it counts as done.
                object.write().checked = true;
                self.edit(file, Edit::Truncate { size: len }, false)?;
            }
            let mut txn = Txn::begin(self)?;
            note_repair(&mut txn, Repair::Rewrite(file));
            txn.commit_state()?;
        }
        Ok(())
    }
}

fn decode_records(bytes: Bytes) -> Result<Vec<Record>, FsError> {
    let mut reader = Reader::new(bytes);
    let mut records = Vec::new();
    while reader.remaining() > 0 {
        records.push(Record::decode(&mut reader)?);
    }
    Ok(records)
}

/// One effect of a batch, with its bytes where they are not in the object.
struct Journalled {
    effect: Effect,
    bytes: Source,
}

/// Where the bytes of a write are.
enum Source {
    /// In the batch.
    Batch(Bytes),
    /// In a staged file, where they go in the object: so many.
    Staged(Arc<File>, u64),
}

impl Journalled {
    fn read(&self, from: u64, len: u64) -> std::io::Result<Bytes> {
        match (&self.bytes, &self.effect) {
            (Source::Staged(handle, _), Effect::Write { offset, .. }) => {
                let mut bytes = vec![0; len as usize];
                handle.read_exact_at(&mut bytes, offset + from)?;
                Ok(bytes.into())
            }
            (Source::Batch(bytes), _) => Ok(bytes.slice(from as usize..(from + len) as usize)),
            (Source::Staged(..), _) => Ok(Bytes::new()),
        }
    }

    fn len(&self) -> u64 {
        match &self.bytes {
            Source::Batch(bytes) => bytes.len() as u64,
            Source::Staged(_, len) => *len,
        }
    }

    fn edit(&self, source: usize) -> redo::Edit<usize> {
        match self.effect {
            Effect::Write { offset, .. } => redo::Edit::Write { offset, len: self.len(), source },
            Effect::Extent { offset, len } => redo::Edit::Extent { offset, len },
            Effect::Truncate { size } => redo::Edit::Truncate { size },
            Effect::Punch { offset, len: 0 } => redo::Edit::Punch { offset, len: u64::MAX },
            Effect::Punch { offset, len } => redo::Edit::Punch { offset, len },
            Effect::Replace { size } | Effect::Adopt { size, .. } => redo::Edit::Replace { size },
        }
    }
}

fn journalled(effect: Effect, records: &[Record]) -> Result<Journalled, FsError> {
    let bytes = match effect {
        Effect::Write { record, .. } => {
            let bytes = records.get(record as usize).and_then(Record::bytes).cloned();
            bytes.ok_or_else(|| FsError::Damaged("a batch lacks the bytes of its effect".into()))?
        }
        _ => Bytes::new(),
    };
    Ok(Journalled { effect, bytes: Source::Batch(bytes) })
}
