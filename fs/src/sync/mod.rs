//! Waiting for other sites, where the policy of a directory says so.
//!
//! | module | concept |
//! |---|---|
//! | `acknowledged` | what peers have, for the choice of lanes |
//! | `points` | a position in each of this site's lanes |
//! | [`state`] | what a sync directory knows of one peer: the state machine |
//! | `terms` | what a policy demands |
//! | `root` | a sync directory with its peers' states |
//! | `ledger` | acknowledgements, waits, directories: who has ended waiting, pure |
//! | `parker` | one thread that waits |
//! | `in_use` | whether anybody has waited lately |
//! | `board` | the ledger under its lock, with threads and time |
//! | [`report`] | states for people and metrics |
//!
//! **The way of an fsync.** Its records are shipped as soon as they are appended. The calling thread makes the journal durable here, leading the flush or
//! waiting for who does; meanwhile the peers do the same. Mostly their acknowledgements are there when it is done, or it sleeps until the one that
//! completes what it needs: one wake-up, by the thread that took that acknowledgement.

mod acknowledged;
mod board;
pub(crate) mod in_use;
mod ledger;
mod parker;
mod points;
pub mod report;
mod root;
pub mod state;
mod terms;

use std::time::Instant;

pub use acknowledged::Acknowledged;
pub(crate) use board::Board;
use ledger::MemberPeer;
pub use ledger::SyncRoot;
pub use points::Points;
pub use root::Standing;
pub use terms::{Need, Terms};

use proto::hlc::Stamp;
use proto::ids::{FileId, Lane, LanePoint, SiteId};

use crate::error::FsError;
use crate::journal::Lsn;
use crate::ops::Scope;
use crate::store::table::{self, Table};
use crate::tree::xattr::Xattr;
use crate::txn::Committed;
use crate::types::Invalidation;
use crate::volume::Volume;

impl Volume {
    /// Refuses an operation that has changed nothing yet: a policy of `scope` says `fail`, and peers that it requires are known not to answer.
    pub(crate) fn check_peers(&self, scope: &Scope) -> Result<(), FsError> {
        let needs = needs(scope);
        if needs.is_empty() {
            return Ok(());
        }
        self.refresh_sync_roots();
        self.board.check(&needs, || self.made())
    }

    /// As [`check_peers`](Self::check_peers), for what is done to a file, or in a directory.
    pub(crate) fn check_peers_of(&self, file: FileId) -> Result<(), FsError> {
        self.check_peers(&self.scope_of_file(file)?)
    }

    /// Returns when the policies of `scope` are satisfied for what was committed: at once in asynchronous directories. No lock may be held here; `held`
    /// are the directories that the kernel may hold meanwhile.
    ///
    /// # Errors
    /// [`FsError::PeersLack`]: the change is made, and not known to be at the peers. The kernel takes it for not made, so it is told to look again.
    pub(crate) fn settle(&self, scope: &Scope, committed: Committed, held: &[FileId]) -> Result<(), FsError> {
        let Committed { appended, position, invalidations } = committed;
        let points = Points::of(position.lane, position.point());
        let settled = self.satisfy(&needs(scope), points, appended.lsn, held);
        if settled.is_err() {
            self.invalidate_later(invalidations);
        }
        settled
    }

    /// As [`settle_file`](Self::settle_file), after a change of size.
    pub(crate) fn settle_size(&self, file: FileId) -> Result<(), FsError> {
        let settled = self.settle_file(file);
        if settled.is_err() {
            self.invalidate_later(vec![Invalidation::Content { file, offset: 0, len: 0 }]);
        }
        settled
    }

    /// As [`settle`](Self::settle), for all that this site has changed in a file so far, or in the names of a directory.
    pub(crate) fn settle_file(&self, file: FileId) -> Result<(), FsError> {
        let needs = needs(&self.scope_of_file(file)?);
        if needs.is_empty() { Ok(()) } else { self.satisfy_file(file, &needs) }
    }

    /// As [`settle_file`](Self::settle_file), and everything done at this site so far is durable here, whatever the policy.
    pub(crate) fn sync_file(&self, file: FileId) -> Result<(), FsError> {
        let needs = needs(&self.scope_of_file(file)?);
        if needs.is_empty() { self.wait_durable(self.journal.appended()) } else { self.satisfy_file(file, &needs) }
    }

    fn satisfy_file(&self, file: FileId, needs: &[Need]) -> Result<(), FsError> {
        self.refresh_sync_roots();
        self.board.meet(needs, || self.made());
        // In this order: what the file rests on has been appended when the end of the journal is taken. And that only once: under load it
        // would be further each time, and take another flush.
        let points = self.points_of(file)?;
        self.satisfy(needs, points, self.journal.appended(), &[file])
    }

