//! Changes that shared mappings make to an object without a request to this daemon.
//!
//! A file opened for reading and writing while others read it in passthrough has its mappings on the object itself. Such a file is *watched*: its [`blocks`]
//! are hashed when watching begins, and when a handle is flushed, synced or released, and from time to time, the blocks that differ are journalled as
//! writes. What the daemon itself changes meanwhile is reckoned in and is no difference: journalled again, a peer's bytes would be this site's,
//! and would win over what the peer had written since.
//!
//! A mapping outlives its descriptor and keeps only the object open, not the mount's file: RELEASE comes with the last `close`. So watching goes on until
//! nobody but the daemon has the object open ([`Volume::is_unmapped`]), also beyond the end of a daemon: the file is marked until then.
//!
//! Order of a look, so that no store goes unnoticed: take the change time; flush the object, which write-protects its pages, so that a
//! later store raises the change time; then hash and journal; then remember the change time taken first, unless it is so young that a later store might
//! get the same, or the file system below is not known to raise it.
//!
//! The object's lock is held for some blocks at a time: others' changes of a large file don't wait for all of it.

pub mod blocks;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use proto::ids::FileId;
use proto::record::{ContentChange, Data, Edit, Time};

use self::blocks::{Blocks, Change};
use crate::active::Mark;
use crate::content::holes::DataSegments;
use crate::content::object::Object;
use crate::effects::Content;
use crate::error::FsError;
use crate::ops::data::{commit_change, disk};
use crate::store::batch::Effect;
use crate::store::table::Table;
use crate::txn::Txn;
use crate::types::Invalidation;
use crate::volume::{ObjectState, Volume};

/// Older change times are not given to a later store: the system's clock for them may tick only every 10 ms.
const SETTLED: Duration = Duration::from_millis(100);
/// Looks that nobody asked for take at most one part in so many of the time.
const LOOK_PART: u32 = 10;
/// So many blocks are hashed with the object locked.
const BLOCKS_AT_ONCE: usize = 256;

/// Watched files.
#[derive(Default)]
pub struct Unseen {
    files: Mutex<HashMap<FileId, Watched>>,
    /// Held while watching of a file begins or ends, for its mark.
    turn: Mutex<()>,
}

struct Watched {
    /// Opens that asked for it; none until all is hashed for the first.
    opens: u32,
    /// Held, so that the object is opened once: another handle would look like a mapping.
    object: Arc<Object<ObjectState>>,
    watch: Arc<Mutex<Watch>>,
    /// When the next look that nobody asks for may come.
    due: Instant,
}

/// Locked only under the object's lock.
struct Watch {
    change_time: Option<Time>,
    /// Whether each store into a clean page raises the change time.
    tells_of_stores: bool,
    blocks: Blocks,
}

impl Unseen {
    /// Whether mappings may change the file's object.
    pub fn is_watched(&self, file: FileId) -> bool {
        self.files.lock().contains_key(&file)
    }

    fn watch(&self, file: FileId) -> Option<Arc<Mutex<Watch>>> {
        self.files.lock().get(&file).map(|watched| Arc::clone(&watched.watch))
    }

    /// As [`watch`](Self::watch), once all is hashed.
    fn complete(&self, file: FileId) -> Option<Arc<Mutex<Watch>>> {
        self.files.lock().get(&file).filter(|watched| watched.opens > 0).map(|watched| Arc::clone(&watched.watch))
    }

    /// One more open of a file that is watched.
    fn join(&self, file: FileId) -> bool {
        let mut files = self.files.lock();
        files.get_mut(&file).filter(|watched| watched.opens > 0).map(|watched| watched.opens += 1).is_some()
    }
}

impl Volume {
    /// From now on shared mappings may change the object unseen. As many opens must be given to [`end_unseen_writes`](Self::end_unseen_writes).
    pub fn expect_unseen_writes(&self, file: FileId) -> Result<(), FsError> {
        if self.unseen.join(file) {
            return Ok(());
        }
        let _turn = self.unseen.turn.lock();
        if self.unseen.join(file) {
            return Ok(());
        }
        let object = self.object(file)?;
        let tells_of_stores = object.tells_of_stores().map_err(disk("asking for the file system of an object"))?;
        let watch = Arc::new(Mutex::new(Watch { change_time: None, tells_of_stores, blocks: Blocks::empty() }));
        let watched = Watched { opens: 0, object: Arc::clone(&object), watch: Arc::clone(&watch), due: Instant::now() };
        // From now on changes are followed.
        self.unseen.files.lock().insert(file, watched);
        // Durable before the first mapping: a crash leaves what no hash knows of.
        let begun = self.mark_mapped(file, true).and_then(|()| self.take_all(&object, &watch, |_, _| Ok(())));
        let mut files = self.unseen.files.lock();
        match begun {
            Ok(()) => files.entry(file).and_modify(|watched| watched.opens = 1),
            Err(error) => {
                files.remove(&file);
                return Err(error);
            }
        };
        Ok(())
    }

