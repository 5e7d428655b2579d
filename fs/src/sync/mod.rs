//! Waiting for other sites, where the policy of a directory says so.

mod acknowledged;

pub use acknowledged::Acknowledged;
use proto::ids::{FileId, Lane, LanePoint, Position, SiteId};

use crate::error::FsError;
use crate::journal::Lsn;
use crate::ops::Scope;
use crate::volume::Volume;

impl Volume {
    /// Returns when the policies of `scope` are satisfied for the record at `position`, which is in the batch `lsn`: at once in asynchronous
    /// directories. No lock may be held.
    pub(crate) fn settle(&self, _scope: &Scope, _position: Position, _lsn: Lsn) -> Result<(), FsError> {
        Ok(())
    }

    /// As [`settle`](Self::settle), for all that this site has changed in a file so far.
    pub(crate) fn settle_file(&self, _file: FileId) -> Result<(), FsError> {
        Ok(())
    }

    /// Whether callers may wait for other sites anywhere in the volume.
    pub(crate) fn has_sync_directories(&self) -> bool {
        false
    }

    /// Whether an operation on the file, or in the directory, may have to wait for other sites.
    pub fn waits_for_peers(&self, _file: FileId) -> bool {
        false
    }

    /// A peer has applied and made durable this site's lane up to the point. Returns at once.
    pub fn peer_acknowledged(&self, peer: SiteId, lane: Lane, point: LanePoint) {
        self.acknowledged.set(peer, lane, point);
    }

    /// The connections to a peer stand, or one of them is gone. Returns at once.
    pub fn peer_connected(&self, peer: SiteId, connected: bool) {
        self.acknowledged.connected(peer, connected);
    }
}
