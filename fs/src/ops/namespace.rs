//! Operations on names.

use proto::hlc::Stamp;
use proto::ids::FileId;
use proto::name::{Name, NameError};
use proto::record::{Kind, MAX_TARGET_BYTES, Move, Op, Perms, SeenEntry};

use super::open::Kept;
use super::{Scope, commit_and_settle, touched};
use crate::error::FsError;
use crate::store::table::{self, Table};
use crate::tree::apply::MAX_DEPTH;
use crate::tree::entry::{Candidate, Candidates, KindTag};
use crate::tree::inode::Inode;
use crate::txn::Txn;
use crate::types::{Attr, Caller, HandleId, OpenFlags, RenameMode};
use crate::volume::Volume;

const SETGID: u32 = 0o2000;
/// As many as ext4 allows.
const MAX_LINKS: u32 = 65_000;

impl Volume {
    /// `mknod`, `mkdir`, `symlink`: a new inode of this kind with its first name. `mode` has the umask applied.
    pub fn create(&self, caller: Caller, parent: FileId, name: &[u8], kind: Kind, mode: u32) -> Result<Attr, FsError> {
        self.create_kept(caller, parent, name, kind, mode).map(|(attr, _)| attr)
    }

    /// While it waits for other sites, they may remove the file.
    fn create_kept(
        &self,
        caller: Caller,
        parent: FileId,
        name: &[u8],
        kind: Kind,
        mode: u32,
    ) -> Result<(Attr, Kept<'_>), FsError> {
        let name = check_name(name)?;
        if let Kind::Symlink(target) = &kind {
            if target.is_empty() {
                return Err(FsError::NotFound);
            }
            if target.len() >= MAX_TARGET_BYTES {
                return Err(FsError::NameTooLong);
            }
        }
        self.need_room(0)?;
        // Dropped after the transaction.
        let kept;
        let mut txn = Txn::begin(self)?;
        let directory = directory(&txn, parent)?;
        if !txn.candidates(parent, name.as_bytes())?.is_empty() {
            return Err(FsError::Exists);
        }
        let perms = new_perms(caller, &directory, &kind, mode);
        let file = txn.new_file()?;
        kept = self.keep(file);
        let time = txn.now();
        let scope = Scope::of(&txn, &[parent])?;
        let touched = touched::place(&txn, &directory)?;
        let op = Op::Create { file, parent, name, kind, perms, time };
        commit_and_settle(txn, &scope, op, touched, &[parent])?;
        Ok((self.getattr(file)?, kept))
    }

    /// `open` with `O_CREAT` of a name that is not there.
    pub fn create_open(
        &self,
        caller: Caller,
        parent: FileId,
        name: &[u8],
        mode: u32,
        flags: OpenFlags,
    ) -> Result<(Attr, HandleId), FsError> {
        let (attr, _kept) = self.create_kept(caller, parent, name, Kind::Regular, mode)?;
        let handle = self.open(attr.file, OpenFlags { truncate: false, ..flags })?;
        Ok((attr, handle))
    }

    /// Removes a name that is not a directory's.
    pub fn unlink(&self, parent: FileId, name: &[u8]) -> Result<(), FsError> {
        let name = check_name(name)?;
        let txn = Txn::begin(self)?;
        let directory = directory(&txn, parent)?;
        let candidates = txn.candidates(parent, name.as_bytes())?;
        let visible = candidates.visible().ok_or(FsError::NotFound)?;
        if visible.kind == KindTag::Directory {
            return Err(FsError::IsDirectory);
        }
        let removed = seen(&txn, candidates.iter().filter(|candidate| candidate.kind != KindTag::Directory))?;
        remove(txn, parent, &directory, visible.file, removed)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: FileId, name: &[u8]) -> Result<(), FsError> {
        let name = check_name(name)?;
        let txn = Txn::begin(self)?;
        let directory = directory(&txn, parent)?;
        let candidates = txn.candidates(parent, name.as_bytes())?;
        let visible = candidates.visible().ok_or(FsError::NotFound)?;
        if visible.kind != KindTag::Directory {
            return Err(FsError::NotDirectory);
        }
        if !is_empty(&txn, visible.file)? {
            return Err(FsError::NotEmpty);
        }
        let removed = removable(&txn, &candidates)?;
        remove(txn, parent, &directory, visible.file, removed)
    }

