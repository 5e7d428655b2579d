//! Sync directories: who waits for whom, and what is so when it returns. Sites in one process; threads carry records as the replicator does.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::Site;
use common::work::{READ_WRITE, ROOT};
use fs::error::FsError;
use fs::peers::Member;
use fs::replay::ReplayError;
use fs::ship::Copies;
use fs::sync::Standing;
use fs::sync::report::SyncState;
use fs::types::{Allocate, Invalidation, RenameMode, SetAttr, XattrMode};
use fs::volume::Volume;
use parking_lot::Mutex;
use proto::ids::{FileId, Lane, SiteId};
use proto::name::Name;
use proto::record::Kind;

const TOP: FileId = FileId::ROOT;
const LIMIT: Duration = Duration::from_secs(60);

/// Carries one site's records to another, and the acknowledgements back.
struct Link {
    origin: Arc<Volume>,
    peer: SiteId,
    up: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    fn new(origin: &Arc<Volume>, to: &Arc<Volume>) -> Self {
        let (up, stop) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let (from, to, peer) = (origin.clone(), to.clone(), to.site());
        let (is_up, stopped) = (up.clone(), stop.clone());
        let thread = std::thread::spawn(move || carry(&from, &to, &is_up, &stopped));
        Self { origin: origin.clone(), peer, up, stop, thread: Some(thread) }
    }

    /// Nothing is carried any more, and the origin does not know.
    fn stall(&self) {
        self.up.store(false, Ordering::SeqCst);
    }

    fn cut(&self) {
        self.stall();
        self.origin.peer_connected(self.peer, false);
    }

    fn heal(&self) {
        self.up.store(true, Ordering::SeqCst);
        self.origin.peer_connected(self.peer, true);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.origin.peer_connected(self.peer, false);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the link failed");
        }
    }
}

