//! The one way in which a record changes the tree: local operations, replay and repairs all come here.
//!
//! Every change is a merge into last-writer-wins registers, so the rows that a set of records leaves do not depend on the order of
//! their arrival. A local operation has the latest stamp of all, so for it a merge is simply the change.
//!
//! Unknown ids: a record's deps are applied before it, so what it names was here. An inode that is not here any more was removed, at every
//! site, and reclaimed; a change to it changes nothing. A *directory* that is unknown cannot be: nothing is created in a directory without
//! a name. Such a record is refused.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::atomic;

use proto::hlc::Stamp;
use proto::ids::{EntryId, FileId, Position};
use proto::name::Name;
use proto::record::{Move, Op, Perms, SeenEntry, Time};

use super::content;
use super::entry::{Candidate, Entry, KindTag};
use super::inode::Inode;
use super::xattr::Xattr;
use crate::error::FsError;
use crate::store::table::{self, Garbage, Repair, Table};
use crate::txn::Txn;
use crate::types::Invalidation;

/// Why a record cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It breaks a rule that every honest site keeps.
    #[error("{0}")]
    Refused(String),
    /// The store failed.
    #[error(transparent)]
    Fs(#[from] FsError),
}

/// Changes the transaction's rows as the record says.
///
/// What only this site may do in answer is noted as a repair in the same transaction, so that a crash cannot lose it.
///
/// # Errors
/// [`ApplyError::Refused`] leaves rows behind: the caller drops the transaction.
pub fn apply(txn: &mut Txn<'_>, stamp: Stamp, op: &Op) -> Result<content::Decision, ApplyError> {
    match op {
        Op::Create { file, parent, name, kind, perms, time } => {
            if file.site() != stamp.position.site {
                return Err(ApplyError::Refused(format!("file {file} is not this origin's to create")));
            }
            match txn.inode(*file)? {
                None => {
                    let mut inode = Inode::new(kind.clone(), *perms, stamp, *time);
                    inode.entry = inode.is_dir().then_some(EntryId(stamp.position));
                    txn.put_inode(*file, &inode);
                }
                // It came before with a peer's state, in a levelling that was broken off: see [`crate::level`].
                Some(inode) if inode.created == stamp => {}
                Some(_) => return Err(ApplyError::Refused(format!("file {file} exists"))),
            }
            place_new(txn, stamp, *file, *parent, name, *time)?;
        }
        Op::Link { file, parent, name, time } => {
            if txn.inode(*file)?.is_some_and(|inode| inode.is_dir()) {
                return Err(ApplyError::Refused(format!("directory {file} cannot have a second name")));
            }
            place_new(txn, stamp, *file, *parent, name, *time)?;
        }
        Op::Remove { parent, entries, time } => {
            for seen in entries {
                remove(txn, stamp, seen, *time)?;
            }
            touch_directory(txn, *parent, stamp, *time)?;
        }
        Op::Rename { moves, replaces, time } => {
            for seen in replaces {
                remove(txn, stamp, seen, *time)?;
            }
            for to in moves {
                place(txn, stamp, to, *time)?;
                touch(txn, to.file, *time)?;
                touch_directory(txn, to.from, stamp, *time)?;
                touch_directory(txn, to.parent, stamp, *time)?;
            }
            for to in moves {
                note_cycle(txn, to.file)?;
            }
        }
        Op::SetAttr { file, perms, atime, mtime, time } => set_attr(txn, stamp, *file, *perms, *atime, *mtime, *time)?,
        Op::SetXattr { file, name, value, time } => {
            let Some(mut inode) = txn.inode(*file)? else { return Ok(content::Decision::Nothing) };
            let key = table::xattr_key(*file, name);
            let current = txn.get(Table::Xattr, &key)?.map(Xattr::decode).transpose().map_err(FsError::from)?;
            if current.is_none_or(|current| current.stamp < stamp) {
                txn.put(Table::Xattr, key, Xattr { stamp, value: value.clone() }.encode());
            }
            inode.touch(*time);
            txn.put_inode(*file, &inode);
            txn.invalidations.push(Invalidation::Attr { file: *file });
        }
        Op::Content(change) => return Ok(content::apply(txn, stamp, change)?),
    }
    Ok(content::Decision::Nothing)
}

