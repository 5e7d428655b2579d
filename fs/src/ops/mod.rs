//! The operations of a file system, as programs call them: check, make the record, apply it, commit.

mod attr;
mod below;
mod computed;
mod copy;
pub(crate) mod data;
mod departures;
mod lookup;
mod namespace;
mod open;
mod scope;
mod space;
mod touched;
mod xattr;

pub use below::Positions;
pub(crate) use departures::Departures;
pub(crate) use open::Holders;
use proto::hlc::Stamp;
use proto::ids::{FileId, Position};
use proto::record::{Op, Record};
pub(crate) use scope::Scope;

use crate::error::FsError;
use crate::tree::apply::{self, ApplyError};
use crate::txn::{Txn, deps};

/// Applies a local change without content and commits it with its record. `seen` are the stamps of what the operation touched.
pub(crate) fn commit(
    mut txn: Txn<'_>,
    scope: &Scope,
    op: Op,
    seen: impl IntoIterator<Item = Stamp>,
) -> Result<crate::txn::Committed, FsError> {
    let seen: Vec<Stamp> = seen.into_iter().collect();
    let lane = scope.lane(&txn, &seen);
    let stamp = txn.next_stamp(lane);
    let deps = deps(stamp.position.site, lane, seen);
    note_departures(&txn, stamp.position, &op);
    apply::apply(&mut txn, stamp, &op).map_err(local)?;
    let record = Record { seq: stamp.position.seq, hlc: stamp.hlc, deps, op };
    txn.commit_own(lane, &record, &Default::default())
}

/// Under the writer's lock and before the commit: nobody can see the directory without what the record takes out of it, and not find that noted.
fn note_departures(txn: &Txn<'_>, position: Position, op: &Op) {
    let volume = txn.volume;
    let note = |directory| volume.departures.note(directory, position, || volume.journal.watermarks());
    match op {
        Op::Remove { parent, .. } => note(*parent),
        Op::Rename { moves, .. } => {
            // What is replaced stood where the first goes.
            let from = moves.iter().map(|to| to.from);
            from.chain(moves.first().map(|to| to.parent)).for_each(note);
        }
        _ => {}
    }
}

/// As [`commit`], and waits for the other sites where the policies say so; where they are known not to answer and must, nothing is changed. `held` are
/// the directories that the kernel may hold until the operation is answered (others do no harm), see [`crate::visible`].
pub(crate) fn commit_and_settle(
    txn: Txn<'_>,
    scope: &Scope,
    op: Op,
    seen: impl IntoIterator<Item = Stamp>,
    held: &[FileId],
) -> Result<(), FsError> {
    let volume = txn.volume;
    if txn.is_refusable() {
        volume.check_peers(scope)?;
    }
    let committed = commit(txn, scope, op, seen)?;
    volume.settle(scope, committed, held)
}

/// A local operation was checked before: that it is refused now means that the store contradicts itself.
pub(crate) fn local(error: ApplyError) -> FsError {
    match error {
        ApplyError::Refused(why) => FsError::Damaged(why),
        ApplyError::Fs(error) => error,
    }
}
