//! A site, maybe its replica, and the model of both, through calls, crashes and folds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fs::journal::Lsn;
use fs::types::{Caller, SetAttr, SetTime, XattrMode};
use fs::volume::Volume;
use proto::ids::{FileId, Lane, LanePoint};
use proto::record::{Kind, Time};

use super::generate::{Generator, TIMEOUT};
use super::perform::{Numbers, clock, perform};
use super::{Call, check};
use crate::common::dump::{check_drained, check_rows, content};
use crate::common::network::{Network, heads};
use crate::common::posix::{Fd, Ino, Node, Posix, When};
use crate::common::{Rng, Site, power};

#[derive(Clone, Debug)]
pub enum Step {
    Call(Call),
    /// As `kill -9`: all that returned is there.
    Crash,
    Close,
    /// Rows go into the database, maybe while the calls go on.
    Fold {
        beside: bool,
    },
    /// All sites have everything: the journal's files can be used again, and what was removed goes.
    Acknowledge,
    Deliver {
        all: bool,
    },
    RestartReplica {
        cleanly: bool,
    },
    /// What was durable is there, and `keep` of the calls after it.
    LosePower {
        keep: u64,
    },
}

/// What a case is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum With {
    Crashes,
    Replica,
    PowerLosses,
}

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub with: With,
    pub steps: u64,
    pub max_write: u64,
    pub journal_file_bytes: u64,
}

pub struct Case {
    shape: Shape,
    sites: Vec<Site>,
    network: Network,
    model: Posix,
    numbers: Numbers,
    rng: Rng,
    fold: Option<JoinHandle<()>>,
    /// The model after each step since the start, and the last batch then. Only where the power is lost.
    past: Vec<(Lsn, Posix)>,
    /// The last batch after the last step that may have cut or removed an object. Such a step is not lost: where a cut reaches the disk and its
    /// batch does not, with an extent that is not acknowledged in the object, the store does not open.
    cut: Lsn,
    /// The last batch of the last change to a file.
    changed: BTreeMap<Ino, Lsn>,
}

impl Case {
    pub fn new(shape: Shape, seed: u64) -> Self {
        let flush_interval = match shape.with {
            // What is durable is what was waited for.
            With::PowerLosses => Duration::from_secs(3600),
            _ => Duration::from_millis(20),
        };
        let count = if shape.with == With::Replica { 2 } else { 1 };
        let site = |id| Site::with_journal(id, shape.journal_file_bytes, flush_interval);
        let sites: Vec<Site> = (1..=count).map(site).collect();
        let volume = sites[0].volume();
        volume.setxattr(FileId::ROOT, TIMEOUT, b"1ms", XattrMode::Set).expect("set");
        // Each store was made by itself: its root's times are of its own until they are set.
        let long_ago = Some(SetTime::At(Time { secs: 1, nanos: 0 }));
        let set = SetAttr { atime: long_ago, mtime: long_ago, ..SetAttr::default() };
        let attr = volume.setattr(Caller { uid: 0, gid: 0 }, FileId::ROOT, set).expect("set");
        let mut root = Node::new(Kind::Directory, attr.perms, When::exactly(attr.mtime));
        root.atime = root.mtime;
        (root.ctime, root.btime) = (When::exactly(attr.ctime), When::exactly(attr.btime));
        root.xattrs.insert(TIMEOUT.to_vec(), b"1ms".to_vec());
        let mut numbers = Numbers::default();
        numbers.files.insert(Ino::ROOT, FileId::ROOT);
        let mut case = Self {
            shape,
            network: Network::new(sites.len()),
            sites,
            model: Posix::new(root),
            numbers,
            rng: Rng::new(seed.wrapping_mul(77)),
            fold: None,
            past: Vec::new(),
            cut: Lsn(0),
            changed: BTreeMap::new(),
        };
        case.started();
        case
    }

    fn volume(&self) -> Arc<Volume> {
        self.sites[0].volume().clone()
    }

