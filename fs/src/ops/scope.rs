//! Which policies an operation is under, and so which lane its record takes and for whom its caller waits.

use std::sync::Arc;

use proto::hlc::Stamp;
use proto::ids::{FileId, Lane};

use crate::error::FsError;
use crate::policy::Effective;
use crate::txn::Txn;

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

    /// The lane of a record that was made upon what `seen` are the stamps of.
    pub fn lane(&self, _txn: &Txn<'_>, _seen: &[Stamp]) -> Lane {
        Lane::Normal
    }
}
