//! Who has acknowledged what, who waits for whom, and how each sync directory stands: events in, outcomes out, time as an argument.
//!
//! **Waits.** A wait stands in each lacking peer's list, in order of the position that it waits for. So an acknowledgement looks only at the waits that it
//! touches, however many there are. When a wait ends, who had not acknowledged by then owes what it was for: in the same step, so that nobody sees
//! the directory in sync between.
//!
//! **When a wait ends.** For each directory that demands something:
//!
//! | | done | fails |
//! |---|---|---|
//! | `degrade` | enough peers have acknowledged, or none is left to wait for: one that is `Degraded` or far behind is not, nor one for which time ran out | never |
//! | `fail` | enough peers have acknowledged | time ran out for so many that the others are not enough |
//!
//! Time runs out for a peer `timeout` after the operation began, or after the peer was lost if that was before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::ids::{FileId, Lane, LanePoint, SiteId};

use super::parker::Parker;
use super::points::Points;
use super::root::{News, Root};
use super::state::{Event, PeerState, Phase};
use super::terms::{Need, Terms};
use crate::policy::OnLoss;

/// Where there is no time limit that a clock can show.
const FAR: Duration = Duration::from_secs(3600);

/// How a wait ended. An error says what is lacking and what to do.
pub type Outcome = Result<(), String>;

/// See the module.
#[derive(Default)]
pub struct Ledger {
    peers: BTreeMap<SiteId, Peer>,
    roots: BTreeMap<FileId, Root>,
    waits: BTreeMap<WaitId, Wait>,
    last_wait: u64,
    /// Directories in which somebody is no longer waited for: their waits have to be looked at.
    changed: Vec<FileId>,
    outbox: Outbox,
}

/// What is to be told when the lock is released.
#[derive(Default)]
pub struct Outbox {
    /// Waits that ended.
    pub outcomes: Vec<(Arc<Parker>, Outcome)>,
    /// For the log.
    pub news: Vec<News>,
}

impl Outbox {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.outcomes.is_empty() && self.news.is_empty()
    }
}

/// A peer as all directories see it.
pub struct Peer {
    /// Its name.
    pub name: String,
    /// A member of the volume. Others are only remembered, since a connection may be faster than the news.
    pub member: bool,
    /// What it has acknowledged.
    pub acknowledged: Points,
    /// Since when its connection has been gone.
    pub lost_at: Option<Instant>,
    /// Who waits for it, for each lane by position.
    waiting: [BTreeSet<(LanePoint, WaitId)>; Lane::ALL.len()],
    /// The directories in which it is not in sync.
    behind: BTreeSet<FileId>,
}

/// A peer that is a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberPeer {
    /// The site.
    pub site: SiteId,
    /// Its name.
    pub name: String,
    /// What it is remembered to have acknowledged.
    pub acknowledged: Points,
}

/// A directory that is sync.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncRoot {
    /// The directory.
    pub file: FileId,
    /// Its path from the volume's root, for people.
    pub path: String,
    /// What it demands.
    pub terms: Terms,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct WaitId(u64);

/// What an operation waits for.
#[derive(Clone)]
pub struct Wait {
    /// What must be acknowledged.
    pub points: Points,
    /// By how many, for each policy.
    pub needs: Vec<Need>,
    /// When the operation began.
    pub started: Instant,
    /// Who waits.
    pub parker: Arc<Parker>,
}

/// What a look at a wait finds.
enum Verdict {
    Ended(Outcome),
    Until(Instant),
}

impl Ledger {
    /// The members are these. `made` is all that this site has made.
    pub fn set_members(&mut self, members: Vec<MemberPeer>, made: &Points, now: Instant) {
        self.peers.values_mut().for_each(|peer| peer.member = false);
        for MemberPeer { site, name, acknowledged } in members {
            let peer = self.peers.entry(site).or_insert_with(|| Peer::new(Some(now)));
            peer.acknowledged.raise_all(&acknowledged);
            (peer.name, peer.member) = (name, true);
            // Who waits already, waits for a new member, too.
            self.waits.iter().for_each(|(id, wait)| peer.waits_for(wait, *id));
        }
        self.match_states(made, now);
    }

