//! Opening and creating: the volume's handle, and how the kernel may use it.

use std::fs::File;
use std::io;
use std::sync::Arc;

use fuser::BackingId;
use proto::ids::FileId;

use super::convert::OpenHandle;
use super::data;
use super::open_mode::Access;
use super::opening::{Admitted, How, OpenFiles};
use crate::error::FsError;
use crate::types::{Attr, Caller, HandleId, OpenFlags};
use crate::volume::Volume;

/// Opens files: what that needs, to be taken to another thread.
#[derive(Clone)]
pub struct Opener {
    pub(super) volume: Arc<Volume>,
    pub(super) files: Arc<OpenFiles>,
}

impl Opener {
    /// Opens a file that is there. `register` tells the kernel of an object.
    pub fn open_file(
        &self,
        file: FileId,
        flags: i32,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> Result<(OpenHandle, Admitted), FsError> {
        // The kernel empties the file itself, as a change of size, once it knows that nobody runs it.
        let wanted = OpenFlags { truncate: false, ..data::open_flags(flags) };
        let handle = self.volume.open(file, wanted)?;
        let admitted = self.admit(file, handle, flags, register)?;
        Ok((OpenHandle { handle, append: wanted.append, sync: wanted.sync }, admitted))
    }

    /// Creates and opens a file.
    pub fn create_file(
        &self,
        caller: Caller,
        parent: FileId,
        name: &[u8],
        mode: u32,
        flags: i32,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> Result<(Attr, OpenHandle, Admitted), FsError> {
        // There is nothing to truncate in a new file.
        let wanted = OpenFlags { truncate: false, ..data::open_flags(flags) };
        let (attr, handle) = self.volume.create_open(caller, parent, name, mode, wanted)?;
        let admitted = self.admit(attr.file, handle, flags, register)?;
        Ok((attr, OpenHandle { handle, append: wanted.append, sync: wanted.sync }, admitted))
    }

    /// Decides how the kernel does the I/O of the new handle. Without success the handle is released.
    fn admit(
        &self,
        file: FileId,
        handle: HandleId,
        flags: i32,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> Result<Admitted, FsError> {
        let access = data::access(flags);
        // Fetched before the table of open files is locked, since it may open the object.
        let object = self.files.may_register(access).then(|| self.volume.backing_file(handle));
        let how = How { access, waits_at_close: access != Access::Read && self.volume.waits_for_peers(file) };
        let admitted = self.files.admit(file, how, || match object {
            Some(Ok(object)) => register(&object),
            Some(Err(error)) => Err(io::Error::other(error)),
            None => Err(io::Error::other("no object was fetched")),
        });
        if admitted.unseen_writes
            && let Err(error) = self.volume.expect_unseen_writes(handle)
        {
            self.files.release(file);
            self.give_up(handle);
            return Err(error);
        }
        Ok(admitted)
    }

    fn give_up(&self, handle: HandleId) {
        if let Err(error) = self.volume.release(handle) {
            tracing::warn!("a handle whose open failed was not released cleanly: {error}");
        }
    }
}