    /// Moves a name.
    pub fn rename(
        &self,
        parent: FileId,
        name: &[u8],
        new_parent: FileId,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), FsError> {
        let (name, new_name) = (check_name(name)?, check_name(new_name)?);
        let txn = Txn::begin(self)?;
        let (from, to) = (directory(&txn, parent)?, directory(&txn, new_parent)?);
        let source = *txn.candidates(parent, name.as_bytes())?.visible().ok_or(FsError::NotFound)?;
        let targets = txn.candidates(new_parent, new_name.as_bytes())?;
        let target = targets.visible().copied();
        if mode == RenameMode::NoReplace && target.is_some() {
            return Err(FsError::Exists);
        }
        if mode == RenameMode::Exchange && target.is_none() {
            return Err(FsError::NotFound);
        }
        if target.is_some_and(|target| target.file == source.file) {
            return Ok(());
        }
        let scope = Scope::of(&txn, &[parent, new_parent])?;
        let mut touched = refuse_loop(&txn, &source, new_parent)?;
        touched.push(source.stamp);
        for place in [&from, &to] {
            touched.extend(touched::place(&txn, place)?);
        }
        touched.extend(touched::whole(&txn, scope.urgent(), source.file)?);
        let mut moves = vec![Move {
            entry: source.entry,
            file: source.file,
            from: parent,
            parent: new_parent,
            name: new_name.clone(),
        }];
        let mut replaces = Vec::new();
        if let Some(target) = target {
            if mode == RenameMode::Exchange {
                touched.extend(refuse_loop(&txn, &target, parent)?);
                touched.push(target.stamp);
                touched.extend(touched::whole(&txn, scope.urgent(), target.file)?);
                moves.push(Move { entry: target.entry, file: target.file, from: new_parent, parent, name });
            } else {
                check_replace(&txn, &source, &target)?;
                replaces = removable(&txn, &targets)?;
                touched.extend(touched::removed(&txn, &replaces)?);
            }
        }
        let time = txn.now();
        let held = [parent, new_parent, source.file, target.map_or(source.file, |target| target.file)];
        commit_and_settle(txn, &scope, Op::Rename { moves, replaces, time }, touched, &held)
    }

    /// One more name for an inode that is not a directory.
    pub fn link(&self, file: FileId, new_parent: FileId, new_name: &[u8]) -> Result<Attr, FsError> {
        let name = check_name(new_name)?;
        self.need_room(0)?;
        let txn = Txn::begin(self)?;
        let directory = directory(&txn, new_parent)?;
        let inode = txn.existing(file)?;
        if inode.is_dir() {
            return Err(FsError::NotPermitted("a directory has one name"));
        }
        if inode.nlink == 0 {
            return Err(FsError::NotFound);
        }
        if inode.nlink >= MAX_LINKS {
            return Err(FsError::TooManyLinks);
        }
        if !txn.candidates(new_parent, name.as_bytes())?.is_empty() {
            return Err(FsError::Exists);
        }
        let time = txn.now();
        let scope = Scope::of(&txn, &[new_parent, file])?;
        let mut touched = touched::place(&txn, &directory)?;
        touched.extend(touched::whole(&txn, scope.urgent(), file)?);
        let op = Op::Link { file, parent: new_parent, name, time };
        commit_and_settle(txn, &scope, op, touched, &[new_parent])?;
        self.getattr(file)
    }
}

fn check_name(name: &[u8]) -> Result<Name, FsError> {
    Name::new(name).map_err(|error| match error {
        NameError::TooLong => FsError::NameTooLong,
        NameError::NotAllowed => FsError::Invalid("the name is not allowed"),
    })
}

