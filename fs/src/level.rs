//! Brings this site level with a peer by its state, where records can't: they are no longer in its journal, or this site lost them.
//!
//! The peer streams its state of one instant; this site merges it into its own by the rules of the tree, and asks for the content of the files
//! whose stamp it did not have. What this site made and the peer lacks stays, and goes on being shipped as records.

use std::sync::Arc;

use bytes::Bytes;
use proto::ids::{FileId, Lane, LanePoint, SiteId};

use crate::error::FsError;
use crate::journal::Lsn;
use crate::volume::Volume;

/// Chunks in order, each below 2 MiB.
pub type Chunks = Box<dyn Iterator<Item = Result<Bytes, FsError>> + Send>;

/// A peer's state being taken in.
pub struct Level {
    _volume: Arc<Volume>,
}

/// What is so when a peer's state has been taken in.
#[derive(Clone, Debug)]
pub struct Levelled {
    /// How far this site's own lanes had come at the peer. Where that is beyond this site's journal, records were lost here.
    pub own: [LanePoint; Lane::ALL.len()],
    /// All of it is durable when this batch is.
    pub lsn: Lsn,
}

impl Volume {
    /// This site's state as of now, without content.
    pub fn state(self: &Arc<Self>) -> Result<Chunks, FsError> {
        Err(FsError::NotSupported("levelling"))
    }

    /// A file's whole content, perhaps newer than the state: the records that made it so follow.
    pub fn content(self: &Arc<Self>, _file: FileId) -> Result<Chunks, FsError> {
        Err(FsError::NotSupported("levelling"))
    }

    /// Begins to take in the state of `from`. None of that peer's records may be replayed until it is finished or dropped.
    pub fn begin_level(self: &Arc<Self>, _from: SiteId) -> Result<Level, FsError> {
        Err(FsError::NotSupported("levelling"))
    }
}

impl Level {
    /// Takes the next chunk of the state.
    pub fn take(&mut self, _chunk: &Bytes) -> Result<(), FsError> {
        Err(FsError::NotSupported("levelling"))
    }

    /// The state is complete: the files whose content is needed, a bounded number at a time, until there are none.
    pub fn wanted(&mut self) -> Result<Vec<FileId>, FsError> {
        Err(FsError::NotSupported("levelling"))
    }

    /// Takes the next chunk of a wanted file's content. A file without a chunk is empty or gone there.
    pub fn take_content(&mut self, _chunk: &Bytes) -> Result<(), FsError> {
        Err(FsError::NotSupported("levelling"))
    }

    /// All is in: the frontiers rise to the peer's.
    pub fn finish(self) -> Result<Levelled, FsError> {
        Err(FsError::NotSupported("levelling"))
    }
}
