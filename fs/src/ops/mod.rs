//! The operations of a file system, as programs call them: check, make the record, apply it, commit.

mod attr;
pub(crate) mod data;
mod lookup;
mod namespace;
mod open;
mod space;
mod xattr;

pub(crate) use open::Holders;
use proto::hlc::Stamp;
use proto::ids::Lane;
use proto::record::{Op, Record};

use crate::error::FsError;
use crate::tree::apply::{self, ApplyError};
use crate::txn::{Txn, deps};

/// The lane of every record until directories have a policy.
pub(crate) const LANE: Lane = Lane::Normal;

/// Applies a local change without content and commits it with its record. `seen` are the stamps of what the operation touched.
pub(crate) fn commit(
    mut txn: Txn<'_>,
    op: Op,
    seen: impl IntoIterator<Item = Stamp>,
) -> Result<crate::txn::Committed, FsError> {
    let stamp = txn.next_stamp(LANE);
    let deps = deps(stamp.position.site, LANE, seen);
    apply::apply(&mut txn, stamp, &op).map_err(local)?;
    let record = Record { seq: stamp.position.seq, hlc: stamp.hlc, deps, op };
    txn.commit_own(LANE, &record, &Default::default())
}

/// A local operation was checked before: that it is refused now means that the store contradicts itself.
pub(crate) fn local(error: ApplyError) -> FsError {
    match error {
        ApplyError::Refused(why) => FsError::Damaged(why),
        ApplyError::Fs(error) => error,
    }
}
