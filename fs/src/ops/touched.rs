//! What an operation is made upon: the stamps of the things that it touches.
//!
//! They do two things. Those of other sites and other lanes become the record's `deps`, so that no site applies it before them. And a record
//! follows, in their lane, those of this site's own that a peer still lacks: see [`Scope::lane`].
//!
//! What each operation touches, so that a replica that has its record never shows a state that was not, whatever lanes the parts went in:
//!
//! | operation | touches | or else |
//! |---|---|---|
//! | every one in a directory | that it is there, where its last move put it, and who may enter it | the name appears at the old place; what a `chmod` hid is seen |
//! | change of a file (content, attributes, xattrs) | all other attributes of the file and its content | data before the `chmod` that guards it; `chmod` before the data that it publishes |
//! | `link`, `rename` of a file | the whole file: content, attributes, xattrs | a name before what it publishes |
//! | `rename` of a directory | all that is below it, and all that was taken out of it; the moves of the directories above its new place | as above; a directory below itself, out of reach, until the other move comes |
//! | `unlink`, replacing | the entries as they were seen, their files' content, the file's other names | a file that has another name is gone for a while |
//! | `rmdir`, replacing a directory | as before, all that this site took out of it, and all of other sites that is applied here | its removal finds something in it, and it is put back |
//!
//! Things of other sites below a moved directory, and in xattrs of a moved file, are not looked for: their order is kept between them and what they
//! were made upon, not between them and the move.
//!
//! Where every peer has all that this site made in other lanes, nothing is looked for that has to be searched: the deps would say nothing new.

use std::collections::HashSet;

use proto::hlc::{Hlc, Stamp};
use proto::ids::{FileId, Lane, Position};
use proto::record::SeenEntry;

use crate::error::FsError;
use crate::journal::LaneHead;
use crate::store::table::{self, Table};
use crate::tree::entry::{Candidates, Entry, KindTag};
use crate::tree::inode::Inode;
use crate::tree::xattr::Xattr;
use crate::txn::Txn;

/// Inodes below a moved directory that are looked at; of a larger tree everything in other lanes counts as part.
const MAX_BELOW: usize = 4096;
/// Other names of a removed file that are looked at. Those beyond may appear later than this one goes.
const MAX_NAMES: usize = 256;

/// Of a directory in which something is done.
pub(super) fn place(txn: &Txn<'_>, directory: &Inode) -> Result<Vec<Stamp>, FsError> {
    let mut touched = vec![directory.created, directory.perms_stamp, directory.mode_stamp];
    if let Some(entry) = directory.entry {
        touched.extend(txn.entry(entry)?.map(|entry| entry.stamp));
    }
    Ok(touched)
}

/// Of something that gets a name: all of it. `lane` is the record's, if it follows nothing; where it does, also what is in `lane` counts.
pub(super) fn whole(txn: &Txn<'_>, lane: Lane, file: FileId) -> Result<Vec<Stamp>, FsError> {
    let inode = txn.existing(file)?;
    let mut touched = inode.stamps().to_vec();
    let heads = unshared(txn);
    if heads.iter().all(|head| head.lane == lane) {
        return Ok(touched);
    }
    touched.extend(xattrs(txn, file)?);
    if inode.is_dir() {
        touched.push(inode.mtime_stamp);
        touched.extend(below(txn, &heads, file)?);
    }
    Ok(touched)
}

/// Of entries that are removed.
pub(super) fn removed(txn: &Txn<'_>, entries: &[SeenEntry]) -> Result<Vec<Stamp>, FsError> {
    let mut touched = Vec::new();
    for seen in entries {
        touched.extend([seen.stamp, seen.content]);
        let Some(entry) = txn.entry(seen.entry)? else { continue };
        let inode = txn.existing(entry.file)?;
        if inode.is_dir() {
            // Whoever removes a directory has seen it empty, so also every removal in it; a site that has not must not take what it still has
            // there for something that the remover had not seen.
            touched.extend(txn.others_seen()?);
            touched.extend(departed(txn, entry.file));
        } else if inode.nlink > 1 {
            for (key, _) in txn.scan(Table::Link, &table::file_key(entry.file), MAX_NAMES)? {
                let row = txn.get(Table::Entry, &key.slice_ref(table::entry_key_of_link(&key)?))?;
                touched.extend(row.map(Entry::decode).transpose()?.map(|entry| entry.stamp));
            }
        }
    }
    Ok(touched)
}