/// A directory that a name leads to.
fn directory(txn: &Txn<'_>, file: FileId) -> Result<Inode, FsError> {
    let inode = txn.existing(file)?;
    if !inode.is_dir() {
        return Err(FsError::NotDirectory);
    }
    if inode.is_linked(file) { Ok(inode) } else { Err(FsError::NotFound) }
}

/// A new inode belongs to its creator, or to the group of a setgid directory; a directory in such a one passes it on.
fn new_perms(caller: Caller, directory: &Inode, kind: &Kind, mode: u32) -> Perms {
    let inherits = directory.perms.mode & SETGID != 0;
    let gid = if inherits { directory.perms.gid } else { caller.gid };
    let mode = match kind {
        Kind::Symlink(_) => 0o777,
        Kind::Directory if inherits => (mode & 0o7777) | SETGID,
        _ => mode & 0o7777,
    };
    Perms { mode, uid: caller.uid, gid }
}

fn is_empty(txn: &Txn<'_>, dir: FileId) -> Result<bool, FsError> {
    Ok(txn.scan(Table::Name, &table::file_key(dir), 1)?.is_empty())
}

/// What may go with the visible entry of a name: all but directories that have something in them.
fn removable(txn: &Txn<'_>, candidates: &Candidates) -> Result<Vec<SeenEntry>, FsError> {
    let mut removable = Vec::new();
    for candidate in candidates.iter() {
        if candidate.kind != KindTag::Directory || is_empty(txn, candidate.file)? {
            removable.push(candidate);
        }
    }
    seen(txn, removable)
}

fn seen<'c>(txn: &Txn<'_>, candidates: impl IntoIterator<Item = &'c Candidate>) -> Result<Vec<SeenEntry>, FsError> {
    candidates
        .into_iter()
        .map(|candidate| {
            let content = txn.existing(candidate.file)?.content;
            Ok(SeenEntry { entry: candidate.entry, stamp: candidate.stamp, content })
        })
        .collect()
}

/// `target` is what the name leads to.
fn remove(
    txn: Txn<'_>,
    parent: FileId,
    directory: &Inode,
    target: FileId,
    entries: Vec<SeenEntry>,
) -> Result<(), FsError> {
    let mut touched = touched::place(&txn, directory)?;
    touched.extend(touched::removed(&txn, &entries)?);
    let time = txn.now();
    let scope = Scope::of(&txn, &[parent])?;
    commit_and_settle(txn, &scope, Op::Remove { parent, entries, time }, touched, &[parent, target])
}

fn check_replace(txn: &Txn<'_>, source: &Candidate, target: &Candidate) -> Result<(), FsError> {
    match (source.kind == KindTag::Directory, target.kind == KindTag::Directory) {
        (true, false) => Err(FsError::NotDirectory),
        (false, true) => Err(FsError::IsDirectory),
        (true, true) if !is_empty(txn, target.file)? => Err(FsError::NotEmpty),
        _ => Ok(()),
    }
}

/// A directory cannot move to a place below itself. Answers the stamps of the entries above the new place: what they are now makes the move
/// right, so it follows their moves.
fn refuse_loop(txn: &Txn<'_>, moved: &Candidate, new_parent: FileId) -> Result<Vec<Stamp>, FsError> {
    let mut above = Vec::new();
    if moved.kind != KindTag::Directory {
        return Ok(above);
    }
    let mut at = new_parent;
    for _ in 0..MAX_DEPTH {
        if at == moved.file {
            return Err(FsError::Invalid("a directory cannot move below itself"));
        }
        let Some(entry) = txn.existing(at)?.entry else { return Ok(above) };
        let entry = txn.entry(entry)?.ok_or(FsError::NotFound)?;
        above.push(entry.stamp);
        at = entry.parent;
    }
    Err(FsError::Invalid("the directory is in a cycle that another site is about to mend"))
}
