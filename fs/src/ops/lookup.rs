//! Operations that change nothing.

use bytes::Bytes;
use proto::ids::FileId;
use proto::name::Name;
use proto::record::Kind;

use crate::error::FsError;
use crate::store::table::{self, Table};
use crate::tree::entry::{Candidates, Entry};
use crate::tree::inode::Inode;
use crate::types::{Attr, DirEntry, StatFs};
use crate::volume::Volume;

/// Up to this size the blocks of a file are reckoned from its size; beyond, holes matter and the object is asked.
const RECKONED_BYTES: u64 = 64 << 10;
const BLOCK_BYTES: u64 = 4096;

impl Volume {
    /// The inode that has the name.
    pub fn lookup(&self, parent: FileId, name: &[u8]) -> Result<Attr, FsError> {
        if name.len() > Name::MAX_BYTES {
            return Err(FsError::NameTooLong);
        }
        let row = self.rows.get(Table::Name, &table::name_key(parent, name))?.ok_or(FsError::NotFound)?;
        let candidates = Candidates::decode(row)?;
        let visible = candidates.visible().ok_or(FsError::NotFound)?;
        self.getattr(visible.file)
    }

    /// An inode's attributes.
    pub fn getattr(&self, file: FileId) -> Result<Attr, FsError> {
        let inode = self.inode(file)?;
        let blocks = match inode.kind {
            Kind::Regular if inode.size > RECKONED_BYTES => {
                let object = self.objects.find(file).and_then(|object| object.map_or(Ok(0), |object| object.blocks()));
                object.map_err(|source| FsError::Disk { what: "stat of an object", source })?
            }
            Kind::Regular => inode.size.div_ceil(BLOCK_BYTES) * (BLOCK_BYTES / 512),
            Kind::Directory => BLOCK_BYTES / 512,
            _ => 0,
        };
        Ok(inode.attr(file, blocks))
    }

    /// A symbolic link's target.
    pub fn readlink(&self, file: FileId) -> Result<Bytes, FsError> {
        match self.inode(file)?.kind {
            Kind::Symlink(target) => Ok(target),
            _ => Err(FsError::Invalid("not a symbolic link")),
        }
    }

    /// All entries of a directory as of now, without `.` and `..`.
    pub fn list(&self, dir: FileId) -> Result<Vec<DirEntry>, FsError> {
        if !self.inode(dir)?.is_dir() {
            return Err(FsError::NotDirectory);
        }
        let rows = self.rows.scan(Table::Name, &table::file_key(dir), None, usize::MAX)?;
        let mut entries = Vec::with_capacity(rows.len());
        for (key, row) in rows {
            let candidates = Candidates::decode(row)?;
            if let Some(visible) = candidates.visible() {
                entries.push(DirEntry { name: table::name_of_key(&key)?, file: visible.file, kind: visible.kind });
            }
        }
        Ok(entries)
    }

    /// The directory that holds `dir`; the root holds itself.
    pub fn parent(&self, dir: FileId) -> Result<FileId, FsError> {
        let Some(id) = self.inode(dir)?.entry else { return Ok(FileId::ROOT) };
        let row = self.rows.get(Table::Entry, &table::entry_key(id))?.ok_or(FsError::NotFound)?;
        Ok(Entry::decode(row)?.parent)
    }

    /// Space, as the file system below has it.
    pub fn statfs(&self) -> Result<StatFs, FsError> {
        let stat = rustix::fs::statvfs(self.store_path())
            .map_err(|error| FsError::Disk { what: "statfs of the store", source: error.into() })?;
        Ok(StatFs {
            block_bytes: u32::try_from(stat.f_frsize).unwrap_or(4096),
            blocks: stat.f_blocks,
            free: stat.f_bfree,
            available: stat.f_bavail,
            files: stat.f_files,
            files_free: stat.f_ffree,
        })
    }

    /// An inode that must be there.
    pub(crate) fn inode(&self, file: FileId) -> Result<Inode, FsError> {
        let row = self.rows.get(Table::Inode, &table::file_key(file))?.ok_or(FsError::NotFound)?;
        Ok(Inode::decode(row)?)
    }
}
