//! A mount, from the first request to the last.
//!
//! What is asked of the kernel stands in [`negotiate`]. The session ends when the file system is unmounted, from here or by
//! anyone; [`MountedSession::wait`] tells. The volume stays open, and may be mounted again.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fuser::{Config, InitFlags, KernelConfig, MountOption, Session, SessionACL};
use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::thread::CapabilitySet;

use super::adapter::Adapter;
use super::invalidate::invalidate;
use super::mapped;
use super::mount_point::{self, MountError};
use super::opening::OpenFiles;
use crate::volume::Volume;

/// The largest write request. The kernel's own limit (fs.fuse.max_pages_limit) is the same by default.
const MAX_WRITE_BYTES: u32 = 1 << 20;
/// Read-ahead and asynchronous direct requests at once; the kernel's default of 12 starves several readers.
const MAX_BACKGROUND: u16 = 64;
/// Fewer request threads would let a few waits hold up everything else.
const MIN_THREADS: usize = 4;
/// How long the request threads may take to notice that the file system is gone.
const END_LIMIT: Duration = Duration::from_secs(30);

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Threads that answer requests; by default as many as cores, and at least 4.
    pub threads: Option<usize>,
    /// Let the kernel read objects itself, where it can.
    pub passthrough: bool,
    /// Let users other than the one who mounts in, by the files' permissions. By default where it is allowed: for
    /// root, and where /etc/fuse.conf says `user_allow_other`.
    pub allow_other: Option<bool>,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self { threads: None, passthrough: true, allow_other: None }
    }
}

/// What a mount is like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionInfo {
    /// Where it is mounted, without links.
    pub mount_point: PathBuf,
    /// The kernel reads objects itself; otherwise all reads pass the daemon and are slower.
    pub passthrough: bool,
    /// Threads that answer requests.
    pub threads: usize,
    /// Other users are let in.
    pub allow_other: bool,
}

/// Why a file system is still mounted.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// Programs use it.
    #[error("{0} is in use: close the programs that work in it (fuser -vm {0} lists them), then try again")]
    Busy(PathBuf),
    /// May not.
    #[error("not allowed to unmount {path}: run as root, or install fusermount3 ({cause})")]
    NotAllowed {
        /// The mount point.
        path: PathBuf,
        /// The system's answer.
        cause: String,
    },
    /// It is unmounted, but requests are still being answered.
    #[error("{0} is unmounted, but its requests did not end within 30 s: see the log for what they wait for")]
    StillRunning(PathBuf),
    /// Anything else that the system answered.
    #[error("unmounting {path} failed: {source}")]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// The session broke; the file system is unmounted.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the session with the kernel broke: {0}")]
pub struct EndError(Arc<io::Error>);

/// A mounted volume. Dropped, it is unmounted, or detached if it is in use.
#[derive(Debug)]
pub struct MountedSession {
    mount_point: PathBuf,
    threads: usize,
    allow_other: bool,
    files: Arc<OpenFiles>,
    end: Arc<End>,
}

#[derive(Debug, Default)]
pub(super) struct End {
    result: Mutex<Option<Result<(), EndError>>>,
    reached: Condvar,
}