    pub fn random_step(&self, generator: &mut Generator) -> Step {
        let rng = &mut generator.rng;
        match (rng.below(200), self.shape.with) {
            (0..4, _) => Step::Crash,
            (4..6, _) => Step::Close,
            (6..12, _) => Step::Fold { beside: rng.one_in(2) },
            (12..17, _) => Step::Acknowledge,
            (17..33, With::Replica) => Step::Deliver { all: rng.one_in(4) },
            (33..36, With::Replica) => Step::RestartReplica { cleanly: rng.one_in(3) },
            (17..24, With::PowerLosses) => Step::LosePower { keep: rng.next() },
            _ => Step::Call(generator.call(&self.model)),
        }
    }

    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Call(call) => self.call(call),
            Step::Crash => self.restart(false),
            Step::Close => self.restart(true),
            Step::Fold { beside } => {
                self.join_fold();
                let volume = self.volume();
                // A snapshot begins with a fold.
                let fold = move || volume.snapshot().map(drop).expect("folded");
                if *beside { self.fold = Some(std::thread::spawn(fold)) } else { fold() }
            }
            Step::Acknowledge => self.acknowledge(),
            Step::Deliver { all: false } => {
                self.network.deliver(&self.sites, 0, 1, &mut self.rng, false);
            }
            Step::Deliver { all: true } => self.replicate(),
            Step::RestartReplica { cleanly } => self.sites[1].restart(*cleanly),
            Step::LosePower { keep } => self.lose_power(*keep),
        }
        if cuts(step) {
            self.cut = self.volume().appended();
        }
        if self.shape.with == With::PowerLosses {
            self.past.push((self.volume().appended(), self.model.clone()));
        }
    }

    fn call(&mut self, call: &Call) {
        if !call.can_be_made(&self.model) {
            return;
        }
        let volume = self.volume();
        let ino = |fd: &Fd, model: &Posix| model.opens.get(fd).map(|open| (open.ino, open.flags.sync));
        let changed = match call {
            Call::Write { fd, .. } | Call::Allocate { fd, .. } | Call::Copy { to: fd, .. } => ino(fd, &self.model),
            Call::SetAttr { ino, .. } | Call::Open { ino, .. } => Some((*ino, false)),
            _ => None,
        };
        let writes = matches!(call, Call::Write { .. } | Call::Copy { .. });
        let synced = match call {
            Call::Fsync { fd } => ino(fd, &self.model).map(|(ino, _)| ino),
            _ => changed.filter(|(_, sync)| *sync && writes).map(|(ino, _)| ino),
        };
        let time = |model: &Posix| changed.and_then(|(ino, _)| Some(model.nodes.get(&ino)?.mtime));
        let before = time(&self.model);
        perform(call, &volume, &mut self.model, &mut self.numbers);
        check::attributes(&volume, &mut self.model, &self.numbers);
        // What a call with O_SYNC changed; or everything, for fsync.
        let synced = synced.filter(|_| changed.is_none() || time(&self.model) != before);
        if let Some((ino, _)) = changed.filter(|(ino, _)| self.is_regular(*ino)) {
            check::bytes(&volume, &self.model, &self.numbers, ino);
            if time(&self.model) != before {
                self.changed.insert(ino, volume.appended());
            }
        }
        if let Some(lsn) = synced.and_then(|ino| self.changed.get(&ino)) {
            assert!(volume.durable() >= *lsn, "synced, and {lsn} is not durable: {} is", volume.durable());
        }
    }

    fn is_regular(&self, ino: Ino) -> bool {
        self.model.nodes.get(&ino).is_some_and(|node| node.kind == Kind::Regular)
    }

    fn join_fold(&mut self) {
        if let Some(fold) = self.fold.take() {
            fold.join().expect("folded");
        }
    }

    fn restart(&mut self, cleanly: bool) {
        self.join_fold();
        self.sites[0].restart(cleanly);
        self.model.restarted();
        self.numbers.handles.clear();
        self.started();
    }

    fn started(&mut self) {
        let volume = self.volume();
        check::tree(&volume, &mut self.model, &self.numbers);
        check::attributes(&volume, &mut self.model, &self.numbers);
        self.past = vec![(volume.appended(), self.model.clone())];
    }

    fn acknowledge(&mut self) {
        if self.shape.with == With::Replica {
            return (0..self.sites.len()).for_each(|at| self.network.conclude(&self.sites, at));
        }
        let volume = self.volume();
        // Nobody acknowledges what is not shipped, and only what is durable is.
        volume.wait_durable(volume.appended()).expect("durable");
        for (lane, seq) in Lane::ALL.into_iter().zip(heads(&volume)) {
            volume.set_watermark(lane, seq);
            volume.set_stable(volume.site(), lane, LanePoint { incarnation: volume.incarnation(), seq });
        }
    }

    fn replicate(&mut self) {
        self.network.settle(&self.sites, &mut self.rng);
        self.check_site(1);
    }

    /// That a site has what the model has.
    fn check_site(&self, at: usize) {
        let (volume, mut model) = (self.sites[at].volume(), self.model.clone());
        let btime = volume.getattr(FileId::ROOT).expect("the root").btime;
        model.nodes.get_mut(&Ino::ROOT).expect("the root").btime = When::exactly(btime);
        check::tree(volume, &mut model, &self.numbers);
    }

    fn lose_power(&mut self, keep: u64) {
        self.join_fold();
        let durable = self.volume().durable();
        let mut past = std::mem::take(&mut self.past);
        past.push((self.volume().appended(), self.model.clone()));
        self.sites[0].crash();
        // A fold of the background may have come in between.
        let folded = power::checkpoint(self.sites[0].path());
        past.retain(|(lsn, _)| *lsn >= durable.max(folded).max(self.cut));
        past.drain(..(keep % past.len() as u64) as usize);
        power::lose(self.sites[0].path(), past[0].0);
        self.sites[0].start();
        self.model = past[0].1.clone();
        self.model.restarted();
        self.numbers.handles.clear();
        self.changed.clear();
        let volume = self.volume();
        for (ino, node) in &mut self.model.nodes {
            if node.kind == Kind::Regular {
                // What was being overwritten is shipped whole.
                node.ctime.latest = clock();
                let later: Vec<&Node> = past.iter().filter_map(|(_, model)| model.nodes.get(ino)).collect();
                if later.iter().any(|later| !Arc::ptr_eq(&later.data, &node.data)) {
                    adopt(&volume, self.numbers.file(*ino), node, &later);
                }
            }
        }
        self.started();
    }

    /// Everything once more; then nothing is left over of what was removed.
    pub fn finish(mut self) {
        let volume = self.volume();
        check::tree(&volume, &mut self.model, &self.numbers);
        check::attributes(&volume, &mut self.model, &self.numbers);
        drop(volume);
        check_rows(&self.sites[0], false);
        let cleanly = self.rng.one_in(3);
        self.restart(cleanly);
        if self.shape.with == With::Replica {
            self.replicate();
            self.network.drain(&self.sites);
        } else {
            self.acknowledge();
        }
        self.sites.iter().for_each(|site| check_rows(site, true));
        // It closes and opens every store once more.
        if self.rng.one_in(4) {
            self.sites.iter_mut().for_each(check_drained);
        }
        (0..self.sites.len()).for_each(|at| self.check_site(at));
    }
}

