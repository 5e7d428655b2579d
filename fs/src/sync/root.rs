//! A sync directory: what it demands, and how each peer stands.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::ids::SiteId;

use super::ledger::Peer;
use super::points::Points;
use super::state::{Event, PeerState, Phase};
use super::terms::Terms;

/// See the module.
pub struct Root {
    /// Its path when it was last looked up.
    pub path: String,
    /// What it demands.
    pub terms: Terms,
    /// What callers were told is done, or will be. In the beginning all that this site has made.
    pub told: Points,
    states: BTreeMap<SiteId, Noted>,
}

struct Noted {
    state: PeerState,
    /// What the log said last. That a peer is for a moment behind others that are enough is not worth a line.
    logged: Phase,
}

/// What a step did.
pub struct Stepped {
    /// The peer is in sync now.
    pub is_in_sync: bool,
    /// Callers waited for it before, and don't any more.
    pub given_up: bool,
    /// For the log.
    pub news: Option<News>,
}

/// A peer is in another state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct News {
    /// The directory.
    pub path: String,
    /// The peer's name.
    pub peer: String,
    /// Where it stands now.
    pub phase: Phase,
    /// How long it has not been connected.
    pub lost: Option<Duration>,
    /// Records that it owes.
    pub records: u64,
}

/// How a sync directory stands as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// What callers were told is done is at as many peers as it demands.
    InSync,
    /// Not everything is, yet.
    CatchingUp,
    /// Too few peers answer.
    Degraded,
}

impl Standing {
    /// As it is called in the state attribute, the status and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Standing::InSync => "in sync",
            Standing::CatchingUp => "catching up",
            Standing::Degraded => "degraded",
        }
    }
}

impl Root {
    /// A directory that becomes sync when this site has made so much.
    pub fn new(terms: Terms, made: Points) -> Self {
        Self { path: String::new(), terms, told: made, states: BTreeMap::new() }
    }

    /// Has a state for each of the members, and for nobody else. Whether there are others than before.
    pub fn match_members<'p>(
        &mut self,
        members: impl Iterator<Item = (SiteId, &'p Peer)>,
        made: &Points,
        now: Instant,
    ) -> bool {
        let before: Vec<SiteId> = self.states.keys().copied().collect();
        let mut old = std::mem::take(&mut self.states);
        for (site, peer) in members {
            let noted = old.remove(&site).unwrap_or_else(|| {
                let state = PeerState::begin(*made, peer.lost_at, &peer.acknowledged, now);
                Noted { state, logged: state.phase() }
            });
            self.states.insert(site, noted);
        }
        !before.iter().eq(self.states.keys())
    }

    /// A peer's state takes an event.
    pub fn step(&mut self, site: SiteId, event: Event, peer: &Peer, now: Instant) -> Option<Stepped> {
        let Noted { state, logged } = self.states.get_mut(&site)?;
        let waited_for = state.is_waited_for();
        state.step(event, &peer.acknowledged, self.terms.timeout, now);
        let phase = state.phase();
        let trails = phase == Phase::CatchingUp { target: None };
        let news = std::mem::discriminant(&phase) != std::mem::discriminant(logged) && !trails;
        let news = news.then(|| {
            *logged = phase;
            News {
                path: self.path.clone(),
                peer: peer.name.clone(),
                phase,
                lost: peer.lost_at.map(|at| now.saturating_duration_since(at)),
                records: peer.acknowledged.records_to(state.debt()),
            }
        });
        let given_up = waited_for && !state.is_waited_for();
        Some(Stepped { is_in_sync: phase == Phase::InSync, given_up, news })
    }

    /// The states, in order of the sites.
    pub fn states(&self) -> impl Iterator<Item = (SiteId, &PeerState)> {
        self.states.iter().map(|(site, noted)| (*site, &noted.state))
    }

    /// One peer's.
    pub fn state(&self, site: SiteId) -> Option<&PeerState> {
        self.states.get(&site).map(|noted| &noted.state)
    }

    /// Whether callers wait for the peer, where a loss degrades.
    pub fn is_waited_for(&self, site: SiteId) -> bool {
        self.state(site).is_some_and(PeerState::is_waited_for)
    }

    /// Whether the peer has no state here that is worth an acknowledgement's look.
    pub fn is_in_sync(&self, site: SiteId) -> bool {
        self.state(site).is_none_or(|state| state.phase() == Phase::InSync)
    }

    /// Peers that have not been given up.
    pub fn answering(&self) -> usize {
        self.states.values().filter(|noted| noted.state.phase() != Phase::Degraded).count()
    }

    /// How it stands as a whole.
    pub fn standing<'p>(&self, members: impl Iterator<Item = (SiteId, &'p Peer)>) -> Standing {
        let needed = self.terms.needed(self.states.len());
        let has = |(site, peer): &(SiteId, &Peer)| self.is_waited_for(*site) && peer.acknowledged.covers(&self.told);
        if self.answering() < needed {
            Standing::Degraded
        } else if members.filter(has).count() < needed {
            Standing::CatchingUp
        } else {
            Standing::InSync
        }
    }

    /// What is lacking, what became of the operation, and what to do. `lacking` are the peers that did not do their part.
    pub fn lack<'p>(&self, lacking: impl Iterator<Item = &'p Peer>, fate: &str, now: Instant) -> String {
        let needed = self.terms.needed(self.states.len());
        let who: Vec<String> = lacking
            .map(|peer| match peer.lost_at {
                Some(at) => format!("{} (not connected for {:.1?})", peer.name, now.saturating_duration_since(at)),
                None => format!("{} (no acknowledgement within {:?})", peer.name, self.terms.timeout),
            })
            .collect();
        let who = match (needed > self.states.len(), who.is_empty()) {
            (true, _) => format!("the volume has only {}", self.states.len()),
            (false, true) => "too few answer".to_owned(),
            (false, false) => format!("missing: {}", who.join(", ")),
        };
        format!(
            "{} is sync with on-loss=fail and needs the acknowledgement of {needed} peers; {who}. {fate}. Restore the links (`syncline status` shows \
             them), or set user.syncline.on-loss=degrade to go on without them",
            self.path
        )
    }
}