    fn satisfy(&self, needs: &[Need], points: Points, lsn: Lsn, held: &[FileId]) -> Result<(), FsError> {
        if needs.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        self.wait_durable(lsn)?;
        self.board.wait(points, needs.to_vec(), started, || self.visible.waiting_in(held))
    }

    /// Whether callers may wait for other sites anywhere in the volume.
    pub(crate) fn has_sync_directories(&self) -> bool {
        self.board.has_roots()
    }

    /// Whether an operation on the file, or in the directory, may have to wait for other sites.
    pub fn waits_for_peers(&self, file: FileId) -> bool {
        self.board.has_members() && self.scope_of_file(file).is_ok_and(|scope| !needs(&scope).is_empty())
    }

    /// A peer has applied and made durable this site's lane up to the point. What it said last counts, also where that is less than before: it may
    /// have come back older. So nothing may be said of a connection after the next one stands. Returns at once.
    pub fn peer_acknowledged(&self, peer: SiteId, lane: Lane, point: LanePoint) {
        self.acknowledged.set(peer, lane, point);
        self.board.acknowledged(peer, lane, point);
    }

    /// The connections to a peer stand, or one of them is gone. Returns at once.
    pub fn peer_connected(&self, peer: SiteId, connected: bool) {
        self.acknowledged.connected(peer, connected);
        self.board.connected(peer, connected);
    }

    /// Ends all waits for peers, now and later, with an error: the daemon stops. What was changed stays, and is shipped when it runs again.
    pub fn stop_waiting(&self) {
        self.board.end(CLOSING);
    }

    /// The members have changed.
    pub(crate) fn refresh_members(&self) -> Result<(), FsError> {
        let mut members = Vec::new();
        for member in self.members()? {
            let mut acknowledged = Points::START;
            for lane in Lane::ALL {
                if let Some(point) = self.acknowledged(member.site, lane)? {
                    acknowledged.raise(lane, point);
                }
            }
            members.push(MemberPeer { site: member.site, name: member.name, acknowledged });
        }
        self.board.set_members(members, &self.made());
        Ok(())
    }

    /// Takes over what has changed in policies: which directories are sync, and what they demand. Costs nothing while nothing has.
    pub(crate) fn refresh_sync_roots(&self) {
        self.board.follow_policies(self.policy_changes(), || {
            let mut roots = Vec::new();
            for file in self.sync_roots() {
                // One that is gone, or just going, is sync no more.
                let Ok(policies) = self.policies_of(file) else { continue };
                let linked = self.inode(file).is_ok_and(|inode| inode.is_linked(file));
                let need = policies.first().and_then(|policy| Need::of(policy));
                if let Some(need) = need.filter(|need| linked && need.root == file) {
                    let path = self.path_of(file).unwrap_or_else(|_| format!("directory {file}"));
                    roots.push(SyncRoot { file, path, terms: need.terms });
                }
            }
            (roots, self.made())
        });
    }

    /// All that this site has made.
    pub(crate) fn made(&self) -> Points {
        let (mut made, heads) = (Points::START, self.journal.heads());
        for lane in Lane::ALL {
            let head = heads.get(lane);
            made.raise(lane, LanePoint { incarnation: head.incarnation, seq: head.seq });
        }
        made
    }

    /// The last positions of this site in what it changed of a file. Earlier ones are in the same lanes before them, or among their deps.
    pub(crate) fn points_of(&self, file: FileId) -> Result<Points, FsError> {
        let inode = self.inode(file)?;
        let mut points = Points::START;
        let mut note = |Stamp { position, .. }: Stamp| {
            if position.site == self.site() {
                points.raise(position.lane, position.point());
            }
        };
        inode.stamps().into_iter().chain([inode.mtime_stamp]).for_each(&mut note);
        for (_, row) in self.rows.scan(Table::Xattr, &table::file_key(file), None, usize::MAX)? {
            note(Xattr::decode(row)?.stamp);
        }
        if inode.is_dir() {
            // Its names were changed in the sync lane, whose end is near, or before it became sync, for which the directory's state stands.
            points.raise(Lane::Sync, self.made().get(Lane::Sync));
        }
        Ok(points)
    }
}

const CLOSING: &str =
    "the volume is being closed; what was changed stays, and reaches the peers when the site runs again";

fn needs(scope: &Scope) -> Vec<Need> {
    scope.policies.iter().filter_map(|policy| Need::of(policy)).collect()
}