/// Puts a new entry in its place.
fn place_new(
    txn: &mut Txn<'_>,
    stamp: Stamp,
    file: FileId,
    parent: FileId,
    name: &Name,
    time: Time,
) -> Result<(), ApplyError> {
    let to = Move { entry: EntryId(stamp.position), file, from: parent, parent, name: name.clone() };
    place(txn, stamp, &to, time)?;
    Ok(touch_directory(txn, parent, stamp, time)?)
}

/// Puts an entry where the move says, unless something later happened to it.
fn place(txn: &mut Txn<'_>, stamp: Stamp, to: &Move, time: Time) -> Result<(), ApplyError> {
    let Some(mut inode) = txn.inode(to.file)? else { return Ok(()) };
    check_place(txn, to.entry, to.file, &inode, to.parent)?;
    let old = txn.entry(to.entry)?;
    if old.as_ref().is_some_and(|old| old.stamp >= stamp) {
        return Ok(());
    }
    check_file(old.as_ref(), to.file)?;
    let from = old.as_ref().filter(|_| inode.is_dir()).map(|old| (old.parent, old.name.clone()));
    let entry = Entry { parent: to.parent, name: to.name.clone(), file: to.file, stamp, removal: None, from };
    inode.touch(time);
    Ok(put_alive(txn, to.entry, old.as_ref(), &entry, inode)?)
}

/// Whether an entry of the file may stand in the directory.
fn check_place(txn: &Txn<'_>, id: EntryId, file: FileId, inode: &Inode, parent: FileId) -> Result<(), ApplyError> {
    if txn.inode(parent)?.is_none_or(|parent| !parent.is_dir()) {
        return Err(ApplyError::Refused(format!("directory {parent} is unknown")));
    }
    if file == FileId::ROOT || (inode.is_dir() && inode.entry != Some(id)) {
        return Err(ApplyError::Refused(format!("directory {file} has another entry")));
    }
    Ok(())
}

fn check_file(old: Option<&Entry>, file: FileId) -> Result<(), ApplyError> {
    if old.is_some_and(|old| old.file != file) {
        return Err(ApplyError::Refused(format!("the entry names another file than {file}")));
    }
    Ok(())
}

/// Sets an entry that stands, in place of its old value, with all that is derived from it.
fn put_alive(
    txn: &mut Txn<'_>,
    id: EntryId,
    old: Option<&Entry>,
    entry: &Entry,
    mut inode: Inode,
) -> Result<(), FsError> {
    match old {
        Some(old) if old.is_alive() => {
            detach(txn, id, old, inode.is_dir())?;
        }
        old => {
            inode.nlink += 1;
            if old.is_some() {
                inode.removed = inode.removed.saturating_sub(1);
            }
        }
    }
    txn.put_inode(entry.file, &inode);
    let mut candidates = txn.candidates(entry.parent, entry.name.as_bytes())?;
    let kind = KindTag::from(&inode.kind);
    candidates.insert(Candidate { entry: id, stamp: entry.stamp, file: entry.file, kind });
    txn.put_candidates(entry.parent, &entry.name, &candidates);
    txn.put_entry(id, entry);
    if inode.is_dir() {
        count_subdir(txn, entry.parent, 1)?;
    } else {
        txn.put(Table::Link, table::link_key(entry.file, id), bytes::Bytes::new());
    }
    txn.invalidations.push(Invalidation::Attr { file: entry.file });
    Ok(())
}

/// Sets an entry that is removed, in place of its old value, with all that is derived from it.
pub(crate) fn put_removed(txn: &mut Txn<'_>, id: EntryId, old: Option<&Entry>, entry: &Entry) -> Result<(), FsError> {
    txn.put_entry(id, entry);
    if let Some(removal) = entry.removal {
        note_garbage(txn, removal, Garbage::Entry(id));
    }
    if old.is_some_and(|old| !old.is_alive()) {
        return Ok(());
    }
    let Some(mut inode) = txn.inode(entry.file)? else { return Ok(()) };
    if let Some(old) = old {
        inode.nlink = inode.nlink.saturating_sub(1);
        detach(txn, id, old, inode.is_dir())?;
    }
    inode.removed += 1;
    txn.put_inode(entry.file, &inode);
    txn.invalidations.push(Invalidation::Attr { file: entry.file });
    Ok(())
}

