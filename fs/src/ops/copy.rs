//! Copies between files.
//!
//! A long piece that adds to the end of a file is copied by the file system below (which shares the blocks, if it can), and its record says
//! where the bytes came from instead of having them: [`Data::Copy`]. It is in the journal and in the object what a write by extent is, in the same
//! order ([`super::data`]), and pinned as one ([`crate::pins`]): a peer that doesn't find the bytes in its own copy of the source is
//! shipped them, whatever has become of source and target here since.
//!
//! The hash is of what stands in the target, read back under its lock: whoever changes the source meanwhile, by a mapping too, cannot make
//! the record speak of other bytes than those that are here.
//!
//! All else is read and written.

use proto::hlc::Stamp;
use proto::ids::FileId;
use proto::record::{ContentHash, CopiedRange, Data, Edit, MAX_DATA_BYTES};

use super::Scope;
use super::data::{EXTENT_MIN_BYTES, check_end, disk};
use crate::error::FsError;
use crate::txn::Txn;
use crate::types::HandleId;
use crate::volume::Volume;

impl Volume {
    /// Copies bytes between files, up to where the first one ends when the copy begins; answers how many. `kill_suid` clears suid and sgid of the one
    /// written.
    pub fn copy_range(
        &self,
        from: HandleId,
        from_offset: u64,
        to: HandleId,
        to_offset: u64,
        len: u64,
        kill_suid: bool,
    ) -> Result<u64, FsError> {
        let (source, target) = (self.handle(from)?, self.handle(to)?);
        if !source.flags.read || !target.flags.write {
            return Err(FsError::BadHandle);
        }
        // Within one file the copy would otherwise go on with its own bytes.
        let len = len.min(self.inode(source.file)?.size.saturating_sub(from_offset));
        let below = !target.flags.append;
        let mut copied = 0;
        while copied < len {
            let piece = (len - copied).min(MAX_DATA_BYTES as u64);
            let (at, to_at) = (from_offset.saturating_add(copied), to_offset.saturating_add(copied));
            let done = match below && piece >= EXTENT_MIN_BYTES as u64 {
                true => self.copy_below((source.file, at), (target.file, to_at), piece, kill_suid),
                false => Ok(None),
            };
            let done = match done {
                Ok(None) => self.copy_through((from, at), (to, to_at), piece as u32, kill_suid),
                Ok(Some(bytes)) if target.flags.sync => self.sync_file(target.file).map(|()| bytes),
                Ok(Some(bytes)) => Ok(bytes),
                Err(error) => Err(error),
            };
            match done {
                Ok(0) => break,
                Ok(bytes) => copied += bytes,
                // What was copied counts; the program meets the error when it goes on.
                Err(_) if copied > 0 => break,
                Err(error) => return Err(error),
            }
        }
        self.answer_noted();
        Ok(copied)
    }

    /// Reads and writes.
    fn copy_through(
        &self,
        (from, from_offset): (HandleId, u64),
        (to, to_offset): (HandleId, u64),
        len: u32,
        kill_suid: bool,
    ) -> Result<u64, FsError> {
        let bytes = self.read(from, from_offset, len)?;
        if bytes.is_empty() {
            return Ok(0);
        }
        self.write(to, to_offset, &bytes, kill_suid).map(u64::from)
    }

    /// Copies in the file system below. `None` if it is not for that: nothing has changed then.
    fn copy_below(
        &self,
        (from, from_offset): (FileId, u64),
        (to, to_offset): (FileId, u64),
        len: u64,
        kill_suid: bool,
    ) -> Result<Option<u64>, FsError> {
        // Not under locks: it may wait.
        self.need_room(len)?;
        if self.inode(to)?.size > to_offset {
            return Ok(None);
        }
        self.drop_capabilities(to)?;
        let (source, target) = (self.object(from)?, self.object(to)?);
        // In ascending order. The source stays what its stamp says, so that peers find the same there; right it is without that.
        let _before = (from < to).then(|| source.read());
        let _target = target.write();
        let _after = (from > to).then(|| source.read());
        let (seen, size) = (self.inode(from)?, self.inode(to)?.size);
        let len = len.min(seen.size.saturating_sub(from_offset));
        if len < EXTENT_MIN_BYTES as u64 || to_offset < size {
            return Ok(None);
        }
        check_end(to_offset.checked_add(len))?;
        let mut bytes = vec![0; len as usize];
        let copied = match target.copy_range(to_offset, &source, from_offset, len) {
            Ok(count) if count == len => target.read_exact_at(to_offset, &mut bytes).map_err(disk("reading an object")),
            // Whoever reads and writes meets the error, if it is one.
            _ => {
                self.cut_uncommitted_end(&target, size)?;
                return Ok(None);
            }
        };
        let committed = copied.and_then(|()| {
            self.dirty.mark(to, target.handle());
            let txn = Txn::begin(self)?;
            let (data, upon) = match self.peers_have(&txn, to, seen.content)? {
                Some(upon) => {
                    let hash = ContentHash::of(&bytes);
                    (Data::Copy(CopiedRange { from, offset: from_offset, len: len as u32, hash }), upon)
                }
                None => (Data::Extent(len as u32), None),
            };
            let edit = Edit::Write { offset: to_offset, data };
            self.commit_content(txn, to, &target, edit, kill_suid, upon)
        });
        if let Err(error) = committed {
            self.cut_uncommitted_end(&target, size)?;
            return Err(error);
        }
        Ok(Some(len))
    }

    /// Whether peers have the content with this stamp, or will have it before a record of `to` that is made now, without that record waiting
    /// longer than it would by itself; and what it has to name as what it was made upon for that.
    ///
    /// This site's own content in a slower lane that a connected peer lacks would hold up the record's lane. Another site's content does
    /// not become a condition: a third site may lack it for as long as that one is away, and asks for the bytes instead.
    fn peers_have(&self, txn: &Txn<'_>, to: FileId, content: Stamp) -> Result<Option<Option<Stamp>>, FsError> {
        if content.position.site != self.site() {
            return Ok(Some(None));
        }
        let touched = txn.existing(to)?.stamps();
        let scope = Scope::of(txn, &[to])?;
        let lane = scope.lane(txn, &touched);
        let has = self.acknowledged.least_of_connected(content.position.lane);
        let lacked = content.position.lane > lane && has.is_some_and(|point| point < content.position.point());
        Ok((!lacked).then_some(Some(content)))
    }
}
