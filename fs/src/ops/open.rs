//! Open files.
//!
//! An inode without a name lives on while a handle or the kernel refers to it. The object of an open file is opened with its first use.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use parking_lot::Mutex;
use proto::ids::FileId;
use proto::record::{Edit, Kind};

use crate::content::object::Object;
use crate::error::FsError;
use crate::types::{HandleId, OpenFlags};
use crate::volume::{ObjectState, Volume};

/// Who holds inodes: open handles, and the kernel by number.
#[derive(Default)]
pub struct Holders {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    handles: HashMap<HandleId, Arc<Handle>>,
    /// Open handles by file.
    opens: HashMap<FileId, u32>,
    /// References of the kernel by file.
    lookups: HashMap<FileId, u64>,
}

/// One open of a file.
pub struct Handle {
    /// The file.
    pub file: FileId,
    /// How it was opened.
    pub flags: OpenFlags,
}

impl Holders {
    fn open(&self, file: FileId, flags: OpenFlags) -> HandleId {
        let mut inner = self.inner.lock();
        inner.next += 1;
        let id = HandleId(inner.next);
        inner.handles.insert(id, Arc::new(Handle { file, flags }));
        *inner.opens.entry(file).or_default() += 1;
        id
    }

    fn close(&self, id: HandleId) -> Option<Arc<Handle>> {
        let mut inner = self.inner.lock();
        let handle = inner.handles.remove(&id)?;
        if let Some(opens) = inner.opens.get_mut(&handle.file) {
            *opens -= 1;
            if *opens == 0 {
                inner.opens.remove(&handle.file);
            }
        }
        Some(handle)
    }

    fn get(&self, id: HandleId) -> Option<Arc<Handle>> {
        self.inner.lock().handles.get(&id).cloned()
    }

    /// Whether a handle of the file is open.
    pub fn is_open(&self, file: FileId) -> bool {
        self.inner.lock().opens.contains_key(&file)
    }

    /// Whether the file is open or known to the kernel.
    pub fn hold(&self, file: FileId) -> bool {
        let inner = self.inner.lock();
        inner.opens.contains_key(&file) || inner.lookups.contains_key(&file)
    }
}

impl Volume {
    /// The kernel holds one more reference on the inode.
    pub fn remember(&self, file: FileId) {
        *self.holders.inner.lock().lookups.entry(file).or_default() += 1;
    }

    /// The kernel drops `count` references.
    pub fn forget(&self, file: FileId, count: u64) {
        let mut inner = self.holders.inner.lock();
        if let Some(lookups) = inner.lookups.get_mut(&file) {
            *lookups = lookups.saturating_sub(count);
            if *lookups == 0 {
                inner.lookups.remove(&file);
                drop(inner);
                self.end_unseen(file);
                self.reclaim_if_gone(file);
            }
        }
    }

    /// The mount has ended: the kernel holds nothing any more.
    pub fn forget_all(&self) {
        self.holders.inner.lock().lookups.clear();
        self.end_all_unseen();
        self.reclaim_unheld();
    }

    /// Opens a regular file.
    pub fn open(&self, file: FileId, flags: OpenFlags) -> Result<HandleId, FsError> {
        // The handle comes first: from now on the file is held, and is not reclaimed under the look at it.
        let handle = self.holders.open(file, flags);
        let opened = self.check_open(file, flags);
        if opened.is_err() {
            self.holders.close(handle);
            self.reclaim_if_gone(file);
        }
        opened.map(|()| handle)
    }

    fn check_open(&self, file: FileId, flags: OpenFlags) -> Result<(), FsError> {
        let mut inode = self.inode(file)?;
        if inode.nlink == 0 {
            // It may be being reclaimed by one who looked for holders before: under the writer's lock that is done, or not begun.
            let _writer = self.writer.lock();
            inode = self.inode(file)?;
        }
        match inode.kind {
            Kind::Regular => {}
            Kind::Directory => return Err(FsError::IsDirectory),
            _ => return Err(FsError::NotSupported("only regular files have content")),
        }
        // Emptied also where it is opened for reading only: the kernel has asked whether the caller may write.
        if flags.write || flags.truncate {
            self.check_writable()?;
            self.check_writer(&self.policies_of(file)?)?;
        }
        if flags.truncate {
            // Programs' truncations come as `setattr`, which knows the caller.
            self.edit(file, Edit::Truncate { size: 0 }, false)?;
            self.settle_size(file)?;
        }
        Ok(())
    }

    /// The object behind the handle, open for reading and writing, for passthrough.
    pub fn backing_file(&self, handle: HandleId) -> Result<Arc<File>, FsError> {
        Ok(Arc::clone(self.object(self.handle(handle)?.file)?.handle()))
    }

    /// From now on shared mappings may change the object unseen; see [`crate::unseen`].
    pub fn expect_unseen_writes(&self, handle: HandleId) -> Result<(), FsError> {
        self.watch_unseen(self.handle(handle)?.file)
    }

    /// `close` of one descriptor: what mappings wrote is journalled.
    pub fn flush(&self, handle: HandleId) -> Result<(), FsError> {
        let handle = self.handle(handle)?;
        if !handle.flags.write {
            return Ok(());
        }
        self.journal_unseen(handle.file)?;
        self.settle_file(handle.file)
    }

    /// Everything written to the file so far survives power loss.
    pub fn fsync(&self, handle: HandleId) -> Result<(), FsError> {
        let handle = self.handle(handle)?;
        self.journal_unseen(handle.file)?;
        self.sync_file(handle.file)
    }

    /// Everything done in the directory so far survives power loss.
    pub fn fsyncdir(&self, dir: FileId) -> Result<(), FsError> {
        self.sync_file(dir)
    }

    /// The last descriptor of the open is gone; and the last mapping, unless it is of the object.
    pub fn release(&self, handle: HandleId) -> Result<(), FsError> {
        let held = self.handle(handle)?;
        let journalled = if held.flags.write { self.journal_unseen(held.file) } else { Ok(()) };
        self.holders.close(handle);
        if !self.holders.is_open(held.file) {
            self.end_unseen(held.file);
            self.reclaim_if_gone(held.file);
        }
        journalled
    }

    /// An open handle.
    pub(crate) fn handle(&self, handle: HandleId) -> Result<Arc<Handle>, FsError> {
        self.holders.get(handle).ok_or(FsError::BadHandle)
    }

    /// The object of a file, as long as the inode says.
    ///
    /// A crash may have left bytes beyond the end (an extent whose record was never written) or a size not made: it is set right before the first
    /// use, under the object's lock, so no write in flight is cut.
    pub(crate) fn object(&self, file: FileId) -> Result<Arc<Object<ObjectState>>, FsError> {
        let disk = |source| FsError::Disk { what: "opening an object", source };
        let object = match self.objects.find(file).map_err(disk)? {
            Some(object) => object,
            // Not without an inode: nothing would ever remove it.
            None => {
                self.inode(file)?;
                self.objects.get(file).map_err(disk)?
            }
        };
        if !object.read().checked {
            let mut state = object.write();
            let size = self.inode(file)?.size;
            if object.len().map_err(disk)? != size {
                object.set_len(size).map_err(disk)?;
            }
            state.checked = true;
        }
        Ok(object)
    }
}