/// Mounts the volume on an empty directory. Returns once it answers.
pub fn mount(volume: Arc<Volume>, mount_point: &Path, options: &MountOptions) -> Result<MountedSession, MountError> {
    let store = volume.store_path();
    let mount_point = mount_point::check(mount_point, store)?;
    let threads = options.threads.unwrap_or_else(default_threads).max(1);
    let allow_other = options.allow_other.unwrap_or_else(may_allow_other);
    let files = Arc::new(OpenFiles::new(options.passthrough && may_pass_through() && !is_stacked(store)));

    let mut config = Config::default();
    config.mount_options = mount_options(store);
    config.acl = if allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(threads);
    config.clone_fd = true;
    let adapter = Adapter::new(volume.clone(), files.clone(), threads);
    let refused = |source| MountError::from_mounting(&mount_point, source);
    let session = Session::new(adapter, &mount_point, &config).map_err(refused)?;

    for (file, opens) in volume.watched_unseen() {
        files.assume_mapped(file, opens);
    }
    // Before the first request is answered: what is answered may be cached.
    let notifier = session.notifier();
    volume.on_invalidate(Box::new(move |changed| invalidate(&notifier, changed)));
    let end = Arc::new(End::default());
    mapped::look_after(volume.clone(), files.clone(), end.clone()).map_err(refused)?;
    let (run_end, run_files) = (end.clone(), files.clone());
    let run = move || {
        let result = session.run().map_err(|error| EndError(Arc::new(error)));
        // What is mapped beyond the end of the mount stays marked, and is shipped when the store is next opened.
        mapped::look(&volume, &run_files);
        volume.on_invalidate(Box::new(|_| ()));
        volume.forget_all();
        *run_end.result.lock() = Some(result);
        run_end.reached.notify_all();
    };
    thread::Builder::new().name("fuse-session".into()).spawn(run).map_err(refused)?;

    let mounted = MountedSession { mount_point, threads, allow_other, files, end };
    let SessionInfo { mount_point, passthrough, .. } = mounted.info();
    tracing::info!("mounted on {} with {threads} request threads", mount_point.display());
    if options.passthrough && !passthrough {
        tracing::warn!(
            "reads pass through the daemon and are slower: letting the kernel read the store itself needs Linux 6.9, CAP_SYS_ADMIN and a store that is in no \
             overlay"
        );
    }
    Ok(mounted)
}

impl End {
    /// Waits until the session has ended. Whether it has.
    pub(super) fn wait(&self, limit: Duration) -> bool {
        let mut result = self.result.lock();
        if result.is_none() {
            self.reached.wait_for(&mut result, limit);
        }
        result.is_some()
    }
}

impl MountedSession {
    /// What the mount is like now.
    pub fn info(&self) -> SessionInfo {
        SessionInfo {
            mount_point: self.mount_point.clone(),
            passthrough: self.files.passthrough(),
            threads: self.threads,
            allow_other: self.allow_other,
        }
    }

    /// Unmounts and waits for the last answer. Nothing happens if the file system is in use, or unmounted already.
    pub fn unmount(&self) -> Result<(), UnmountError> {
        if self.wait(Some(Duration::ZERO)).is_some() {
            return Ok(());
        }
        self.take_away(UnmountFlags::empty())?;
        match self.wait(Some(END_LIMIT)) {
            Some(_) => Ok(()),
            None => Err(UnmountError::StillRunning(self.mount_point.clone())),
        }
    }

    /// Takes the file system out of the tree at once; it ends when the last program has closed what it has open in it.
    pub fn detach(&self) -> Result<(), UnmountError> {
        if self.wait(Some(Duration::ZERO)).is_some() { Ok(()) } else { self.take_away(UnmountFlags::DETACH) }
    }

    /// Waits until the file system is unmounted, from here or by anyone. `None`: it is still mounted after `limit`.
    pub fn wait(&self, limit: Option<Duration>) -> Option<Result<(), EndError>> {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut result = self.end.result.lock();
        while result.is_none() {
            match deadline {
                None => self.end.reached.wait(&mut result),
                Some(deadline) if self.end.reached.wait_until(&mut result, deadline).timed_out() => break,
                Some(_) => {}
            }
        }
        result.clone()
    }

    fn take_away(&self, flags: UnmountFlags) -> Result<(), UnmountError> {
        let path = self.mount_point.clone();
        match rustix::mount::unmount(&path, flags | UnmountFlags::NOFOLLOW) {
            Ok(()) => Ok(()),
            Err(Errno::BUSY) => Err(UnmountError::Busy(path)),
            Err(Errno::PERM) => self.take_away_by_helper(flags),
            // Not mounted (any more): then the session ends.
            Err(Errno::INVAL | Errno::NOENT) if self.wait(Some(END_LIMIT)).is_some() => Ok(()),
            Err(errno) => Err(UnmountError::Refused { path, source: errno.into() }),
        }
    }

    fn take_away_by_helper(&self, flags: UnmountFlags) -> Result<(), UnmountError> {
        let path = self.mount_point.clone();
        let mut helper = Command::new("fusermount3");
        helper.arg("-u");
        if flags.contains(UnmountFlags::DETACH) {
            helper.arg("-z");
        }
        match helper.arg("--").arg(&path).output() {
            Err(error) => Err(UnmountError::NotAllowed { path, cause: error.to_string() }),
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => match String::from_utf8_lossy(&output.stderr).trim() {
                cause if cause.contains("busy") => Err(UnmountError::Busy(path)),
                cause => Err(UnmountError::NotAllowed { path, cause: cause.to_owned() }),
            },
        }
    }
}