fn cuts(step: &Step) -> bool {
    match step {
        Step::Call(Call::SetAttr { set, .. }) => set.size.is_some(),
        Step::Call(Call::Open { flags, .. }) => flags.truncate,
        Step::Call(Call::Release { .. } | Call::Forget { .. }) | Step::Acknowledge => true,
        _ => false,
    }
}

/// A file that was changed by calls that are lost: each byte is as it was before them, or after one of them.
fn adopt(volume: &Volume, file: FileId, node: &mut Node, later: &[&Node]) {
    let attr = volume.getattr(file).expect("an inode");
    let (bytes, _) = content(volume, file);
    let shortest = later.iter().map(|later| later.data.len()).min().unwrap_or(0);
    let len = bytes.len();
    assert!(len == node.data.len() || (shortest..node.data.len()).contains(&len), "{file} has {len} bytes: {node:?}");
    for (at, byte) in bytes.iter().enumerate() {
        let was = later.iter().any(|later| later.data.get(at).unwrap_or(&0) == byte);
        assert!(was, "byte {at} of {file} is {byte}, which it never was");
    }
    if len < node.data.len() {
        node.xattrs.remove(&b"security.capability"[..]);
    }
    let pages = later.iter().flat_map(|later| later.pages.0.iter().copied());
    node.pages.0 = pages.chain(node.pages.0.iter().copied()).filter(|page| page * 4096 < len as u64).collect();
    node.data = Arc::new(bytes);
    node.mtime = When::exactly(attr.mtime);
}