    /// So many opens are gone, with all mappings that were made through them.
    pub fn end_unseen_writes(&self, file: FileId, opens: u32) -> Result<(), FsError> {
        match self.journal_unseen(file) {
            // Nothing of a file that is gone is shipped.
            Ok(()) | Err(FsError::NotFound) => {}
            // Still watched, and marked: shipped whole after a restart.
            Err(error) => return Err(error),
        }
        let _turn = self.unseen.turn.lock();
        let mut files = self.unseen.files.lock();
        let Some(watched) = files.get_mut(&file) else { return Ok(()) };
        watched.opens = watched.opens.saturating_sub(opens);
        if watched.opens > 0 {
            return Ok(());
        }
        files.remove(&file);
        drop(files);
        if matches!(self.inode(file), Err(FsError::NotFound)) {
            // It was removed meanwhile, and could not be closed.
            self.objects.evict(file);
            return Ok(());
        }
        self.mark_mapped(file, false)
    }

    /// Whether nobody but this daemon has the file's object open: it is not mapped. Where that can't be told, it counts as mapped.
    pub fn is_unmapped(&self, file: FileId) -> bool {
        // Without waiting for a lock: nobody can open a file meanwhile.
        let watched = self.unseen.files.lock().get(&file).map(|watched| Arc::clone(&watched.object));
        let object = watched.map_or_else(|| self.object(file), Ok);
        match object.map(|object| object.is_open_here_only()) {
            Ok(Ok(only)) => only,
            Ok(Err(error)) => {
                tracing::debug!(%file, %error, "whether it is mapped can't be told");
                false
            }
            Err(FsError::NotFound) => true,
            Err(_) => false,
        }
    }

    /// Watched files, with the opens that asked for it.
    pub fn watched_unseen(&self) -> Vec<(FileId, u32)> {
        self.unseen.files.lock().iter().map(|(file, watched)| (*file, watched.opens)).collect()
    }

    /// The kernel reads pages for itself, to splice from a handle for reading and writing (`sendfile`): it asks for them even where reads are
    /// direct, and would show them again when a mapping has stored into the object. They go as soon as they are read: the
    /// kernel holds them locked until the answer, and drops them then.
    pub fn drop_unseen_pages(&self, file: FileId, offset: u64, len: u32) {
        if self.unseen.is_watched(file) {
            self.invalidate_later(vec![Invalidation::Content { file, offset, len: u64::from(len) }]);
        }
    }

    /// Journals what mappings of all watched files have changed, where a look is due.
    pub fn look_for_unseen_writes(&self) {
        for (file, _) in self.watched_unseen() {
            let begin = Instant::now();
            let is_due = self.unseen.files.lock().get(&file).is_some_and(|watched| watched.due <= begin);
            if !is_due || self.check_writable().is_err() {
                continue;
            }
            match self.journal_unseen(file) {
                // Nothing of a file that is gone is shipped.
                Ok(()) | Err(FsError::NotFound) => {}
                Err(error) => tracing::warn!(%file, %error, "what mappings changed is not journalled yet"),
            }
            if let Some(watched) = self.unseen.files.lock().get_mut(&file) {
                watched.due = Instant::now() + begin.elapsed() * LOOK_PART;
            }
        }
    }

    /// Journals what mappings have changed.
    pub(crate) fn journal_unseen(&self, file: FileId) -> Result<(), FsError> {
        let Some(watch) = self.unseen.complete(file) else { return Ok(()) };
        let object = self.object(file)?;
        let change_time = {
            let _lock = object.write();
            let change_time = object.change_time().map_err(disk("stat of an object"))?;
            if watch.lock().change_time == Some(change_time) {
                return Ok(());
            }
            change_time
        };
        let taken = self.now();
        object.handle().sync_data().map_err(disk("flushing an object"))?;
        let mut changed = false;
        let journalled = self.take_all(&object, &watch, |offset, bytes| {
            changed = true;
            // The journal holds them, too.
            self.need_room(bytes.len() as u64)?;
            self.journal_block(file, &object, offset, &bytes)
        });
        if changed {
            self.invalidate_later(vec![Invalidation::Attr { file }]);
        }
        journalled?;
        let _lock = object.write();
        let mut watch = watch.lock();
        // What the daemon has changed since has raised it.
        watch.change_time = Some(change_time).filter(|time| watch.tells_of_stores && is_settled(*time, taken));
        Ok(())
    }

