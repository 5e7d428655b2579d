//! One site's open store, and what its parts share.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};
use proto::hlc::Clock;
use proto::ids::{FileId, Incarnation, Lane, LanePoint, Position, Seq, SiteId, VolumeId};
use proto::record::{Kind, Perms, Time};

use crate::active::Active;
use crate::content::dirty::DirtyObjects;
use crate::content::objects::Objects;
use crate::content::table::{DEFAULT_CAPACITY, ObjectTable, raise_descriptor_limit};
use crate::error::FsError;
pub use crate::error::OpenError;
use crate::fold::{self, FoldSignal};
use crate::incarnation::Incarnations;
use crate::journal::{Appended, Batch, Journal, JournalError, JournalOptions, Lsn};
use crate::level::Held;
use crate::level::staged::Staged;
use crate::meta::{self, Meta};
use crate::ops::{Departures, Holders};
use crate::pins::Pins;
use crate::policy::cache::Policies;
use crate::removals::Removals;
use crate::replay::SecondLooks;
use crate::replay::reclaim::Reclaimed;
use crate::room::Room;
use crate::store::db::{Db, DbError};
use crate::store::overlay::Overlay;
use crate::store::table::Table;
use crate::sync::in_use::InUse;
use crate::sync::{Acknowledged, Board};
use crate::tree::inode::{GENESIS, Inode};
use crate::txn::Writer;
use crate::types::Invalidation;
use crate::unseen::Unseen;
use crate::visible::Visible;

/// How a store is run. What it is stands in the store.
#[derive(Clone, Debug)]
pub struct VolumeOptions {
    /// Size of each journal file.
    pub journal_file_bytes: u64,
    /// How often the journal is flushed at most while nobody waits for it.
    pub flush_interval: Duration,
    /// A peer whose clock is further ahead is refused.
    pub max_clock_drift: Duration,
    /// This site's name, as policies name the only writer.
    pub site_name: String,
}

impl Default for VolumeOptions {
    fn default() -> Self {
        Self {
            journal_file_bytes: 64 << 20,
            flush_interval: Duration::from_millis(20),
            max_clock_drift: Clock::DEFAULT_MAX_DRIFT,
            site_name: String::new(),
        }
    }
}

/// What an object keeps in memory.
#[derive(Default)]
pub struct ObjectState {
    /// Its length has been set to the inode's since it was opened.
    pub checked: bool,
}

/// Tells the kernel what to forget.
pub type Invalidate = dyn Fn(&[Invalidation]) + Send + Sync;
type InvalidationSink = Arc<Invalidate>;

/// One site's store: namespace, content, journal. Share it in an [`Arc`].
///
/// Every method may be called from any thread. Those that change something return when the change is journalled.
pub struct Volume {
    pub(crate) meta: Meta,
    pub(crate) incarnations: Incarnations,
    pub(crate) store: PathBuf,
    pub(crate) options: VolumeOptions,
    pub(crate) db: Db,
    pub(crate) rows: Overlay,
    pub(crate) journal: Journal,
    pub(crate) objects_dir: Arc<Objects>,
    pub(crate) objects: ObjectTable<ObjectState>,
    pub(crate) dirty: Arc<DirtyObjects>,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) staged: Staged,
    pub(crate) pins: Mutex<Pins>,
    /// What replay leaves alone while a peer's state is being taken in.
    pub(crate) held: Mutex<Held>,
    pub(crate) active: Active,
    pub(crate) removals: Removals,
    pub(crate) reclaimed: Reclaimed,
    pub(crate) unseen: Unseen,
    /// How far this site's lanes have come at the peers.
    pub(crate) acknowledged: Acknowledged,
    /// Who waits for them.
    pub(crate) board: Arc<Board>,
    pub(crate) sync_in_use: InUse,
    pub(crate) departures: Departures,
    pub(crate) room: Room,
    pub(crate) policies: Policies,
    pub(crate) visible: Visible,
    pub(crate) holders: Holders,
    pub(crate) second_looks: SecondLooks,
    pub(crate) fold: Arc<FoldSignal>,
    /// Held during a fold: one at a time.
    pub(crate) folding: Mutex<()>,
    /// Answers to peers were noted and may not have been made.
    pub(crate) repairs: AtomicBool,
    /// Held while they are made: one thread at a time.
    pub(crate) answering: Mutex<()>,
    /// A peer has records of this incarnation that this site has lost: see [`crate::level`].
    pub(crate) tail_lost: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
    closed: AtomicBool,
    /// Why the site stopped writing.
    stopped: RwLock<Option<String>>,
    sink: RwLock<Option<InvalidationSink>>,
}

