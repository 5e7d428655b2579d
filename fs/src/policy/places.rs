//! The policies of a file or directory, from the tree.

use std::collections::HashSet;
use std::sync::Arc;

use proto::ids::FileId;

use super::cache::Answer;
use super::{Effective, WriterSite};
use crate::error::FsError;
use crate::store::batch::Put;
use crate::store::table::{self, Table};
use crate::tree::entry::Entry;
use crate::tree::inode::Inode;
use crate::volume::Volume;

/// Rows read at a time when a store is opened.
const LOAD_ROWS: usize = 4096;

impl Volume {
    /// The policies in force for a file, the most urgent first: for a directory its own; for another file those of all directories that hold one of
    /// its names, each once. Nothing where no directory sets anything: then the default holds. An open file without a name has the default.
    ///
    /// They are of the rows that are visible: within a transaction, of those before it.
    pub fn policies_of(&self, file: FileId) -> Result<Vec<Arc<Effective>>, FsError> {
        if !self.policies.any() {
            return Ok(Vec::new());
        }
        Ok(self.answer_for(file)?.to_vec())
    }

    /// Changes whenever the policy in force may have changed somewhere.
    pub fn policy_changes(&self) -> u64 {
        self.policies.changes()
    }

    /// The directories that set `mode` to sync.
    pub fn sync_roots(&self) -> Vec<FileId> {
        self.policies.sync_roots()
    }

    /// Where a directory is, as seen from the mount's root, for people.
    pub fn path_of(&self, directory: FileId) -> Result<String, FsError> {
        let mut names = Vec::new();
        let mut passed = HashSet::new();
        let mut at = directory;
        while at != FileId::ROOT && passed.insert(at) {
            let Some(entry) = self.entry_of_directory(at)? else { break };
            names.push(String::from_utf8_lossy(entry.name.as_bytes()).into_owned());
            at = entry.parent;
        }
        let path: String = names.iter().rev().flat_map(|name| ["/", name]).collect();
        // A line of a text stays one line.
        let path: String = path.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        Ok(if path.is_empty() { "/".to_owned() } else { path })
    }

    /// Refuses a change in a place where the policy names another site as the only writer.
    pub(crate) fn check_writer(&self, policies: &[Arc<Effective>]) -> Result<(), FsError> {
        for effective in policies.iter().filter(|_| self.policies.enforced()) {
            match &effective.policy.writer {
                WriterSite::Site(name) if *name != self.options.site_name => {
                    return Err(FsError::OtherWriter(name.clone()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Finds out which directories set something. To be called when the rows are those of the last batch, before anything is changed.
    pub(crate) fn load_policies(&self) -> Result<(), FsError> {
        let mut after = None;
        loop {
            let rows = self.rows.scan(Table::Xattr, b"", after.as_deref(), LOAD_ROWS)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            after = Some(last.clone());
            let puts = rows.into_iter().map(|(key, value)| Put { table: Table::Xattr, key, value: Some(value) });
            self.policies.apply(self.policies.change(&puts.collect::<Vec<_>>())?);
        }
    }

    fn answer_for(&self, file: FileId) -> Result<Answer, FsError> {
        let generation = match self.policies.answer(file) {
            Ok(answer) => return Ok(answer),
            Err(generation) => generation,
        };
        let row = self.rows.get(Table::Inode, &table::file_key(file))?;
        let Some(inode) = row.map(Inode::decode).transpose()? else { return Ok(Arc::from([Arc::default()])) };
        if inode.is_dir() {
            return Ok(Arc::from([self.policy_of_directory(file, generation)?]));
        }
        let mut policies: Vec<Arc<Effective>> = Vec::new();
        let mut directories = HashSet::new();
        for (key, _) in self.rows.scan(Table::Link, &table::file_key(file), None, usize::MAX)? {
            // Gone between the two looks: then the answer is not kept.
            let Some(row) = self.rows.get(Table::Entry, table::entry_key_of_link(&key)?)? else { continue };
            let directory = Entry::decode(row)?.parent;
            if directories.insert(directory) {
                let effective = self.policy_of_directory(directory, generation)?;
                if !policies.contains(&effective) {
                    policies.push(effective);
                }
            }
        }
        if policies.is_empty() {
            policies.push(Arc::default());
        }
        policies.sort_by_key(|effective| effective.policy.lane());
        let answer: Answer = policies.into();
        self.policies.keep(file, Arc::clone(&answer), generation);
        Ok(answer)
    }

    /// Goes up to a directory of which the answer is kept, or to the root, and down again, keeping the answers for those between.
    fn policy_of_directory(&self, directory: FileId, generation: u64) -> Result<Arc<Effective>, FsError> {
        let mut way = Vec::new();
        // Where two sites' moves left a cycle that is about to be mended, there is no top: the default stands above it.
        let mut passed = HashSet::new();
        let mut at = Some(directory);
        let mut effective = Arc::default();
        while let Some(here) = at.filter(|here| passed.insert(*here)) {
            if let Some(kept) = self.policies.answer(here).ok().and_then(|answer| answer.first().cloned()) {
                effective = kept;
                break;
            }
            way.push(here);
            at = self.entry_of_directory(here)?.map(|entry| entry.parent);
        }
        for here in way.into_iter().rev() {
            if let Some(settings) = self.policies.settings(here) {
                effective = Arc::new(settings.below(&effective, here));
            }
            self.policies.keep(here, Arc::from([Arc::clone(&effective)]), generation);
        }
        Ok(effective)
    }

    /// The entry of a directory, also of a removed one; `None` of the root and of what is gone.
    fn entry_of_directory(&self, directory: FileId) -> Result<Option<Entry>, FsError> {
        let Some(row) = self.rows.get(Table::Inode, &table::file_key(directory))? else { return Ok(None) };
        let Some(id) = Inode::decode(row)?.entry else { return Ok(None) };
        let row = self.rows.get(Table::Entry, &table::entry_key(id))?;
        Ok(row.map(Entry::decode).transpose()?)
    }
}