impl Drop for MountedSession {
    fn drop(&mut self) {
        let Err(error) = self.unmount() else { return };
        tracing::warn!("{error}; it is detached");
        if let Err(error) = self.detach() {
            tracing::error!("{error}");
        }
    }
}

/// Asks the kernel for what suits a volume. Whether it passes through is the answer.
///
/// | asked for | why |
/// |---|---|
/// | PASSTHROUGH | reads at the speed of the disk below |
/// | PARALLEL_DIROPS | lookups and listings of one directory at once |
/// | DO_READDIRPLUS, READDIRPLUS_AUTO | `ls -l` in one go, `ls` without attributes |
/// | ASYNC_DIO | several requests of one O_DIRECT call at once |
/// | HANDLE_KILLPRIV_V2 | no GETXATTR for each write; the volume clears suid, sgid and file capabilities |
/// | CACHE_SYMLINKS | a link's target never changes |
/// | EXPLICIT_INVAL_DATA | pages go when replay says which, not all of them when the size has changed |
///
/// Not asked for: ATOMIC_O_TRUNC (a program that runs would lose its text to an open for reading with O_TRUNC before the kernel refuses that, and
/// the caller's right to keep suid is not told); WRITEBACK_CACHE (excludes passthrough, hides writes and their order, overrides sizes and times that replay
/// brings); AUTO_INVAL_DATA (own writes would drop own pages); POSIX_ACL; POSIX_LOCKS and FLOCK_LOCKS (the kernel's own locks serve
/// all programs at a site); DIRECT_IO_ALLOW_MMAP (no open is direct without being passed through, and it would flush at each direct
/// request); EXPORT_SUPPORT.
pub(super) fn negotiate(config: &mut KernelConfig) -> bool {
    let wanted = InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_READDIRPLUS_AUTO
        | InitFlags::FUSE_ASYNC_DIO
        | InitFlags::FUSE_HANDLE_KILLPRIV_V2
        | InitFlags::FUSE_CACHE_SYMLINKS
        | InitFlags::FUSE_EXPLICIT_INVAL_DATA;
    if let Err(missing) = config.add_capabilities(wanted) {
        tracing::debug!("the kernel lacks {missing:?}");
        // What is not missing is there; each of these is an improvement only.
        _ = config.add_capabilities(wanted - missing);
    }
    for refused in
        [config.set_max_write(MAX_WRITE_BYTES).err(), config.set_max_background(MAX_BACKGROUND).err().map(u32::from)]
    {
        debug_assert_eq!(refused, None, "fuser takes these values");
    }
    // More would forbid overlays on top of the mount, such as container images, of which the kernel allows 2 in all.
    config.set_max_stack_depth(1).is_ok() && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
}

/// Whether objects lie in an overlay, as in a container. A mapping of a file in one holds the file below it only, and whether there is one can't be told.
fn is_stacked(store: &Path) -> bool {
    const OVERLAYFS: u64 = 0x794c_7630;
    rustix::fs::statfs(store).is_ok_and(|stat| stat.f_type as u64 == OVERLAYFS)
}

fn mount_options(store: &Path) -> Vec<MountOption> {
    let mut options = HashSet::from([
        MountOption::FSName(mount_point::source_of_store(store)),
        // As the kernel's own option, so that the type in /proc/mounts is fuse.syncline.
        MountOption::CUSTOM("subtype=syncline".into()),
        // Whoever is let in is checked by the kernel.
        MountOption::DefaultPermissions,
        // Access times are not kept: reads are not seen. Programs can read so in the mount's flags.
        MountOption::NoAtime,
    ]);
    if rustix::process::geteuid().is_root() {
        // fuser forbids both otherwise; a local file system has them.
        options.extend([MountOption::Dev, MountOption::Suid]);
    }
    options.into_iter().collect()
}

fn default_threads() -> usize {
    thread::available_parallelism().map_or(MIN_THREADS, |cores| cores.get().max(MIN_THREADS))
}

fn may_pass_through() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

fn may_allow_other() -> bool {
    let configured = || {
        std::fs::read_to_string("/etc/fuse.conf")
            .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"))
    };
    rustix::process::geteuid().is_root() || configured()
}