/// What this site took out of the directory. A commit that failed has left a position that there is not, perhaps for long: nothing waits for it.
fn departed(txn: &Txn<'_>, directory: FileId) -> impl Iterator<Item = Stamp> + use<> {
    let heads = txn.volume.journal.heads();
    txn.volume.departures.of(directory, txn.volume.site()).map(move |position| {
        let LaneHead { incarnation, seq, .. } = heads.get(position.lane);
        let head = Position { incarnation, seq, ..position };
        stamp_of(position.min(head))
    })
}

/// A stamp of which only the position counts.
fn stamp_of(position: Position) -> Stamp {
    Stamp { hlc: Hlc(u64::MAX), position }
}

/// The heads of those of this site's lanes of which some peer may lack something.
fn unshared(txn: &Txn<'_>) -> Vec<Position> {
    let (heads, watermarks) = (txn.volume.journal.heads(), txn.volume.journal.watermarks());
    let head = |lane| {
        let LaneHead { incarnation, seq, .. } = heads.get(lane);
        Position { site: txn.volume.site(), incarnation, lane, seq }
    };
    let unshared = |head: &Position| head.seq > watermarks[head.lane as usize];
    Lane::ALL.into_iter().map(head).filter(unshared).collect()
}

fn xattrs(txn: &Txn<'_>, file: FileId) -> Result<Vec<Stamp>, FsError> {
    let rows = txn.scan(Table::Xattr, &table::file_key(file), usize::MAX)?;
    rows.into_iter().map(|(_, row)| Ok(Xattr::decode(row)?.stamp)).collect()
}

/// The last of this site's records in each of the lanes of `heads` that is part of what stands below the directory.
fn below(txn: &Txn<'_>, heads: &[Position], directory: FileId) -> Result<Vec<Stamp>, FsError> {
    let mut last = Last { heads, found: vec![None; heads.len()] };
    let mut left = MAX_BELOW;
    let mut todo = vec![directory];
    let mut passed = HashSet::from([directory]);
    while let Some(directory) = todo.pop().filter(|_| !last.is_complete()) {
        last.add(departed(txn, directory));
        for (_, row) in txn.scan(Table::Name, &table::file_key(directory), left + 1)? {
            for candidate in Candidates::decode(row)?.iter() {
                if left == 0 {
                    return Ok(heads.iter().copied().map(stamp_of).collect());
                }
                left -= 1;
                last.add([candidate.stamp]);
                if !passed.insert(candidate.file) {
                    continue;
                }
                if let Some(inode) = txn.inode(candidate.file)? {
                    last.add(inode.stamps().into_iter().chain([inode.mtime_stamp]));
                }
                last.add(xattrs(txn, candidate.file)?);
                if candidate.kind == KindTag::Directory {
                    todo.push(candidate.file);
                }
            }
        }
    }
    Ok(last.found.into_iter().flatten().collect())
}

/// The latest stamp found of each lane.
struct Last<'a> {
    heads: &'a [Position],
    found: Vec<Option<Stamp>>,
}

impl Last<'_> {
    fn add(&mut self, stamps: impl IntoIterator<Item = Stamp>) {
        for stamp in stamps {
            let lane = |head: &Position| (head.site, head.lane) == (stamp.position.site, stamp.position.lane);
            if let Some(index) = self.heads.iter().position(lane)
                && self.found[index].is_none_or(|found| found.position < stamp.position)
            {
                self.found[index] = Some(stamp);
            }
        }
    }

    /// Nothing later can be found.
    fn is_complete(&self) -> bool {
        self.heads.iter().zip(&self.found).all(|(head, found)| found.is_some_and(|found| found.position >= *head))
    }
}
