//! A site at work: wires the volume, the replicator, the mount and the control socket; ends them in order.
//!
//! Up: lock, control socket, volume (recovers), replicator (asks the peers whether records were lost here), mount. Down, in the order in which each needs the next: the
//! mount (no more changes), the replicator (sends what the peers still take), the volume (folds and closes), the lock.
//! Everything that can fail at the start comes before the mount, so a mount that was made always comes to the orderly
//! end.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fs::error::FsError;
use fs::fuse::{EndError, MountError, MountOptions, MountedSession, UnmountError};
use fs::volume::{OpenError, Volume, VolumeOptions};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout};

use crate::busy;
use crate::config::Config;
use crate::control::{server, socket_path};
use crate::founding::{self, IdentityError};
use crate::metrics;
use crate::mounts::{self, FindError};
use crate::peers::{Peers, PeersError};
use crate::signals::Signals;
use crate::store_dir::{Lock, LockError};

/// How long the peers may take for what they lack, after the mount is gone.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// How long the start may wait for a peer that is reached and silent, to learn whether the end of the journal was lost.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);
/// How long the replicator may take to end its connections in order.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);
/// How long requests may go on after the mount was taken away from under programs.
const DETACHED_LIMIT: Duration = Duration::from_secs(5);
/// How long tasks may take to notice the end.
const RUNTIME_LIMIT: Duration = Duration::from_secs(5);