    /// Takes what stands in the object for what is journalled; calls `differs` with blocks that are not as they were, the object and `watch` locked.
    fn take_all(
        &self,
        object: &Object<ObjectState>,
        watch: &Mutex<Watch>,
        mut differs: impl FnMut(u64, Vec<u8>) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        let mut from = Some(0);
        while let Some(next) = from {
            let _lock = object.write();
            let size = object.len().map_err(disk("stat of an object"))?;
            from = watch.lock().blocks.take(size, (next, BLOCKS_AT_ONCE), object, &mut differs)?;
        }
        Ok(())
    }

    /// Makes the effects of a batch on objects, those of watched files reckoned in.
    pub(crate) fn make_effects(&self, content: &Content<'_>, effects: &[(FileId, Effect)]) -> std::io::Result<()> {
        if self.unseen.files.lock().is_empty() {
            return content.make(effects);
        }
        for effect in effects {
            let (file, change) = effect;
            let watch = self.unseen.watch(*file);
            // A look that journals what it found has it locked, and knows.
            if let Some(mut watch) = watch.as_ref().and_then(|watch| watch.try_lock()) {
                watch.change_time = None;
                if let Some(change) = change_of(content, change)? {
                    let object = content.object(*file)?;
                    watch.blocks.follow(change, |offset, len| object.read_up_to(offset, len as usize))?;
                }
            }
            content.make(std::slice::from_ref(effect))?;
        }
        Ok(())
    }

    /// The bytes are in the object and flushed, as those of an extent: recovery must not put older ones in their place. Holes stay holes.
    fn journal_block(
        &self,
        file: FileId,
        object: &Arc<Object<ObjectState>>,
        start: u64,
        block: &[u8],
    ) -> Result<(), FsError> {
        let end = start + block.len() as u64;
        for segment in DataSegments::new(object.handle(), start, end, u64::MAX) {
            let (offset, len) = segment.map_err(disk("looking for data"))?;
            let within = (offset - start) as usize..(offset + len - start) as usize;
            // Refused, the bytes would stay in the object all the same.
            let txn = Txn::begin(self)?.unrefused();
            let inode = txn.existing(file)?;
            let time = txn.now();
            let edit = Edit::Write { offset, data: Data::Bytes(Bytes::copy_from_slice(&block[within])) };
            let change = ContentChange { file, base: inode.content, edit, mtime: Some(time), mode: None, time };
            commit_change(txn, change, inode.stamps(), Some(Effect::Extent { offset, len }), object)?;
        }
        Ok(())
    }

    /// Whether a mark says that the file is mapped.
    pub(crate) fn is_marked_mapped(&self, file: FileId) -> Result<bool, FsError> {
        Ok(self.mark_of(file)?.is_some_and(|mark| mark.mapped))
    }

    /// Files that were mapped when the store was last open, as far as that was told by a mark.
    pub(crate) fn has_mapped_files(&self) -> Result<bool, FsError> {
        Ok(self.rows.scan(Table::Active, b"", None, usize::MAX)?.iter().any(|(_, row)| Mark::decode(row).mapped))
    }
}

/// Levelling copies content after its batch: the next look finds that it differs.
fn change_of<'a>(content: &'a Content<'_>, effect: &Effect) -> std::io::Result<Option<Change<'a>>> {
    Ok(Some(match *effect {
        Effect::Write { offset, record } => Change::Write { offset, bytes: content.bytes(record)? },
        Effect::Extent { offset, len } => Change::Extent { offset, len },
        Effect::Truncate { size } => Change::Truncate { size },
        Effect::Punch { offset, len: 0 } => Change::Punch { offset, len: u64::MAX - offset },
        Effect::Punch { offset, len } => Change::Punch { offset, len },
        Effect::Replace { size } => Change::Replace { size },
        Effect::Adopt { .. } => return Ok(None),
    }))
}

fn is_settled(time: Time, now: Time) -> bool {
    let nanos = |time: Time| i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    nanos(now) - nanos(time) > SETTLED.as_nanos() as i128
}

impl blocks::Bytes for Object<ObjectState> {
    type Error = FsError;

    fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, FsError> {
        self.read_up_to(offset, len as usize).map_err(disk("reading an object"))
    }

    fn next_data(&self, offset: u64) -> Result<Option<u64>, FsError> {
        self.seek_data(offset).map_err(disk("looking for data"))
    }
}
