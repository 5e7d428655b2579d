//! Which policies an operation is under, and so which lane its record takes and for whom its caller waits.

use std::sync::Arc;

use proto::hlc::Stamp;
use proto::ids::{FileId, Lane, Position};

use crate::error::FsError;
use crate::policy::Effective;
use crate::txn::Txn;
use crate::volume::Volume;

/// The policies of all the places that an operation touches.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    pub policies: Vec<Arc<Effective>>,
}

impl Scope {
    /// The policies in force for the directories and files of `places`, each once, before the transaction changes anything.
    ///
    /// # Errors
    /// [`FsError::OtherWriter`] where one of them names another site as the only writer.
    pub fn of(txn: &Txn<'_>, places: &[FileId]) -> Result<Self, FsError> {
        let mut policies = Vec::new();
        for place in places {
            for effective in txn.volume.policies_of(*place)? {
                if !policies.contains(&effective) {
                    policies.push(effective);
                }
            }
        }
        let scope = Self { policies };
        if txn.is_refusable() {
            txn.volume.check_writer(&scope.policies)?;
        }
        Ok(scope)
    }

    /// The most urgent lane that the policies ask for.
    pub fn urgent(&self) -> Lane {
        self.policies.iter().map(|effective| effective.policy.lane()).min().unwrap_or(Lane::Normal)
    }

    /// The lane of a record that was made upon what `seen` are the stamps of: the most urgent, but not before what it was made upon.
    ///
    /// Where that is this site's own, in a slower lane, and a connected peer still lacks it, the record goes behind it in that lane: in its own it would hold
    /// up there all that follows, until the slower lane has come so far. Its caller may wait longer, the callers of others don't.
    /// While no peer is connected nothing is slowed down: who comes back is behind in any case, and is waited for only when it has caught up.
    pub fn lane(&self, txn: &Txn<'_>, seen: &[Stamp]) -> Lane {
        let (own, urgent) = (txn.volume.site(), self.urgent());
        let lacked = |position: Position| {
            let has = txn.volume.acknowledged.least_of_connected(position.lane);
            has.is_some_and(|point| point < position.point())
        };
        let mut lane = urgent;
        for stamp in seen.iter().filter(|stamp| stamp.position.site == own) {
            if stamp.position.lane > lane && lacked(stamp.position) {
                lane = stamp.position.lane;
            }
        }
        lane
    }
}

impl Volume {
    /// The policies in force for a file or directory, as of now.
    pub(crate) fn scope_of_file(&self, file: FileId) -> Result<Scope, FsError> {
        Ok(Scope { policies: self.policies_of(file)? })
    }
}