impl Volume {
    /// Makes an empty store in `store`, which is created if it is not there. `root` is of the root directory.
    pub fn format(store: &Path, volume: VolumeId, site: SiteId, root: Perms) -> Result<(), OpenError> {
        Self::format_sized(store, volume, site, root, VolumeOptions::default().journal_file_bytes)
    }

    /// As [`format`](Self::format), with another size of the journal's first file.
    pub fn format_sized(
        store: &Path,
        volume: VolumeId,
        site: SiteId,
        root: Perms,
        journal_file_bytes: u64,
    ) -> Result<(), OpenError> {
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { what, path, source }
        };
        std::fs::create_dir_all(store).map_err(io("create", store))?;
        let database = store.join(DATABASE);
        if database.exists() || store.join(JOURNAL).exists() {
            return Err(OpenError::Exists { store: store.to_owned() });
        }
        let db = Db::open(&database)?;
        Objects::create(store).map_err(io("create the objects below", store))?;
        let meta = Meta { volume, site, store_tag: meta::store_tag(volume, site) };
        let options = JournalOptions { file_bytes: journal_file_bytes, ..JournalOptions::new(meta.store_tag) };
        Journal::create(&store.join(JOURNAL), options)?;
        let now = now();
        let mut inode = Inode::new(Kind::Directory, root, GENESIS, now);
        inode.nlink = 0;
        let root = (Table::Inode, crate::store::table::file_key(FileId::ROOT), inode.encode());
        // Last, and in one commit: until it is there, there is no store.
        let mut rows = meta.rows();
        rows.push(root);
        db.commit(&Default::default(), &rows)?;
        Ok(())
    }

    /// Opens a store and recovers whatever its last end left.
    pub fn start(store: &Path, options: VolumeOptions) -> Result<Arc<Volume>, OpenError> {
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { what, path, source }
        };
        let absent = || OpenError::Absent { store: store.to_owned() };
        let database = store.join(DATABASE);
        if !database.exists() {
            return Err(absent());
        }
        if let Err(error) = raise_descriptor_limit() {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
        let db = Db::open(&database)?;
        let rows = Overlay::new(db.snapshot()?);
        let format = meta::format(&rows)?.ok_or_else(absent)?;
        if !(meta::OLDEST_FORMAT..=meta::FORMAT).contains(&format) {
            return Err(OpenError::Format { store: store.to_owned(), format });
        }
        let meta = Meta::load(&rows)?.ok_or_else(absent)?;
        if format < meta::FORMAT {
            meta::raise_format(&db)?;
            tracing::info!(
                from = format,
                to = meta::FORMAT,
                "the store has a newer format now; older versions of syncline do not open it"
            );
        }
        let last = meta::Run::load(&rows)?;
        let boot = meta::boot_id().map_err(io("read", Path::new(meta::BOOT_ID)))?;
        let power_lost = !last.clean && last.boot != boot;
        let journal_options = JournalOptions {
            file_bytes: options.journal_file_bytes,
            store_tag: meta.store_tag,
            flush_interval: options.flush_interval,
        };
        let (journal, recovered) = Journal::open(&store.join(JOURNAL), journal_options, last.checkpoint)?;
        if let Some(cut) = recovered.cut() {
            tracing::warn!(lsn = cut.lsn.0, bytes = cut.bytes, "the journal ends in a torn batch, which is cut off");
        }
        let objects_dir = Arc::new(Objects::open(store).map_err(io("open the objects below", store))?);
        let dirty = Arc::new(DirtyObjects::new(Arc::clone(&objects_dir)));
        let writer = Writer { clock: Clock::new(last.hlc, options.max_clock_drift), next_file: last.next_file };
        // What took things out of directories before is not remembered: see `Departures`.
        let departures = Departures::new(journal.heads().0.map(|head| head.point()));
        let volume = Arc::new(Volume {
            meta,
            incarnations: Incarnations::default(),
            store: store.to_owned(),
            options,
            db,
            rows,
            journal,
            objects: ObjectTable::new(Arc::clone(&objects_dir), Arc::clone(&dirty), DEFAULT_CAPACITY),
            objects_dir,
            dirty: Arc::clone(&dirty),
            writer: Mutex::new(writer),
            staged: Staged::open(store).map_err(io("open the staged files below", store))?,
            pins: Mutex::default(),
            held: Mutex::default(),
            active: Active::default(),
            removals: Removals::default(),
            reclaimed: Reclaimed::default(),
            unseen: Unseen::default(),
            second_looks: SecondLooks::default(),
            acknowledged: Acknowledged::default(),
            board: Arc::default(),
            sync_in_use: InUse::default(),
            departures,
            room: Room::default(),
            policies: Policies::default(),
            visible: Visible::default(),
            holders: Holders::default(),
            fold: Arc::default(),
            folding: Mutex::default(),
            repairs: AtomicBool::new(true),
            answering: Mutex::default(),
            tail_lost: AtomicBool::new(false),
            thread: Mutex::default(),
            closed: AtomicBool::new(false),
            stopped: RwLock::default(),
            sink: RwLock::default(),
        });
        // Until recovery is through, the old boot id stays, so that a recovery that is cut short knows of the power loss again.
        let until_recovered = if power_lost { last.boot.clone() } else { boot.clone() };
        meta::Run { clean: false, boot: until_recovered, ..last.clone() }.save(&volume.db)?;
        volume.redo_journal(recovered, power_lost)?;
        volume.load_histories()?;
        if volume.is_joining()? {
            return Err(OpenError::Joining { store: store.to_owned() });
        }
        if power_lost {
            volume.remove_orphans()?;
        }
        // Extents of recovered batches may be in the page cache only; from here on a flush of the journal vouches for them.
        dirty.flush_all().map_err(io("flush the objects below", store))?;
        volume.journal.start(Box::new(move || dirty.flush()))?;
        volume.load_pins()?;
        volume.load_policies()?;
        volume.tail_lost.store(meta::Run::load(&volume.rows)?.tail_lost, Ordering::SeqCst);
        // A store that was never open lost nothing.
        volume.begin_before_recovery(power_lost && !last.boot.is_empty())?;
        volume.settle_active(power_lost)?;
        if !volume.tail_lost.load(Ordering::SeqCst) {
            volume.run_repairs()?;
        }
        volume.refresh_members()?;
        volume.refresh_sync_roots();
        if power_lost {
            // What was settled must be durable before the power loss is forgotten.
            volume.fold_now()?;
            meta::Run { clean: false, boot, ..meta::Run::load(&volume.rows)? }.save(&volume.db)?;
        }
        volume.reclaim_unheld();
        volume.policies.enforce();
        volume.reclaim_absent()?;
        let (signal, weak): (_, Weak<_>) = (Arc::clone(&volume.fold), Arc::downgrade(&volume));
        let thread = std::thread::Builder::new().name("fold".into()).spawn(move || fold::run(&signal, &weak));
        *volume.thread.lock() = Some(thread.map_err(io("start a thread for", store))?);
        volume.fold.removals_wait();
        Ok(volume)
    }

    /// Makes everything durable, and says in the store that it ended well. Operations fail afterwards. Idempotent.
    pub fn close(&self) -> Result<(), FsError> {
        if self.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.stop_waiting();
        self.stop_folding();
        let result = self.fold_now().and_then(|()| {
            // Under the writer's lock: an operation that began before is in the journal, and the fold did not have it.
            let _writer = self.writer.lock();
            self.journal.close().map_err(journal_error)
        });
        let why = "it was closed".to_owned();
        self.stopped.write().get_or_insert(why);
        result?;
        let run = meta::Run::load(&self.rows)?;
        let boot = meta::boot_id().map_err(|source| FsError::Disk { what: "reading the boot id", source })?;
        meta::Run { clean: true, boot, ..run }.save(&self.db)?;
        Ok(())
    }

    /// The volume.
    pub fn volume_id(&self) -> VolumeId {
        self.meta.volume
    }

    /// This site.
    pub fn site(&self) -> SiteId {
        self.meta.site
    }

    /// The store's directory.
    pub fn store_path(&self) -> &Path {
        &self.store
    }

    /// What the journal takes on the disk, in bytes.
    pub fn journal_bytes(&self) -> u64 {
        self.journal.total_bytes()
    }

    /// Why this site stopped writing; `None` while all is well.
    pub fn stopped(&self) -> Option<String> {
        self.stopped.read().clone()
    }

    /// Sets who tells the kernel what to forget. Called by the thread that replays, when it holds no lock; it may block.
    pub fn on_invalidate(&self, sink: Box<Invalidate>) {
        *self.sink.write() = Some(sink.into());
    }

    /// Sets who is told when more is durable here. It must return at once.
    pub fn on_progress(&self, listener: Box<dyn Fn() + Send + Sync>) {
        self.journal.on_progress(listener);
    }

    /// Returns when everything up to the batch, with the objects that it refers to, survives power loss.
    pub fn wait_durable(&self, lsn: Lsn) -> Result<(), FsError> {
        self.journal.wait_durable(lsn).map_err(journal_error)
    }

    /// As [`wait_durable`](Self::wait_durable), of replayed batches: returns when programs here see them, too. See [`crate::visible`].
    pub fn wait_replayed(&self, lsn: Lsn) -> Result<(), FsError> {
        self.wait_durable(lsn)?;
        self.visible.wait(lsn);
        Ok(())
    }

    /// The last batch of the journal.
    pub fn appended(&self) -> Lsn {
        self.journal.appended()
    }

    /// The last batch that survives power loss, with all before it.
    pub fn durable(&self) -> Lsn {
        self.journal.durable()
    }

    pub(crate) fn invalidate(&self, invalidations: &[Invalidation]) {
        let sink = self.sink.read().clone();
        if let (false, Some(sink)) = (invalidations.is_empty(), sink) {
            sink(invalidations);
        }
    }

    /// As [`invalidate`](Self::invalidate), for a batch that is acknowledged after [`wait_replayed`](Self::wait_replayed).
    pub(crate) fn invalidate_replayed(&self, lsn: Lsn, invalidations: Vec<Invalidation>) {
        let sink = self.sink.read().clone();
        match sink {
            Some(sink) if self.has_sync_directories() && !invalidations.is_empty() => {
                self.visible.tell(lsn, sink, invalidations);
            }
            _ => self.invalidate(&invalidations),
        }
    }

    /// For a thread that answers a request, which must not wait for the kernel: what the kernel does not expect, or takes for not done. Rare.
    pub(crate) fn invalidate_later(&self, invalidations: Vec<Invalidation>) {
        let Some(sink) = self.sink.read().clone() else { return };
        let thread = std::thread::Builder::new().name("invalidate".into());
        if let Err(error) = thread.spawn(move || sink(&invalidations)) {
            tracing::warn!(%error, "the kernel was not told of a change, and may show the old");
        }
    }

    pub(crate) fn append(&self, batch: &Batch<'_>) -> Result<Appended, FsError> {
        let appended = self.journal.append(batch).map_err(journal_error)?;
        let bytes = (batch.state.len() + batch.records.len()) as u64;
        self.fold.appended(bytes, self.rows.bytes());
        Ok(appended)
    }

    /// The position that this site's next record in the lane gets.
    pub(crate) fn next_position(&self, lane: Lane) -> Position {
        let seq: Seq = self.journal.lane_head(lane).seq.next();
        Position { site: self.meta.site, incarnation: self.incarnation(), lane, seq }
    }

    pub(crate) fn check_writable(&self) -> Result<(), FsError> {
        match &*self.stopped.read() {
            None => Ok(()),
            Some(why) => Err(FsError::ReadOnly(why.clone())),
        }
    }

    /// The site goes read-only until it is restarted, for a reason outside of this store.
    pub fn refuse_writing(&self, why: &str) {
        self.stopped.write().get_or_insert_with(|| why.to_owned());
        self.board.release(why);
    }

    /// The site goes read-only: what it would write could not be trusted. A restart recovers from the journal.
    pub(crate) fn stop_writing(&self, what: &str, error: std::io::Error) -> FsError {
        let why = format!("{what}: {error}");
        tracing::error!(%why, "this site stops writing; restart it when the cause is gone");
        let why = self.stopped.write().get_or_insert(why).clone();
        self.board.release(&why);
        FsError::ReadOnly(why)
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }

    /// The time of day.
    pub(crate) fn now(&self) -> Time {
        now()
    }

    pub(crate) fn remove_object(&self, file: FileId) -> std::io::Result<()> {
        self.objects.evict(file);
        self.objects_dir.remove(file).map(drop)
    }

    fn stop_folding(&self) {
        self.fold.stop();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id())
            && thread.join().is_err()
        {
            tracing::error!("the folding thread panicked");
        }
    }
}