    /// The sync directories are these.
    pub fn set_roots(&mut self, roots: Vec<SyncRoot>, made: &Points, now: Instant) {
        let mut before = std::mem::take(&mut self.roots);
        for SyncRoot { file, path, terms } in roots {
            let mut root = before.remove(&file).unwrap_or_else(|| Root::new(terms, *made));
            (root.path, root.terms) = (path, terms);
            self.roots.insert(file, root);
        }
        // Who waited for one that is sync no more is let go.
        self.changed.extend(before.into_keys());
        self.match_states(made, now);
    }

    /// An operation met sync directories that are not known yet.
    pub fn add_roots(&mut self, needs: &[Need], made: &Points, now: Instant) {
        for need in needs {
            self.roots.entry(need.root).or_insert_with(|| Root::new(need.terms, *made));
        }
        self.match_states(made, now);
    }

    /// Whether a directory is known.
    pub fn knows(&self, root: FileId) -> bool {
        self.roots.contains_key(&root)
    }

    /// A peer has acknowledged a lane up to the point.
    pub fn acknowledged(&mut self, site: SiteId, lane: Lane, point: LanePoint, now: Instant) {
        let peer = self.peers.entry(site).or_insert_with(|| Peer::new(Some(now)));
        let before = peer.acknowledged.get(lane);
        peer.acknowledged.set(lane, point);
        if point <= before {
            if point < before {
                self.fell_back(site, Points::of(lane, before), now);
            }
            return;
        }
        let waiting = &mut peer.waiting[lane as usize];
        let later = waiting.split_off(&(point, WaitId(u64::MAX)));
        let reached = std::mem::replace(waiting, later);
        for root in peer.behind.clone() {
            self.event(root, site, Event::Acknowledged, now);
        }
        reached.into_iter().for_each(|(_, wait)| _ = self.look_at(wait, now));
        self.look_at_changed(now);
    }

