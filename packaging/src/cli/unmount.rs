//! `syncline unmount`: ends a site's daemon in order.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{CommandResult, Outcome, print_line};
use crate::control::client::{CallError, call};
use crate::control::{Reply, Request};
use crate::mounts::{self, FindError};
use crate::store_dir::Lock;

/// For the daemon to flush and unmount.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(120);
/// For the daemon to end afterwards: it sends what the peers still take, and closes the store.
const END_LIMIT: Duration = Duration::from_secs(60);

/// Flush, unmount, and wait until the daemon has ended
///
/// While programs use the mount, nothing is changed and they are named. A mount whose daemon is gone is removed.
#[derive(clap::Args, Debug)]
#[command(
    visible_alias = "umount",
    after_help = "\
Example:
  syncline unmount /mnt/data"
)]
pub struct Args {
    /// Where the site is mounted
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
}

/// Why it is still mounted, or the daemon still there.
#[derive(Debug, thiserror::Error)]
enum UnmountError {
    #[error("{} is no mountpoint, but inside the mount at {}", path.display(), point.display())]
    Inside { path: PathBuf, point: PathBuf },
    #[error("{} is in use; it stays mounted until these programs have left it:\n{users}", point.display())]
    Busy { point: PathBuf, users: String },
    #[error("{} is unmounted, but its daemon (pid {pid}) has not ended within {} s; its log is in {}/log",
        point.display(), END_LIMIT.as_secs(), store.display())]
    StillThere { point: PathBuf, store: PathBuf, pid: String },
    #[error("cannot remove the mount at {}, whose daemon is gone: {source}", point.display())]
    Stale { point: PathBuf, source: std::io::Error },
}

pub fn run(args: &Args) -> CommandResult {
    let (mount, store) = mounts::find(&args.mountpoint)?;
    let path = mounts::resolve(&args.mountpoint)?;
    if path != mount.point {
        return Err(UnmountError::Inside { path, point: mount.point }.into());
    }
    match call(&store, Request::Unmount, UNMOUNT_LIMIT) {
        Ok(Reply::Unmounted) => wait_for_end(&mount.point, &store)?,
        Ok(Reply::Busy { users }) => return Err(UnmountError::Busy { point: mount.point, users }.into()),
        Ok(other) => return Err(super::unexpected(&other)),
        // A daemon that was about to end may be gone before it answers; what counts is that it is unmounted.
        Err(CallError::NoDaemon { .. } | CallError::Broken { .. }) if !is_mounted(&mount.point)? => {
            wait_for_end(&mount.point, &store)?;
        }
        Err(CallError::NoDaemon { .. }) if mount.is_stale() => {
            let point = mount.point;
            mounts::detach(&point).map_err(|source| UnmountError::Stale { point: point.clone(), source })?;
            print_line(format_args!("{}: its daemon was gone; the mount is removed", point.display()))?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Outcome::Done)
}

fn is_mounted(point: &Path) -> Result<bool, FindError> {
    Ok(mounts::at(point)?.is_some_and(|mount| mount.store().is_some()))
}

fn wait_for_end(point: &Path, store: &Path) -> Result<(), UnmountError> {
    if Lock::wait_until_free(store, END_LIMIT) {
        return Ok(());
    }
    let pid = Lock::holder(store).map_or_else(|| "unknown".into(), |pid| pid.to_string());
    Err(UnmountError::StillThere { point: point.to_owned(), store: store.to_owned(), pid })
}
