//! The policies that should be in force, found slowly from the rows.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fs::policy::attribute::Setting;
use fs::policy::{Effective, Key};
use fs::store::table;
use fs::tree::entry::{Candidates, Entry};
use fs::tree::inode::Inode;
use fs::tree::xattr::Xattr;
use fs::volume::Volume;
use proto::ids::FileId;
use proto::name::Name;

/// The rows of a site.
pub struct Rows<'a> {
    pub inodes: &'a BTreeMap<FileId, Inode>,
    pub entries: &'a BTreeMap<Bytes, Entry>,
    pub names: &'a [(FileId, Name, Candidates)],
    pub xattrs: &'a BTreeMap<Bytes, Xattr>,
}

impl Rows<'_> {
    /// The directory above; `None` of the root and of what is reclaimed.
    fn above(&self, directory: FileId) -> Option<FileId> {
        let entry = self.inodes.get(&directory)?.entry?;
        Some(self.entries.get(&table::entry_key(entry))?.parent)
    }

    fn setting(&self, directory: FileId, key: Key) -> Option<Setting> {
        let row = self.xattrs.get(&table::xattr_key(directory, key.attribute().as_bytes()))?;
        Setting::parse(key, row.value.as_ref()?).ok()
    }

    /// `None` where moves at two sites have left a cycle.
    fn policy(&self, directory: FileId) -> Option<Effective> {
        let way: Vec<FileId> = std::iter::successors(Some(directory), |at| self.above(*at)).take(1000).collect();
        let mut effective = Effective::default();
        for (index, key) in Key::ALL.into_iter().enumerate() {
            let nearest = way.iter().find_map(|at| Some((*at, self.setting(*at, key)?)));
            if let Some((at, setting)) = nearest {
                setting.put(&mut effective.policy);
                effective.sources[index] = Some(at);
            }
        }
        Some(effective).filter(|_| way.len() < 1000)
    }

    /// What the volume says of each file and directory is what the rows say.
    pub fn check_policies(&self, volume: &Volume) {
        let mut places: BTreeMap<FileId, BTreeSet<FileId>> = BTreeMap::new();
        for (parent, _, candidates) in self.names {
            for candidate in candidates.iter() {
                places.entry(candidate.file).or_default().insert(*parent);
            }
        }
        for (file, inode) in self.inodes {
            // Nothing is made in a directory without a place; what it was told last may stay.
            if inode.is_dir() && !inode.is_linked(*file) {
                continue;
            }
            let place = || BTreeSet::from([*file]);
            let directories = if inode.is_dir() { place() } else { places.remove(file).unwrap_or_default() };
            let expected: Option<Vec<Effective>> =
                directories.into_iter().map(|directory| self.policy(directory)).collect();
            let Some(mut expected) = expected else { continue };
            if expected.is_empty() {
                expected.push(Effective::default());
            }
            let mut found: Vec<Effective> =
                volume.policies_of(*file).expect("policies").iter().map(|effective| (**effective).clone()).collect();
            if found.is_empty() {
                found.push(Effective::default());
            }
            let who = format!("site {}: {file}: {found:?} instead of {expected:?}", volume.site());
            assert!(found.is_sorted_by_key(|effective| effective.policy.lane()), "{who}");
            assert!(found.iter().all(|effective| expected.contains(effective)), "{who}");
            assert!(expected.iter().all(|effective| found.contains(effective)), "{who}");
        }
    }
}
