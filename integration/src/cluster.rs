//! Several sites of one volume on this machine.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::compare::{self, Strictness};
use crate::outcome::{OrFail, number_from_env};
use crate::proxy::Network;
use crate::reaper::{self, Debris};
use crate::site::{self, Site};

/// Keeps the directory with stores and logs when set.
const KEEP_VARIABLE: &str = "SYNCLINE_TEST_KEEP";
/// Seconds after which a test counts as hung.
const LIMIT_VARIABLE: &str = "SYNCLINE_TEST_LIMIT_S";
/// Starts every cluster as with [`Options::cached`].
const CACHED_VARIABLE: &str = "SYNCLINE_TEST_CACHED";
/// How long sites may take to get level when nothing is in their way.
const LEVEL_LIMIT: Duration = Duration::from_secs(120);

/// How to start a cluster.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where each site keeps its store; those that aren't named get a temporary directory.
    pub stores: Vec<PathBuf>,
    /// After so long all daemons are killed, so that whatever hangs on a mount fails. Default 15 minutes.
    pub limit: Option<Duration>,
    /// Whether the sites dial each other without a proxy between them: for figures of an idle network.
    pub direct: bool,
    /// Whether everything passes the daemons, as where they are not root's.
    pub cached: bool,
}

/// Running sites. Dropping it stops, unmounts and removes everything.
pub struct Cluster {
    // Declared, and so dropped, in this order: sites before the directory that they are mounted in.
    watchdog: Watchdog,
    sites: Vec<Site>,
    network: Arc<Network>,
    directory: Option<TempDir>,
    cached: bool,
}

impl Cluster {
    /// Starts `n` sites of a new volume, joined and mounted.
    ///
    /// # Panics
    /// When anything of that fails, or nothing can be mounted here.
    pub fn start(n: usize, options: Options) -> Self {
        let mut cluster = Self::prepare(n, options);
        for index in 0..n {
            if index == 0 {
                cluster.sites[0].init();
            } else {
                let token = cluster.sites[0].invite();
                cluster.sites[index].join(&token);
            }
            if cluster.cached {
                cluster.sites[index].configure("#passthrough = true", "passthrough = false");
            }
            cluster.start_site(index);
        }
        cluster
    }

    /// `n` sites with nothing done yet: neither initialised nor started.
    pub fn prepare(n: usize, options: Options) -> Self {
        site::require_fuse();
        let directory = tempfile::Builder::new().prefix("syncline-test-").tempdir().or_fail("no temporary directory");
        reaper::note(Debris::Directory(directory.path()));
        let network = Arc::new(if options.direct { Network::direct(n) } else { Network::new(n) });
        let new_site = |index| {
            let own = directory.path().join(format!("store-{index}"));
            let store = options.stores.get(index).cloned().unwrap_or(own);
            Site::new(index, directory.path(), store, network.clone())
        };
        let sites = (0..n).map(new_site).collect();
        let limit = options.limit.unwrap_or(Duration::from_secs(number_from_env(LIMIT_VARIABLE, 900)));
        let cached = options.cached || std::env::var_os(CACHED_VARIABLE).is_some();
        Self { watchdog: Watchdog::start(limit), sites, network, directory: Some(directory), cached }
    }

    /// Whether everything passes the daemons.
    pub fn is_cached(&self) -> bool {
        self.cached
    }

    /// The sites.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// One site.
    pub fn site(&self, index: usize) -> &Site {
        &self.sites[index]
    }

    /// One site, to stop or to kill it.
    pub fn site_mut(&mut self, index: usize) -> &mut Site {
        &mut self.sites[index]
    }

    /// Starts a site that doesn't run.
    pub fn start_site(&mut self, index: usize) {
        self.sites[index].start();
        self.watchdog.watch(&self.sites);
    }

    /// `kill -9` and start again.
    pub fn crash_site(&mut self, index: usize) {
        self.sites[index].kill();
        self.start_site(index);
    }

    /// Cuts a site off and kills its daemon, within moments: the cut first if `cut_first`, else the kill. The dead mount stays until
    /// [`Site::kill`] takes it away.
    pub fn lose_site(&self, index: usize, cut_first: bool) {
        let cut = || self.network.cut_off(index);
        let kill = || self.sites[index].signal(rustix::process::Signal::KILL);
        if cut_first {
            cut();
            kill();
        } else {
            kill();
            cut();
        }
    }

    /// The links between the sites.
    pub fn network(&self) -> &Arc<Network> {
        &self.network
    }

    /// A directory outside the mounts that goes with the cluster.
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().map_or(Path::new("/"), TempDir::path)
    }

    /// Waits until every site has what every other made.
    ///
    /// One round is not enough: what a site applied may have made it write (the restoring of a conflict's loser), so all are
    /// asked twice.
    pub fn wait_level(&self) {
        for site in self.sites.iter().chain(&self.sites) {
            site.wait(LEVEL_LIMIT);
        }
    }

    /// Asserts that all sites have the same tree, in everything.
    ///
    /// # Panics
    /// With the differences and the ends of the logs.
    #[track_caller]
    pub fn assert_equal(&self) {
        for other in &self.sites[1..] {
            let first = &self.sites[0];
            let found = compare::compare(&first.mountpoint, &other.mountpoint, Strictness::REPLICAS);
            let found = found.or_fail(format_args!("cannot compare sites {} and {}", first.name, other.name));
            let report = compare::report(&found, 30);
            assert!(found.is_empty(), "sites {} and {} differ:\n{report}", first.name, other.name);
        }
    }

    /// [`wait_level`](Self::wait_level), then [`assert_equal`](Self::assert_equal).
    #[track_caller]
    pub fn assert_converges(&self) {
        self.wait_level();
        self.assert_equal();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.sites.clear();
        let Some(directory) = self.directory.take() else { return };
        let path = directory.path().to_owned();
        if std::env::var_os(KEEP_VARIABLE).is_some() {
            eprintln!("kept: {}", directory.keep().display());
        } else if let Err(error) = directory.close() {
            eprintln!("cannot remove {}: {error}", path.display());
        }
        reaper::forget(Debris::Directory(&path));
    }
}

/// Kills the daemons when the test takes too long: calls that hang in a mount then fail, and the test with them.
struct Watchdog {
    pids: Arc<Mutex<Vec<u32>>>,
    // Dropping it ends the thread.
    _alive: Sender<()>,
}

impl Watchdog {
    fn start(limit: Duration) -> Self {
        let pids = Arc::new(Mutex::new(Vec::<u32>::new()));
        let (alive, ended) = channel();
        let watched = pids.clone();
        thread::spawn(move || {
            if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                eprintln!("the test runs for {limit:?}: killing its daemons ({LIMIT_VARIABLE} sets the limit)");
                for pid in watched.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                    site::signal(*pid, rustix::process::Signal::KILL);
                }
            }
        });
        Self { pids, _alive: alive }
    }

    fn watch(&self, sites: &[Site]) {
        *self.pids.lock().unwrap_or_else(PoisonError::into_inner) = sites.iter().filter_map(Site::pid).collect();
    }
}
