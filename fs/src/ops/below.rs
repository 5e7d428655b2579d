//! Which of this site's records a part of the tree rests on: what `syncline wait PATH` waits for.
//!
//! Every thing below a path is kept with the stamp of what last changed it. So the greatest of this site's stamps there, lane by lane, is the last
//! change below the path, and a peer that has applied the lanes up to these positions has all of them: earlier records of a lane come before it,
//! and those of another lane that touched the same thing are among its deps. A removal leaves its stamp with the directory; what a later
//! change in another lane hides of it is among the [`Departures`](super::Departures), as long as those remember it.
//!
//! Not seen are this site's changes that another site's later ones have replaced: nothing of them is left to wait for.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use proto::hlc::Stamp;
use proto::ids::{FileId, Lane, Seq};

use crate::error::FsError;
use crate::store::overlay::View;
use crate::store::table::{self, Key, Table};
use crate::tree::entry::Candidates;
use crate::tree::inode::Inode;
use crate::tree::xattr::Xattr;
use crate::volume::Volume;

/// The last position in each lane, in the order of [`Lane::ALL`].
pub type Positions = [Seq; Lane::ALL.len()];

/// A larger part of the tree is not walked: all records that there are stand for those below it.
const MAX_INODES: usize = 100_000;
/// Rows read at a time.
const ROWS: usize = 1024;

impl Volume {
    /// This site's last change in each lane to what is at `path`, below it, or on the way to it from the root, from which `path` starts. For
    /// the root, and where there is very much below, the heads of the lanes. Reads what is of one instant, and holds no lock meanwhile.
    ///
    /// # Errors
    /// [`FsError::NotFound`] and [`FsError::NotDirectory`], as of a lookup of the path.
    pub fn positions_below(&self, path: &Path) -> Result<Positions, FsError> {
        self.positions_within(path, MAX_INODES)
    }

    fn positions_within(&self, path: &Path, max_inodes: usize) -> Result<Positions, FsError> {
        let heads = Lane::ALL.map(|lane| self.lane_head(lane).appended);
        let mut walk = Walk {
            view: self.rows.view(),
            volume: self,
            last: [Seq::ZERO; Lane::ALL.len()],
            seen: HashSet::new(),
            room: max_inodes,
            pending: Vec::new(),
        };
        let mut names = Vec::new();
        for part in path.components() {
            match part {
                Component::Normal(name) => names.push(name),
                Component::RootDir | Component::CurDir => {}
                Component::ParentDir | Component::Prefix(_) => return Err(FsError::Invalid("a path with `..`")),
            }
        }
        if names.is_empty() {
            return Ok(heads);
        }
        let mut file = FileId::ROOT;
        for name in names {
            file = walk.step(file, name.as_bytes())?;
        }
        walk.visit(file)?;
        while let Some(dir) = walk.pending.pop() {
            if !walk.enter(dir)? {
                return Ok(heads);
            }
        }
        // Records that came back from a peer after this site had lost them have numbers that its journal may not have reached again. The peers
        // that lack them get this site's state, and are beyond the head afterwards.
        let now = Lane::ALL.map(|lane| self.lane_head(lane).appended);
        Ok(std::array::from_fn(|lane| walk.last[lane].min(now[lane])))
    }
}

struct Walk<'a> {
    view: View,
    volume: &'a Volume,
    last: Positions,
    seen: HashSet<FileId>,
    /// As many inodes are visited.
    room: usize,
    /// Directories that have been visited, but not what is in them.
    pending: Vec<FileId>,
}

impl Walk<'_> {
    /// What has the name, and what put it there.
    fn step(&mut self, dir: FileId, name: &[u8]) -> Result<FileId, FsError> {
        if !self.inode(dir)?.ok_or(FsError::NotFound)?.is_dir() {
            return Err(FsError::NotDirectory);
        }
        let row = self.view.get(Table::Name, &table::name_key(dir, name))?.ok_or(FsError::NotFound)?;
        let visible = *Candidates::decode(row)?.visible().ok_or(FsError::NotFound)?;
        self.note(visible.stamp);
        Ok(visible.file)
    }

    /// Everything in a directory. False if there is too much.
    fn enter(&mut self, dir: FileId) -> Result<bool, FsError> {
        let prefix = table::file_key(dir);
        let mut after: Option<Key> = None;
        loop {
            let rows = self.view.scan_prefix(Table::Name, &prefix, after.as_deref(), ROWS)?;
            let Some((last, _)) = rows.last() else { return Ok(true) };
            after = Some(last.clone());
            for (_, row) in rows {
                for candidate in Candidates::decode(row)?.iter() {
                    self.note(candidate.stamp);
                    self.visit(candidate.file)?;
                }
                if self.seen.len() > self.room {
                    return Ok(false);
                }
            }
        }
    }

    /// One inode; once, however many names it has.
    fn visit(&mut self, file: FileId) -> Result<(), FsError> {
        if !self.seen.insert(file) {
            return Ok(());
        }
        let Some(inode) = self.inode(file)? else { return Ok(()) };
        inode.stamps().into_iter().chain([inode.mtime_stamp, inode.whole]).for_each(|stamp| self.note(stamp));
        // The kernel lets an inode have so many only that they are read at once.
        for (_, row) in self.view.scan_prefix(Table::Xattr, &table::file_key(file), None, usize::MAX)? {
            self.note(Xattr::decode(row)?.stamp);
        }
        if inode.is_dir() {
            self.pending.push(file);
            let departed = self.volume.departures.remembered(file).into_iter().flatten();
            self.last.iter_mut().zip(departed).for_each(|(last, point)| *last = point.seq.max(*last));
        }
        Ok(())
    }

    fn inode(&self, file: FileId) -> Result<Option<Inode>, FsError> {
        let row = self.view.get(Table::Inode, &table::file_key(file))?;
        Ok(row.map(Inode::decode).transpose()?)
    }

    fn note(&mut self, stamp: Stamp) {
        let position = stamp.position;
        if position.site == self.volume.site() {
            let last = &mut self.last[position.lane as usize];
            *last = position.seq.max(*last);
        }
    }
}

#[cfg(test)]
#[path = "below_tests.rs"]
mod tests;