impl Drop for Volume {
    /// Without [`Volume::close`] this is a crash: recovery makes it good.
    fn drop(&mut self) {
        self.stop_waiting();
        self.stop_folding();
    }
}

const DATABASE: &str = "meta.redb";
const JOURNAL: &str = "journal";

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time { secs: since.as_secs() as i64, nanos: since.subsec_nanos() }
}

fn journal_error(error: JournalError) -> FsError {
    match error {
        JournalError::Io { what, source, .. } => FsError::Disk { what, source },
        JournalError::Poisoned { .. } | JournalError::Closed => FsError::ReadOnly(error.to_string()),
        other => FsError::Damaged(other.to_string()),
    }
}

impl From<DbError> for FsError {
    fn from(error: DbError) -> Self {
        FsError::Damaged(error.to_string())
    }
}

/// The row of a point. A frontier's row may go on with a clock reading: see [`crate::peers::Frontier`].
pub(crate) fn encode_point(point: LanePoint) -> bytes::Bytes {
    let mut row = point.incarnation.0.to_be_bytes().to_vec();
    row.extend_from_slice(&point.seq.0.to_be_bytes());
    row.into()
}

/// Reads a point's row.
pub(crate) fn decode_point(row: bytes::Bytes) -> Result<LanePoint, proto::codec::DecodeError> {
    const WHAT: &str = "a point of a lane";
    let [a, b, c, d, rest @ ..] = &row[..] else { return Err(proto::codec::DecodeError::Short { what: WHAT }) };
    let incarnation = Incarnation(u32::from_be_bytes([*a, *b, *c, *d]));
    let seq = rest.get(..8).ok_or(proto::codec::DecodeError::Short { what: WHAT })?;
    Ok(LanePoint { incarnation, seq: Seq(crate::store::table::read_u64(seq, WHAT)?) })
}
