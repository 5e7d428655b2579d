//! Names at which a program looks a second time.
//!
//! An `open` with O_CREAT of a name that was missing may find that replay has made it since. The kernel is told to look again, which it does once: were the
//! name gone by then, and there again when it is to be made, the program would get ESTALE. So replay leaves the name's directory alone until the file that was
//! found is opened, or for a moment: the kernel may refuse the program before it asks.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use proto::ids::FileId;
use proto::record::{Op, Record};

use crate::error::FsError;
use crate::txn::Txn;
use crate::volume::Volume;

/// How long a second look takes at most, else nothing is kept for it.
const LOOK: Duration = Duration::from_millis(100);
/// How long a group of records waits for second looks at most: one may follow the other.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Second looks that are going on.
#[derive(Default)]
pub struct SecondLooks {
    looks: Mutex<Vec<Look>>,
    ended: Condvar,
    /// How many there are, for the many who ask when there is none.
    count: AtomicUsize,
}

struct Look {
    parent: FileId,
    file: FileId,
    until: Instant,
}

impl SecondLooks {
    fn begin(&self, parent: FileId, file: FileId) {
        let mut looks = self.looks.lock();
        looks.push(Look { parent, file, until: Instant::now() + LOOK });
        self.count.store(looks.len(), Ordering::SeqCst);
    }

    fn are_none(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// A file is opened: a look that found it has ended.
    pub fn end(&self, file: FileId) {
        if self.are_none() {
            return;
        }
        let mut looks = self.looks.lock();
        if let Some(index) = looks.iter().position(|look| look.file == file) {
            looks.swap_remove(index);
            self.count.store(looks.len(), Ordering::SeqCst);
            self.ended.notify_all();
        }
    }

    /// Whether somebody looks at a directory in which the records make or remove names.
    pub(super) fn concern(&self, records: &[Record]) -> bool {
        if self.are_none() {
            return false;
        }
        let looks = self.looks.lock();
        let (parents, now) = (parents(records), Instant::now());
        looks.iter().any(|look| look.until > now && parents.contains(&look.parent))
    }

    /// Waits until that is so no more, or the time is up.
    pub(super) fn wait(&self, records: &[Record], until: Instant) {
        if self.are_none() {
            return;
        }
        let parents = parents(records);
        let mut looks = self.looks.lock();
        loop {
            let now = Instant::now();
            looks.retain(|look| look.until > now);
            self.count.store(looks.len(), Ordering::SeqCst);
            let concern = looks.iter().filter(|look| parents.contains(&look.parent));
            let Some(next) = concern.map(|look| look.until).min() else { return };
            if now >= until {
                return;
            }
            self.ended.wait_until(&mut looks, next.min(until));
        }
    }
}

impl Volume {
    /// A program is going to look again at a name that was missing and is there now. Whether it is there still: then replay does not take it away before
    /// the file is opened, for a moment.
    pub fn keep_for_second_look(&self, parent: FileId, name: &[u8]) -> Result<bool, FsError> {
        // Under the writer's lock nothing is replayed.
        let txn = Txn::begin(self)?;
        let candidates = txn.candidates(parent, name)?;
        let Some(visible) = candidates.visible() else { return Ok(false) };
        self.second_looks.begin(parent, visible.file);
        Ok(true)
    }
}

/// Directories in which the records make or remove names.
fn parents(records: &[Record]) -> BTreeSet<FileId> {
    let mut parents = BTreeSet::new();
    for record in records {
        match &record.op {
            Op::Create { parent, .. } | Op::Link { parent, .. } | Op::Remove { parent, .. } => {
                parents.insert(*parent);
            }
            Op::Rename { moves, .. } => {
                for each in moves {
                    parents.extend([each.from, each.parent]);
                }
            }
            Op::SetAttr { .. } | Op::SetXattr { .. } | Op::Content(_) => {}
        }
    }
    parents
}