    /// A peer came back older than it was: it owes what it had acknowledged.
    fn fell_back(&mut self, site: SiteId, had: Points, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&site) {
            self.waits.iter().for_each(|(id, wait)| peer.waits_for(wait, *id));
        }
        for root in self.roots.keys().copied().collect::<Vec<_>>() {
            self.event(root, site, Event::WentOn(had), now);
        }
    }

    /// A peer's connection stands, or is gone.
    pub fn connected(&mut self, site: SiteId, connected: bool, now: Instant) {
        let peer = self.peers.entry(site).or_insert_with(|| Peer::new(Some(now)));
        if connected {
            peer.lost_at = None;
        } else {
            peer.lost_at.get_or_insert(now);
        }
        let event = if connected { Event::Connected } else { Event::Lost };
        for root in self.roots.keys().copied().collect::<Vec<_>>() {
            self.event(root, site, event, now);
        }
        self.look_at_changed(now);
    }

    /// Time has passed. When to look again at the latest.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        let due: Vec<_> = self.deadlines().filter(|(at, ..)| *at <= now).map(|(_, root, site)| (root, site)).collect();
        for (root, site) in due {
            self.event(root, site, Event::Tick, now);
        }
        self.look_at_changed(now);
        self.deadlines().map(|(at, ..)| at).min()
    }

    fn deadlines(&self) -> impl Iterator<Item = (Instant, FileId, SiteId)> {
        self.roots.iter().flat_map(|(file, root)| {
            let at = |(site, state): (SiteId, &PeerState)| Some((state.gives_up_at(root.terms.timeout)?, *file, site));
            root.states().filter_map(at)
        })
    }

    /// Begins a wait. `None`: it has ended, and the parker knows how. Otherwise when to call [`expired`](Self::expired).
    pub fn begin(&mut self, wait: Wait, now: Instant) -> Option<(WaitId, Instant)> {
        self.last_wait += 1;
        let id = WaitId(self.last_wait);
        for peer in self.peers.values_mut().filter(|peer| peer.member) {
            peer.waits_for(&wait, id);
        }
        self.waits.insert(id, wait);
        let until = self.look_at(id, now);
        self.look_at_changed(now);
        until.map(|until| (id, until))
    }

    /// The time of a wait has come. `None`: it has ended. Otherwise when to look again: a peer that had been lost came back.
    pub fn expired(&mut self, id: WaitId, now: Instant) -> Option<Instant> {
        let until = self.look_at(id, now);
        self.look_at_changed(now);
        until
    }

    /// Ends every wait in this way.
    pub fn end_waits(&mut self, why: &str) {
        let now = Instant::now();
        for id in self.waits.keys().copied().collect::<Vec<_>>() {
            self.end(id, Err(why.to_owned()), now);
        }
    }

    /// Why an operation may not begin: too many of the peers that it needs are known not to answer.
    pub fn refusal(&self, needs: &[Need], now: Instant) -> Option<String> {
        needs.iter().filter(|need| need.terms.on_loss == OnLoss::Fail).find_map(|need| {
            let root = self.roots.get(&need.root)?;
            let refused = root.answering() < need.terms.needed(self.members().count());
            refused.then(|| {
                let given_up = |(site, _): &(SiteId, &Peer)| {
                    root.state(*site).is_some_and(|state| state.phase() == Phase::Degraded)
                };
                root.lack(self.members().filter(given_up).map(|(_, peer)| peer), "Nothing was changed", now)
            })
        })
    }

    /// The members, in order.
    pub fn members(&self) -> impl Iterator<Item = (SiteId, &Peer)> + Clone {
        self.peers.iter().filter(|(_, peer)| peer.member).map(|(site, peer)| (*site, peer))
    }

    /// The sync directories, in order.
    pub fn roots(&self) -> impl Iterator<Item = (FileId, &Root)> {
        self.roots.iter().map(|(file, root)| (*file, root))
    }

    /// Takes what is to be told.
    pub fn take_outbox(&mut self) -> Outbox {
        std::mem::take(&mut self.outbox)
    }

    /// Each directory has a state for each member, and for nobody else.
    fn match_states(&mut self, made: &Points, now: Instant) {
        for (file, root) in &mut self.roots {
            let members = self.peers.iter().filter(|(_, peer)| peer.member).map(|(site, peer)| (*site, peer));
            if root.match_members(members, made, now) {
                self.changed.push(*file);
            }
        }
        for (site, peer) in &mut self.peers {
            peer.behind =
                self.roots.iter().filter(|(_, root)| !root.is_in_sync(*site)).map(|(file, _)| *file).collect();
        }
        self.look_at_changed(now);
    }

    fn event(&mut self, file: FileId, site: SiteId, event: Event, now: Instant) {
        let (Some(root), Some(peer)) = (self.roots.get_mut(&file), self.peers.get_mut(&site)) else { return };
        let Some(stepped) = root.step(site, event, peer, now) else { return };
        if stepped.is_in_sync {
            peer.behind.remove(&file)
        } else {
            peer.behind.insert(file)
        };
        if stepped.given_up {
            self.changed.push(file);
        }
        self.outbox.news.extend(stepped.news);
    }

    /// Looks at the waits in directories where somebody is no longer waited for. Ends: a peer is given up once only until it answers.
    fn look_at_changed(&mut self, now: Instant) {
        while let Some(file) = self.changed.pop() {
            let concerned = |wait: &Wait| wait.needs.iter().any(|need| need.root == file);
            let waits: Vec<_> = self.waits.iter().filter(|(_, wait)| concerned(wait)).map(|(id, _)| *id).collect();
            waits.into_iter().for_each(|wait| _ = self.look_at(wait, now));
        }
    }

    /// Ends the wait if that is due; otherwise until when it goes on. `None` also if there is no such wait any more.
    fn look_at(&mut self, id: WaitId, now: Instant) -> Option<Instant> {
        let wait = self.waits.get(&id)?;
        let mut ran_out = Vec::new();
        let verdict = self.judge(wait, now, &mut ran_out);
        for (root, site) in ran_out {
            self.event(root, site, Event::WaitRanOut, now);
        }
        match verdict {
            Verdict::Until(until) => Some(until),
            Verdict::Ended(outcome) => {
                self.end(id, outcome, now);
                None
            }
        }
    }

    fn judge(&self, wait: &Wait, now: Instant, ran_out: &mut Vec<(FileId, SiteId)>) -> Verdict {
        let mut until: Option<Instant> = None;
        for need in &wait.needs {
            // Sync no more.
            let Some(root) = self.roots.get(&need.root) else { continue };
            let (mut has, mut members, mut pending) = (0, 0, 0);
            let mut next: Option<Instant> = None;
            let mut late = Vec::new();
            for (site, peer) in self.members() {
                members += 1;
                if peer.acknowledged.covers(&wait.points) {
                    has += 1;
                } else if need.terms.on_loss == OnLoss::Fail || root.is_waited_for(site) {
                    let from = peer.lost_at.map_or(wait.started, |lost_at| lost_at.min(wait.started));
                    match from.checked_add(need.terms.timeout) {
                        Some(at) if at <= now => late.push((need.root, site)),
                        at => {
                            pending += 1;
                            next = at.into_iter().chain(next).min();
                        }
                    }
                }
            }
            let needed = need.terms.needed(members);
            if has >= needed {
                continue;
            }
            ran_out.append(&mut late);
            let hopeless = match need.terms.on_loss {
                OnLoss::Degrade => pending == 0,
                OnLoss::Fail => has + pending < needed,
            };
            match (hopeless, need.terms.on_loss) {
                (false, _) => {
                    let next = next.unwrap_or_else(|| now + FAR);
                    until = Some(until.map_or(next, |until| until.min(next)));
                }
                (true, OnLoss::Degrade) => {}
                (true, OnLoss::Fail) => {
                    let lacks = |peer: &&Peer| !peer.acknowledged.covers(&wait.points);
                    let lacking = self.members().map(|(_, peer)| peer).filter(lacks);
                    let fate = "The change is made here, and reaches them when they are back";
                    return Verdict::Ended(Err(root.lack(lacking, fate, now)));
                }
            }
        }
        until.map_or(Verdict::Ended(Ok(())), Verdict::Until)
    }

    /// Who has not acknowledged by now owes it.
    fn end(&mut self, id: WaitId, outcome: Outcome, now: Instant) {
        let Some(wait) = self.waits.remove(&id) else { return };
        let mut lacking = Vec::new();
        for (site, peer) in &mut self.peers {
            for (lane, point) in peer.acknowledged.lacks(&wait.points) {
                peer.waiting[lane as usize].remove(&(point, id));
            }
            if peer.member && !peer.acknowledged.covers(&wait.points) {
                lacking.push(*site);
            }
        }
        for need in &wait.needs {
            if let Some(root) = self.roots.get_mut(&need.root) {
                root.told.raise_all(&wait.points);
            }
            for site in &lacking {
                self.event(need.root, *site, Event::WentOn(wait.points), now);
            }
        }
        self.outbox.outcomes.push((wait.parker, outcome));
    }
}

impl Peer {
    fn new(lost_at: Option<Instant>) -> Self {
        Self {
            name: String::new(),
            member: false,
            acknowledged: Points::START,
            lost_at,
            waiting: Default::default(),
            behind: BTreeSet::new(),
        }
    }

    fn waits_for(&mut self, wait: &Wait, id: WaitId) {
        for (lane, point) in self.acknowledged.lacks(&wait.points) {
            self.waiting[lane as usize].insert((point, id));
        }
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