/// Merges the value that an entry has at another site, whatever records gave it.
pub(crate) fn merge_entry(txn: &mut Txn<'_>, id: EntryId, theirs: &Entry) -> Result<(), ApplyError> {
    let Some(inode) = txn.inode(theirs.file)? else { return Ok(()) };
    let old = txn.entry(id)?;
    check_file(old.as_ref(), theirs.file)?;
    if let Some(old) = &old {
        match (theirs.stamp, theirs.removal.is_some()).cmp(&(old.stamp, old.removal.is_some())) {
            Ordering::Less => return Ok(()),
            Ordering::Equal => {
                if theirs.removal > old.removal {
                    put_removed(txn, id, Some(old), &Entry { removal: theirs.removal, ..old.clone() })?;
                }
                return Ok(());
            }
            Ordering::Greater => {}
        }
    }
    if theirs.is_alive() {
        check_place(txn, id, theirs.file, &inode, theirs.parent)?;
        put_alive(txn, id, old.as_ref(), theirs, inode)?;
    } else {
        put_removed(txn, id, old.as_ref(), theirs)?;
    }
    Ok(())
}

/// Removes an entry, unless something happened to it that the remover had not seen.
fn remove(txn: &mut Txn<'_>, removal: Stamp, seen: &SeenEntry, time: Time) -> Result<(), ApplyError> {
    // An unknown entry was removed and reclaimed: its creation is among this record's deps.
    let Some(old) = txn.entry(seen.entry)? else { return Ok(()) };
    touch(txn, old.file, time)?;
    if old.stamp > seen.stamp {
        return Ok(());
    }
    let position = old.removal.map_or(removal.position, |other| other.max(removal.position));
    let entry = Entry { stamp: seen.stamp, removal: Some(position), ..old.clone() };
    put_removed(txn, seen.entry, Some(&old), &entry)?;
    note_garbage(txn, removal.position, Garbage::Entry(seen.entry));
    if !old.is_alive() {
        return Ok(());
    }
    let Some(inode) = txn.inode(entry.file)? else { return Ok(()) };
    if inode.nlink == 0 && hides_own_work(txn, entry.file, &inode, removal, seen)? {
        note_repair(txn, Repair::Restore(seen.entry));
    }
    Ok(())
}

/// Whether a peer's removal takes away something that this site did and the remover had not seen. The updater restores: only the
/// site that did it, so that it is done once.
fn hides_own_work(
    txn: &Txn<'_>,
    file: FileId,
    inode: &Inode,
    removal: Stamp,
    seen: &SeenEntry,
) -> Result<bool, FsError> {
    let own = txn.volume.site();
    if removal.position.site == own {
        return Ok(false);
    }
    if !inode.is_dir() {
        return Ok(inode.content.position.site == own && inode.content > seen.content);
    }
    // The remover saw the directory empty, so it has not seen any entry that is in it.
    holds_own_entry(txn, file)
}