/// Why a site is not at work, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another daemon has the store, or there is none.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The identity can't be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The mount point can't be looked at.
    #[error(transparent)]
    MountPoint(#[from] FindError),
    /// A dead daemon's mount is in the way.
    #[error("{} is still mounted though its daemon is gone, and can't be removed: {source}; try `umount -l`", point.display())]
    Stale {
        /// Where.
        point: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The store can't be opened.
    #[error("cannot open the store {}: {source}", store.display())]
    Open {
        /// Which.
        store: PathBuf,
        /// Why not.
        source: OpenError,
    },
    /// The replicator can't start.
    #[error(transparent)]
    Peers(#[from] PeersError),
    /// The volume can't be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The address for metrics can't be had.
    #[error("cannot listen at {address} for metrics: {source}; correct `metrics` in the configuration")]
    Metrics {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Threads, signals or the control socket can't be had.
    #[error("cannot set up {what}: {source}")]
    Setup {
        /// What.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The kernel's connection broke.
    #[error(transparent)]
    Session(#[from] EndError),
    /// The store did not close cleanly.
    #[error("the store was not closed cleanly, and will be recovered when it is mounted next: {0}")]
    Close(FsError),
}

/// A site that is mounted.
pub struct Site {
    /// What it was told.
    pub config: Config,
    /// Its replica.
    pub volume: Arc<Volume>,
    /// The other sites.
    pub peers: Peers,
    /// Its mount.
    pub session: MountedSession,
    /// When it started.
    pub started: Instant,
}

/// Where a daemon is asked.
struct Doors {
    control: UnixListener,
    metrics: Option<TcpListener>,
}

/// Threads of the runtime.
const LEAST_THREADS: usize = 4;

/// Mounts, calls `ready`, and returns when the site has been unmounted, by a signal, a command or `umount`.
pub fn run(config: Config, mountpoint: PathBuf, ready: impl FnOnce()) -> Result<(), DaemonError> {
    founding::check_store(&config.store)?;
    let _lock = Lock::take(&config.store)?;
    let identity = founding::load(&config)?;
    remove_stale_mount(&mountpoint)?;
    let setup = |what| move |source| DaemonError::Setup { what, source };
    // More than a small machine has cores: a short call of the store may block one for a moment.
    let threads = std::thread::available_parallelism().map_or(1, usize::from).max(LEAST_THREADS);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(threads).enable_all().build().map_err(setup("threads"))?;
    let (signals, doors) = {
        let _entered = runtime.enter();
        let signals = Signals::new().map_err(setup("signals"))?;
        let control = server::bind(&config.store).map_err(setup("the control socket"))?;
        (
            signals,
            Doors { control, metrics: config.metrics.map(|address| bind_metrics(&runtime, address)).transpose()? },
        )
    };

    let store = config.store.clone();
    let volume = Volume::start(&store, volume_options(&config))
        .map_err(|source| DaemonError::Open { store: store.clone(), source })?;
    let result = start(&runtime, config, &volume, identity, &mountpoint)
        .and_then(|site| work(&runtime, site, signals, doors, ready));

    runtime.shutdown_timeout(RUNTIME_LIMIT);
    let closed = volume.close();
    // Nobody answers there any more; one that stays is replaced at the next start.
    let _ = std::fs::remove_file(socket_path(&store));
    result?;
    closed.map_err(DaemonError::Close)?;
    tracing::info!("closed the store {}", store.display());
    Ok(())
}

fn start(
    runtime: &Runtime,
    config: Config,
    volume: &Arc<Volume>,
    identity: founding::Identity,
    mountpoint: &Path,
) -> Result<Site, DaemonError> {
    let peers = runtime.block_on(Peers::start(volume.clone(), identity, &config))?;
    if let Err(error) = runtime.block_on(peers.settle_tail(SETTLE_LIMIT)) {
        runtime.block_on(peers.shutdown(SHUTDOWN_LIMIT));
        return Err(error.into());
    }
    let options =
        MountOptions { threads: config.threads, passthrough: config.passthrough, allow_other: config.allow_other };
    match fs::fuse::mount(volume.clone(), mountpoint, &options) {
        Ok(session) => Ok(Site { config, volume: volume.clone(), peers, session, started: Instant::now() }),
        Err(error) => {
            runtime.block_on(peers.shutdown(SHUTDOWN_LIMIT));
            Err(error.into())
        }
    }
}

/// From the mount to its end, and then the replicator's.
fn work(
    runtime: &Runtime,
    site: Site,
    signals: Signals,
    doors: Doors,
    ready: impl FnOnce(),
) -> Result<(), DaemonError> {
    tracing::info!(
        volume = site.config.volume,
        site = site.config.site,
        store = %site.config.store.display(),
        "syncline {} is at work",
        env!("CARGO_PKG_VERSION")
    );
    let site = Arc::new(site);
    let answering = runtime.spawn(server::serve(doors.control, site.clone()));
    let measured = doors.metrics.map(|listener| runtime.spawn(metrics::server::serve(listener, site.clone())));
    ready();
    let ended = runtime.block_on(until_unmounted(site.clone(), signals));
    tracing::info!("unmounted; sending the peers what they still take within {} s", DRAIN_LIMIT.as_secs());
    runtime.block_on(site.peers.drain(DRAIN_LIMIT));
    answering.abort();
    measured.inspect(JoinHandle::abort);
    runtime.block_on(site.peers.shutdown(SHUTDOWN_LIMIT));
    Ok(ended?)
}

/// The first signal unmounts, unless programs use the mount; the next detaches it from under them.
async fn until_unmounted(site: Arc<Site>, mut signals: Signals) -> Result<(), EndError> {
    let mut ended = watch_end(site.clone());
    let mut asked = false;
    loop {
        tokio::select! {
            result = &mut ended => return result.unwrap_or(Ok(())),
            name = signals.next() => {
                tracing::info!("{name}: {}", if asked { "detaching the mount" } else { "unmounting" });
                if asked {
                    break;
                }
                asked = true;
                tokio::spawn(unmount_on_signal(site.clone()));
            }
        }
    }
    // Callers that wait for other sites would hold up the end; they learn that it is not known whether those have what they did.
    site.volume.stop_waiting();
    let deadline = tokio::time::Instant::now() + DETACHED_LIMIT;
    let detached = site.clone();
    let detach = move || {
        // Who waits for other sites would hold the mount for as long as policies say.
        detached.volume.stop_waiting();
        detached.session.detach()
    };
    match timeout(DETACHED_LIMIT, tokio::task::spawn_blocking(detach)).await {
        Ok(Ok(Ok(()))) => {}
        failed => tracing::error!("the mount can't be detached: {failed:?}"),
    }
    tokio::select! {
        result = &mut ended => result.unwrap_or(Ok(())),
        () = sleep_until(deadline) => {
            tracing::warn!("programs still use the detached mount; their calls fail from now on");
            Ok(())
        }
    }
}

async fn unmount_on_signal(site: Arc<Site>) {
    match site.unmount().await {
        Ok(()) => {}
        Err(UnmountError::Busy(point)) => {
            let users = busy::describe(&point, std::process::id());
            tracing::warn!("{} stays mounted; another signal detaches it. In use by:\n{users}", point.display());
        }
        Err(error) => tracing::error!("{error}; another signal detaches it"),
    }
}

/// Tells when the mount has ended, whoever ended it.
fn watch_end(site: Arc<Site>) -> oneshot::Receiver<Result<(), EndError>> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        // Nobody may listen any more.
        let _ = sender.send(site.session.wait(None).unwrap_or(Ok(())));
    });
    receiver
}

impl Site {
    /// Makes durable what was changed, and unmounts. Nothing happens while programs use the mount.
    pub async fn unmount(self: &Arc<Self>) -> Result<(), UnmountError> {
        let site = self.clone();
        let unmounting = tokio::task::spawn_blocking(move || {
            // Here only: peers may be away for as long as they like.
            if let Err(error) = site.volume.wait_durable(site.volume.appended()) {
                tracing::error!("the last changes are not durable: {error}");
            }
            site.session.unmount()
        });
        unmounting.await.unwrap_or_else(|error| {
            let path = self.session.info().mount_point;
            Err(UnmountError::Refused { path, source: io::Error::other(error) })
        })
    }
}

fn bind_metrics(runtime: &Runtime, address: SocketAddr) -> Result<TcpListener, DaemonError> {
    runtime.block_on(metrics::server::bind(address)).map_err(|source| DaemonError::Metrics { address, source })
}

fn volume_options(config: &Config) -> VolumeOptions {
    VolumeOptions {
        journal_file_bytes: config.journal_file_bytes,
        flush_interval: config.flush_interval,
        max_clock_drift: config.max_clock_drift,
        site_name: config.site.clone(),
    }
}

/// A daemon that died left its mount behind: "Transport endpoint is not connected".
fn remove_stale_mount(mountpoint: &Path) -> Result<(), DaemonError> {
    let Some(mount) = mounts::at(mountpoint)? else { return Ok(()) };
    if mount.store().is_none() || !mount.is_stale() {
        return Ok(());
    }
    tracing::warn!("{} was left mounted by a daemon that is gone; removing that mount", mountpoint.display());
    mounts::detach(mountpoint).map_err(|source| DaemonError::Stale { point: mountpoint.to_owned(), source })
}
