//! Which directories set something, and what is in force where: kept in memory.
//!
//! The attributes are rows like all others; what is here follows the rows as transactions publish them, whoever made the change.
//!
//! **Never stale.** A reader notes the generation, reads rows, and may keep its answer only if the generation is still the same. Whoever changes a policy,
//! moves a directory or changes the names of a file first publishes the rows, then raises the generation and drops the answers that
//! may be wrong. So an answer from rows of before is either refused or dropped. A transaction holds the writer's lock: for it nothing changes
//! at all. Others may see the policy of a moment ago, as they might have come a moment earlier.
//!
//! **Free where unused.** While no directory sets anything there is one atomic load for a question, and one look at the table's number for each row of a
//! transaction.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use proto::codec::DecodeError;
use proto::ids::FileId;

use super::attribute::{PREFIX, Setting};
use super::resolve::Settings;
use super::{Effective, Key, Mode};
use crate::store::batch::Put;
use crate::store::table::{self, Table, Value};
use crate::tree::entry::Entry;
use crate::tree::xattr::Xattr;

/// Answers are dropped, all at once, when there are more: about 10 MiB.
const MAX_ANSWERS: usize = 1 << 16;

/// The policies of one place: of a directory one, of another file one for each directory that holds a name of it.
pub type Answer = Arc<[Arc<Effective>]>;

/// What this site knows of policies without reading rows.
#[derive(Default)]
pub struct Policies {
    /// Whether any directory sets anything.
    any: AtomicBool,
    /// Whether another site's being the only writer counts: not before recovery has made good what was done before.
    enforced: AtomicBool,
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    settings: HashMap<FileId, Settings>,
    answers: HashMap<FileId, Answer>,
    /// Raised whenever an answer made from rows read before might be wrong.
    generation: u64,
    /// Raised whenever the policy in force may have changed somewhere.
    changes: u64,
}

/// What rows that are about to be published mean for policies.
#[derive(Default)]
pub struct Change {
    settings: Vec<(FileId, Key, Option<Setting>)>,
    /// A directory has another place.
    moved: bool,
    /// Files with other names than before.
    renamed: Vec<FileId>,
}

impl Policies {
    /// Whether any directory sets anything. If not, the default holds everywhere.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// From now on other sites' being the only writer counts.
    pub fn enforce(&self) {
        self.enforced.store(true, Ordering::Release);
    }

    /// Whether other sites' being the only writer counts.
    pub fn enforced(&self) -> bool {
        self.enforced.load(Ordering::Acquire)
    }

    /// Changes whenever the policy in force may have changed somewhere.
    pub fn changes(&self) -> u64 {
        self.inner.read().changes
    }

    /// The directories that set `mode` to sync.
    pub fn sync_roots(&self) -> Vec<FileId> {
        let inner = self.inner.read();
        let sync = |settings: &Settings| settings.get(Key::Mode) == Some(&Setting::Mode(Mode::Sync));
        inner.settings.iter().filter(|(_, settings)| sync(settings)).map(|(directory, _)| *directory).collect()
    }

    /// What a directory sets.
    pub fn settings(&self, directory: FileId) -> Option<Settings> {
        self.inner.read().settings.get(&directory).cloned()
    }

    /// A kept answer, or the generation with which one that is made now may be kept.
    pub fn answer(&self, place: FileId) -> Result<Answer, u64> {
        let inner = self.inner.read();
        inner.answers.get(&place).cloned().ok_or(inner.generation)
    }

    /// Keeps an answer, unless something has changed since `generation`.
    pub fn keep(&self, place: FileId, answer: Answer, generation: u64) {
        let mut inner = self.inner.write();
        if inner.generation != generation {
            return;
        }
        if inner.answers.len() >= MAX_ANSWERS {
            inner.answers.clear();
        }
        inner.answers.insert(place, answer);
    }

    /// What the rows mean for policies. To be called before they are published, and [`apply`](Self::apply) after.
    pub fn change(&self, puts: &[Put]) -> Result<Change, DecodeError> {
        let mut change = Change::default();
        for put in puts.iter().filter(|put| put.table == Table::Xattr) {
            change.settings.extend(setting_of(&put.key, put.value.as_ref())?);
        }
        if !self.any() {
            return Ok(change);
        }
        for put in puts {
            match put.table {
                Table::Link => {
                    change.renamed.push(FileId(table::read_u64(&put.key[..8.min(put.key.len())], "a link")?))
                }
                // Nothing is kept of a directory that never moved and is only now made; the others' entries know where they stood before.
                Table::Entry => {
                    if let Some(row) = &put.value {
                        change.moved |= Entry::decode(row.clone())?.from.is_some();
                    }
                }
                _ => {}
            }
        }
        Ok(change)
    }

    /// The rows are published.
    pub fn apply(&self, change: Change) {
        if change.settings.is_empty() && change.renamed.is_empty() && !change.moved {
            return;
        }
        let mut inner = self.inner.write();
        inner.generation += 1;
        if change.moved || !change.settings.is_empty() {
            inner.changes += 1;
            inner.answers.clear();
        }
        for file in change.renamed {
            inner.answers.remove(&file);
        }
        for (directory, key, setting) in change.settings {
            let settings = inner.settings.entry(directory).or_default();
            settings.set(key, setting);
            if settings.is_empty() {
                inner.settings.remove(&directory);
            }
        }
        self.any.store(!inner.settings.is_empty(), Ordering::Release);
    }
}

/// What a row of an extended attribute sets, if it is one of a policy. A value that can't be, or an unknown name, came from a peer with another
/// version: it counts as absent.
fn setting_of(key: &[u8], row: Option<&Value>) -> Result<Option<(FileId, Key, Option<Setting>)>, DecodeError> {
    let Some((file, name)) = key.split_at_checked(8).filter(|(_, name)| name.starts_with(PREFIX)) else {
        return Ok(None);
    };
    let file = FileId(table::read_u64(file, "the key of an attribute")?);
    let value = row.cloned().map(Xattr::decode).transpose()?.and_then(|xattr| xattr.value);
    let Some(key) = Key::from_attribute(name) else {
        if value.is_some() {
            tracing::warn!(%file, attribute = %String::from_utf8_lossy(name), "another site set an attribute that is unknown here");
        }
        return Ok(None);
    };
    let setting = value.and_then(|value| match Setting::parse(key, &value) {
        Ok(setting) => Some(setting),
        Err(error) => {
            tracing::warn!(%file, %error, "another site set a policy that is unknown here; it counts as not set");
            None
        }
    });
    Ok(Some((file, key, setting)))
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