/// Whether an entry that this site put there stands in the directory.
pub(crate) fn holds_own_entry(txn: &Txn<'_>, directory: FileId) -> Result<bool, FsError> {
    for (_, row) in txn.scan(Table::Name, &table::file_key(directory), usize::MAX)? {
        let candidates = super::entry::Candidates::decode(row)?;
        if candidates.iter().any(|candidate| candidate.stamp.position.site == txn.volume.site()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes a live entry off its name.
fn detach(txn: &mut Txn<'_>, id: EntryId, entry: &Entry, is_dir: bool) -> Result<(), FsError> {
    let mut candidates = txn.candidates(entry.parent, entry.name.as_bytes())?;
    candidates.remove(id);
    txn.put_candidates(entry.parent, &entry.name, &candidates);
    if is_dir {
        count_subdir(txn, entry.parent, -1)?;
    } else {
        txn.delete(Table::Link, table::link_key(entry.file, id));
    }
    Ok(())
}

fn count_subdir(txn: &mut Txn<'_>, directory: FileId, change: i32) -> Result<(), FsError> {
    if let Some(mut inode) = txn.inode(directory)? {
        inode.subdirs = inode.subdirs.saturating_add_signed(change);
        txn.put_inode(directory, &inode);
    }
    Ok(())
}

/// Raises the change time of an inode that a record names, whether or not the record changes anything here: so it is the same everywhere.
fn touch(txn: &mut Txn<'_>, file: FileId, time: Time) -> Result<(), FsError> {
    if let Some(mut inode) = txn.inode(file)? {
        inode.touch(time);
        txn.put_inode(file, &inode);
        txn.invalidations.push(Invalidation::Attr { file });
    }
    Ok(())
}

/// Sets a directory's times. The directories that a record touches are those that it names, whatever it finds here: so the times are
/// the same at every site, too.
fn touch_directory(txn: &mut Txn<'_>, directory: FileId, stamp: Stamp, time: Time) -> Result<(), FsError> {
    if let Some(mut inode) = txn.inode(directory)? {
        inode.set_mtime(time, stamp);
        inode.touch(time);
        txn.put_inode(directory, &inode);
        txn.invalidations.push(Invalidation::Attr { file: directory });
    }
    Ok(())
}

fn set_attr(
    txn: &mut Txn<'_>,
    stamp: Stamp,
    file: FileId,
    perms: Option<Perms>,
    atime: Option<Time>,
    mtime: Option<Time>,
    time: Time,
) -> Result<(), FsError> {
    let Some(mut inode) = txn.inode(file)? else { return Ok(()) };
    if let Some(perms) = perms {
        inode.set_mode(perms.mode, stamp);
        if stamp > inode.perms_stamp {
            inode.perms = Perms { mode: inode.perms.mode, ..perms };
            inode.perms_stamp = stamp;
        }
    }
    if let Some(atime) = atime.filter(|_| stamp > inode.atime_stamp) {
        inode.atime = atime;
        inode.atime_stamp = stamp;
    }
    if let Some(mtime) = mtime {
        inode.set_mtime(mtime, stamp);
    }
    inode.touch(time);
    txn.put_inode(file, &inode);
    txn.invalidations.push(Invalidation::Attr { file });
    Ok(())
}

/// Two sites that move directories into each other leave a cycle, cut off from the root. Of the moves in it the latest
/// goes back, and the site that made it says so. The last record that closes a cycle reaches that site too, so it always learns of it.
pub(crate) fn note_cycle(txn: &mut Txn<'_>, file: FileId) -> Result<(), FsError> {
    if !txn.inode(file)?.is_some_and(|inode| inode.is_dir()) {
        return Ok(());
    }
    let mut latest: Option<(Stamp, EntryId)> = None;
    let mut at = file;
    // A directory below a cycle, but not in it, never comes back to itself.
    let mut passed = HashSet::new();
    while passed.insert(at) {
        let Some(id) = txn.inode(at)?.and_then(|inode| inode.entry) else { return Ok(()) };
        let Some(entry) = txn.entry(id)?.filter(Entry::is_alive) else { return Ok(()) };
        latest = latest.max(Some((entry.stamp, id)));
        at = entry.parent;
        if at == file {
            if let Some((stamp, id)) = latest.filter(|(stamp, _)| stamp.position.site == txn.volume.site()) {
                tracing::warn!(directory = %file, move = %stamp.position, "moves at two sites form a cycle; the later one goes back");
                note_repair(txn, Repair::Restore(id));
            }
            return Ok(());
        }
    }
    Ok(())
}

/// Deeper than any path a program can reach.
pub const MAX_DEPTH: usize = 1 << 16;

fn note_garbage(txn: &mut Txn<'_>, removal: Position, what: Garbage) {
    let key = table::garbage_key(removal, what);
    txn.volume.reclaimed.noted(removal, &key);
    txn.put(Table::Garbage, key, bytes::Bytes::new());
}

/// Notes what this site has to do in answer to a peer's record.
pub fn note_repair(txn: &mut Txn<'_>, repair: Repair) {
    txn.put(Table::Repair, table::repair_key(repair), bytes::Bytes::new());
    txn.volume.repairs.store(true, atomic::Ordering::SeqCst);
}
