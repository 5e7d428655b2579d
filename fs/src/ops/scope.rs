//! Which policies an operation is under, and so which lane its record takes and for whom its caller waits.

use std::sync::Arc;

use proto::hlc::Stamp;
use proto::ids::{FileId, Lane};

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
    /// The policies in force for the directories and files of `places`.
    pub fn of(_txn: &Txn<'_>, _places: &[FileId]) -> Result<Self, FsError> {
        Ok(Self::default())
    }

    /// The lane of a record that was made upon what `seen` are the stamps of.
    pub fn lane(&self, _txn: &Txn<'_>, _seen: &[Stamp]) -> Lane {
        Lane::Normal
    }
}

impl Volume {
    /// The policies in force for a file or directory, as of now.
    pub(crate) fn scope_of_file(&self, _file: FileId) -> Result<Scope, FsError> {
        Ok(Scope::default())
    }
}