fn carry(from: &Volume, to: &Volume, up: &AtomicBool, stop: &AtomicBool) {
    from.peer_connected(to.site(), true);
    for lane in Lane::ALL {
        from.peer_acknowledged(to.site(), lane, to.frontier(from.site(), lane));
    }
    while !stop.load(Ordering::SeqCst) {
        let mut moved = false;
        for lane in Lane::ALL {
            let before = to.frontier(from.site(), lane);
            if !up.load(Ordering::SeqCst) || from.lane_head(lane).shippable(lane) <= before.seq {
                continue;
            }
            let shipped = from.read_lane(lane, before.seq, 1 << 20, Copies::ByValue).expect("records");
            let records: Vec<_> = shipped.into_iter().map(|shipped| shipped.record).collect();
            let replayed = to.replay(from.site(), from.incarnation(), lane, &records);
            match replayed.stopped {
                None | Some(ReplayError::MissingDep(_)) => {}
                Some(error) => panic!("{error}"),
            }
            to.wait_replayed(replayed.lsn).expect("durable");
            if replayed.applied > before && up.load(Ordering::SeqCst) {
                from.peer_acknowledged(to.site(), lane, replayed.applied);
                moved = true;
            }
        }
        if !moved {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Sites that know each other: the first with a directory, the others with its replica. The links are from the first to the others.
struct Case {
    links: Vec<Link>,
    sites: Vec<Site>,
    dir: FileId,
}

impl Case {
    fn new(peers: u16, policy: &[(&str, &str)]) -> Self {
        let sites: Vec<Site> = (1..=1 + peers).map(Site::new).collect();
        for other in &sites[1..] {
            sites[0].volume().put_member(&member(other.id)).expect("a member");
        }
        let dir = sites[0].volume().create(ROOT, TOP, b"d", Kind::Directory, 0o755).expect("a directory").file;
        let mut case = Self { links: Vec::new(), sites, dir };
        case.link();
        case.set(policy);
        case.until("in sync", Standing::InSync);
        case
    }

    fn link(&mut self) {
        self.links.clear();
        let (first, others) = self.sites.split_first().expect("sites");
        self.links = others.iter().map(|other| Link::new(first.volume(), other.volume())).collect();
    }

    fn set(&self, policy: &[(&str, &str)]) {
        for (key, value) in policy {
            let name = format!("user.syncline.{key}");
            self.volume().setxattr(self.dir, name.as_bytes(), value.as_bytes(), XattrMode::Set).expect("set");
        }
    }

    fn volume(&self) -> &Arc<Volume> {
        self.sites[0].volume()
    }

    fn state(&self) -> SyncState {
        let states = self.volume().sync_states();
        assert_eq!(states.len(), 1);
        states.into_iter().next().expect("a state")
    }

    fn until(&self, what: &str, standing: Standing) {
        until(what, || self.state().standing == standing);
    }

    fn create(&self, name: &str) -> Result<FileId, FsError> {
        Ok(self.volume().create(ROOT, self.dir, name.as_bytes(), Kind::Regular, 0o644)?.file)
    }

    /// Whether a peer has the name.
    fn is_at(&self, peer: usize, name: &str) -> bool {
        self.sites[1 + peer].volume().lookup(self.dir, name.as_bytes()).is_ok()
    }

    fn text(&self, file: FileId) -> String {
        String::from_utf8(self.volume().getxattr(file, b"user.syncline.state").expect("a value").into()).expect("text")
    }
}

fn member(site: SiteId) -> Member {
    Member { site, name: format!("s{site}"), address: "localhost:1".into() }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < limit, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn lacks<T>(result: Result<T, FsError>) -> String {
    match result {
        Err(FsError::PeersLack(why)) => why,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it is done without the peers"),
    }
}

const SYNC: (&str, &str) = ("mode", "sync");
const FAIL: (&str, &str) = ("on-loss", "fail");
const SHORT: (&str, &str) = ("timeout", "200ms");

#[test]
fn what_returned_is_at_every_peer() {
    let case = Case::new(2, &[SYNC, FAIL, ("timeout", "60s")]);
    let volume = case.volume();
    let at_peers = |what: &str, holds: &dyn Fn(&Volume) -> bool| {
        for other in &case.sites[1..] {
            assert!(holds(other.volume()), "{what} is not at site {}", other.id);
        }
    };
    let (attr, handle) = volume.create_open(ROOT, case.dir, b"f", 0o644, READ_WRITE).expect("created");
    let file = attr.file;
    at_peers("a new file", &|peer| peer.lookup(case.dir, b"f").is_ok());
    volume.write(handle, 0, &[7; 100_000], false).expect("written");
    volume.fsync(handle).expect("synced");
    at_peers("fsync", &|peer| peer.getattr(file).is_ok_and(|attr| attr.size == 100_000));
    volume.write(handle, 100_000, b"x", false).expect("written");
    volume.flush(handle).expect("closed");
    at_peers("close", &|peer| peer.getattr(file).is_ok_and(|attr| attr.size == 100_001));
    volume.fallocate(handle, 0, 200_000, Allocate::Reserve { keep_size: false }, false).expect("allocated");
    at_peers("fallocate", &|peer| peer.getattr(file).is_ok_and(|attr| attr.size == 200_000));
    let set = SetAttr { size: Some(5), mode: Some(0o600), ..SetAttr::default() };
    volume.setattr(ROOT, file, set).expect("set");
    at_peers("setattr", &|peer| peer.getattr(file).is_ok_and(|attr| (attr.size, attr.perms.mode) == (5, 0o600)));
    volume.setxattr(file, b"user.x", b"1", XattrMode::Set).expect("set");
    at_peers("setxattr", &|peer| peer.getxattr(file, b"user.x").is_ok());
    volume.removexattr(file, b"user.x").expect("removed");
    at_peers("removexattr", &|peer| peer.getxattr(file, b"user.x").is_err());
    volume.link(file, case.dir, b"hard").expect("linked");
    at_peers("link", &|peer| peer.lookup(case.dir, b"hard").is_ok());
    volume.rename(case.dir, b"hard", TOP, b"out", RenameMode::Replace).expect("moved");
    at_peers("rename", &|peer| peer.lookup(TOP, b"out").is_ok());
    volume.unlink(case.dir, b"f").expect("removed");
    at_peers("unlink", &|peer| peer.lookup(case.dir, b"f").is_err());
    volume.create(ROOT, case.dir, b"sub", Kind::Directory, 0o755).expect("made");
    at_peers("mkdir", &|peer| peer.lookup(case.dir, b"sub").is_ok());
    volume.rmdir(case.dir, b"sub").expect("removed");
    at_peers("rmdir", &|peer| peer.lookup(case.dir, b"sub").is_err());
    let synced = fs::types::OpenFlags { sync: true, ..READ_WRITE };
    let (attr, handle) = volume.create_open(ROOT, case.dir, b"s", 0o644, synced).expect("created");
    volume.write(handle, 0, b"abc", false).expect("written");
    at_peers("an O_SYNC write", &|peer| peer.getattr(attr.file).is_ok_and(|attr| attr.size == 3));
    assert_eq!(case.state().standing, Standing::InSync);
}

#[test]
fn a_plain_write_and_an_asynchronous_directory_wait_for_nobody() {
    let case = Case::new(1, &[SYNC, FAIL, ("timeout", "60s")]);
    let volume = case.volume();
    let (attr, handle) = volume.create_open(ROOT, case.dir, b"f", 0o644, READ_WRITE).expect("created");
    assert!(volume.waits_for_peers(attr.file) && volume.waits_for_peers(case.dir) && !volume.waits_for_peers(TOP));
    case.links[0].stall();
    let started = Instant::now();
    volume.write(handle, 0, b"abc", false).expect("written");
    volume.create(ROOT, TOP, b"async", Kind::Regular, 0o644).expect("created");
    assert!(started.elapsed() < Duration::from_secs(30));
    case.links[0].heal();
}

#[test]
fn many_writers_wait_at_once() {
    let case = Case::new(2, &[SYNC, FAIL, ("timeout", "60s")]);
    std::thread::scope(|scope| {
        for writer in 0..32 {
            let case = &case;
            scope.spawn(move || {
                for round in 0..10 {
                    let name = format!("{writer}.{round}");
                    case.create(&name).expect("created");
                    assert!((0..2).all(|peer| case.is_at(peer, &name)), "{name} returned before it was there");
                }
            });
        }
    });
    assert_eq!(case.state().standing, Standing::InSync);
}

#[test]
fn degrade_goes_on_and_is_in_sync_again_by_itself() {
    let case = Case::new(1, &[SYNC, SHORT]);
    case.links[0].cut();
    case.create("a").expect("goes on");
    assert_eq!(case.state().standing, Standing::Degraded);
    assert!(!case.is_at(0, "a"));
    assert_eq!(case.state().peers[0].debt_records, 1);
    let text = case.text(case.dir);
    assert!(text.starts_with("/d: degraded; s2 degraded for ") && text.contains("not connected"), "{text}");
    assert!(text.contains("\ns2: 1 records, "), "{text}");
    let started = Instant::now();
    for n in 0..20 {
        case.create(&n.to_string()).expect("goes on");
    }
    assert!(started.elapsed() < Duration::from_secs(4), "nobody waits for it any more");
    case.links[0].heal();
    case.until("in sync again", Standing::InSync);
    assert!(case.is_at(0, "a") && case.is_at(0, "19"));
    assert_eq!(case.text(case.dir), "/d: in sync\ns2: level");
    case.create("b").expect("created");
    assert!(case.is_at(0, "b"), "waited for again");
}

#[test]
fn a_peer_that_does_not_answer_is_given_up_after_the_timeout() {
    let case = Case::new(1, &[SYNC, SHORT]);
    case.links[0].stall();
    let started = Instant::now();
    case.create("a").expect("goes on");
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert_eq!(case.state().standing, Standing::Degraded);
    case.links[0].heal();
    case.until("in sync again", Standing::InSync);
}

#[test]
fn is_in_sync_again_under_load() {
    let case = Case::new(1, &[SYNC, SHORT]);
    case.links[0].cut();
    case.until("degraded", Standing::Degraded);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (case, stop) = (&case, &stop);
            scope.spawn(move || {
                for n in 0.. {
                    case.create(&format!("{writer}.{n}")).expect("created");
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_millis(50));
        case.links[0].heal();
        case.until("in sync", Standing::InSync);
        stop.store(true, Ordering::SeqCst);
    });
}

#[test]
fn fail_fails_in_time_keeps_the_change_and_refuses_until_the_peer_is_back() {
    let case = Case::new(1, &[SYNC, FAIL, SHORT]);
    let volume = case.volume();
    let (_, handle) = volume.create_open(ROOT, case.dir, b"f", 0o644, READ_WRITE).expect("created");
    case.links[0].cut();
    let started = Instant::now();
    let why = lacks(case.create("a"));
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(why.starts_with("/d ") && why.contains("s2") && why.contains("not connected"), "{why}");
    assert!(volume.lookup(case.dir, b"a").is_ok(), "made here");
    assert_eq!(lacks(case.create("b")).matches("Nothing was changed").count(), 1);
    assert!(matches!(volume.lookup(case.dir, b"b"), Err(FsError::NotFound)));
    for refused in [
        volume.unlink(case.dir, b"a"),
        volume.rename(case.dir, b"a", TOP, b"a", RenameMode::Replace),
        volume.setxattr(case.dir, b"user.x", b"1", XattrMode::Set),
        volume.setattr(ROOT, case.dir, SetAttr { mode: Some(0), ..SetAttr::default() }).map(drop),
    ] {
        assert!(lacks(refused).contains("Nothing was changed"));
    }
    volume.write(handle, 0, b"abc", false).expect("content is written");
    lacks(volume.fsync(handle));
    lacks(volume.flush(handle));
    case.links[0].heal();
    until("accepted again", || case.create("c").is_ok());
    assert!(["a", "c"].iter().all(|name| case.is_at(0, name)));
    case.until("in sync", Standing::InSync);
    volume.fsync(handle).expect("synced");
}

/// The kernel took the error for "not done": it must look again, at what is there.
#[test]
fn the_kernel_is_told_of_a_change_whose_caller_got_an_error() {
    let case = Case::new(1, &[SYNC, FAIL, SHORT]);
    let volume = case.volume();
    let (attr, handle) = volume.create_open(ROOT, case.dir, b"f", 0o644, READ_WRITE).expect("created");
    let told = Arc::new(Mutex::new(Vec::new()));
    let theirs = told.clone();
    volume.on_invalidate(Box::new(move |changes| theirs.lock().extend_from_slice(changes)));
    case.links[0].stall();
    lacks(case.create("a"));
    let name = Name::new(b"a").expect("a name");
    until("told of the name", || told.lock().contains(&Invalidation::Entry { parent: case.dir, name: name.clone() }));
    case.links[0].heal();
    until("accepted again", || case.create("b").is_ok());
    case.links[0].stall();
    lacks(volume.fallocate(handle, 0, 100, Allocate::Reserve { keep_size: false }, false));
    until("told of the size", || told.lock().contains(&Invalidation::Content { file: attr.file, offset: 0, len: 0 }));
    case.links[0].heal();
}

#[test]
fn a_policy_lets_out_of_fail_while_the_peer_is_away() {
    let case = Case::new(1, &[SYNC, FAIL, SHORT]);
    case.links[0].cut();
    lacks(case.create("a"));
    case.set(&[("on-loss", "degrade")]);
    case.create("b").expect("goes on");
    assert_eq!(case.state().standing, Standing::Degraded);
    case.set(&[("mode", "async")]);
    assert!(case.volume().sync_states().is_empty());
    case.create("c").expect("created");
    assert_eq!(case.text(case.dir).lines().count(), 1, "the peer only");
}

#[test]
fn a_majority_goes_on_without_a_minority_and_no_further() {
    let case = Case::new(2, &[SYNC, FAIL, SHORT, ("acks", "majority")]);
    assert_eq!(case.state().needed, 1);
    case.links[0].cut();
    for n in 0..10 {
        case.create(&n.to_string()).expect("one of two is enough");
        assert!(case.is_at(1, &n.to_string()));
    }
    until("given up", || case.state().peers[0].phase.name() == "degraded");
    assert_eq!(case.state().standing, Standing::InSync);
    case.links[1].cut();
    lacks(case.create("x"));
    case.links[0].heal();
    until("accepted again", || case.create("y").is_ok());
    assert!(case.is_at(0, "y") && case.is_at(0, "9"));
}

#[test]
fn more_peers_than_there_are_is_degraded_with_a_reason() {
    let case = Case::new(1, &[SYNC]);
    case.set(&[("acks", "2")]);
    case.create("a").expect("goes on");
    assert!(case.is_at(0, "a"));
    let state = case.state();
    assert_eq!((state.standing, state.short_of_peers, state.needed), (Standing::Degraded, true, 2));
    assert!(case.text(case.dir).starts_with("/d: degraded (needs 2 peers, the volume has 1)"));
}

#[test]
fn a_site_alone_is_in_sync_and_says_so() {
    let case = Case::new(0, &[SYNC, FAIL]);
    case.create("a").expect("created");
    assert_eq!(case.text(case.dir), "/d: in sync (no other site)\nno other site");
    assert!(!case.volume().waits_for_peers(case.dir), "nobody to wait for");
}

#[test]
fn a_rename_between_two_sync_directories_satisfies_both() {
    let case = Case::new(2, &[SYNC, SHORT, ("acks", "1")]);
    let volume = case.volume();
    let strict = volume.create(ROOT, TOP, b"strict", Kind::Directory, 0o755).expect("a directory").file;
    for (key, value) in [SYNC, FAIL, SHORT] {
        let name = format!("user.syncline.{key}");
        volume.setxattr(strict, name.as_bytes(), value.as_bytes(), XattrMode::Set).expect("set");
    }
    until("both in sync", || volume.sync_states().iter().all(|state| state.standing == Standing::InSync));
    case.create("a").expect("created");
    case.create("b").expect("created");
    volume.rename(case.dir, b"a", strict, b"a", RenameMode::Replace).expect("moved");
    assert!(case.sites[1..].iter().all(|site| site.volume().lookup(strict, b"a").is_ok()));
    case.links[0].cut();
    lacks(volume.rename(case.dir, b"b", strict, b"b", RenameMode::Replace));
    case.create("c").expect("one is enough here");
}

#[test]
fn a_directory_becomes_sync_with_what_was_made_before() {
    let case = Case::new(1, &[SYNC, SHORT]);
    let volume = case.volume();
    let other = volume.create(ROOT, TOP, b"other", Kind::Directory, 0o755).expect("a directory").file;
    let (_, handle) = volume.create_open(ROOT, other, b"f", 0o644, READ_WRITE).expect("created");
    case.links[0].stall();
    volume.write(handle, 0, &[1; 50_000], false).expect("written");
    volume.setxattr(other, b"user.syncline.mode", b"sync", XattrMode::Set).expect("set");
    let standing = || {
        let states = volume.sync_states();
        states.into_iter().find(|state| state.root == other).expect("it is sync").standing
    };
    assert_eq!(standing(), Standing::CatchingUp);
    volume.fsync(handle).expect("does not wait for it");
    case.links[0].heal();
    until("in sync", || standing() == Standing::InSync);
    assert_eq!(case.sites[1].volume().lookup(other, b"f").expect("there").size, 50_000);
}

#[test]
fn after_a_restart_it_is_catching_up_until_the_peer_is_back_with_all() {
    let mut case = Case::new(1, &[SYNC, SHORT]);
    case.links[0].cut();
    case.create("a").expect("goes on");
    case.links.clear();
    case.sites[0].restart(true);
    assert_ne!(case.state().standing, Standing::InSync);
    case.create("b").expect("goes on");
    case.link();
    case.until("in sync", Standing::InSync);
    assert!(case.is_at(0, "a") && case.is_at(0, "b"));
}

#[test]
fn closing_and_stopping_let_everybody_go() {
    for close in [true, false] {
        let case = Case::new(1, &[SYNC, FAIL, ("timeout", "600s")]);
        case.links[0].stall();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| case.create("a"));
            until("made", || case.volume().lookup(case.dir, b"a").is_ok());
            if close {
                case.volume().close().expect("closed");
            } else {
                case.volume().refuse_writing("a test");
                // It may have begun to wait after that.
                until("let go", || {
                    case.volume().refuse_writing("a test");
                    waiter.is_finished()
                });
            }
            lacks(waiter.join().expect("no panic"));
        });
    }
}

#[test]
fn a_peer_learns_that_the_directory_is_sync() {
    let case = Case::new(1, &[SYNC]);
    let there = case.sites[1].volume();
    until("it knows", || there.sync_states().len() == 1);
    assert_eq!(there.sync_states()[0].path, "/d");
}
