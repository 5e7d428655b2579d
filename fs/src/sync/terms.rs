//! What a sync directory demands of its peers.

use std::time::Duration;

use proto::ids::FileId;

use crate::policy::{Acks, Effective, OnLoss, Policy};

/// The part of a policy that waits are about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// How many peers.
    pub acks: Acks,
    /// What if they don't answer.
    pub on_loss: OnLoss,
    /// How long they have.
    pub timeout: Duration,
}

impl Terms {
    /// Of a policy.
    pub fn of(policy: &Policy) -> Self {
        Self { acks: policy.acks, on_loss: policy.on_loss, timeout: policy.timeout }
    }

    /// How many of `peers` have to acknowledge. May be more than there are: then nothing satisfies it.
    pub fn needed(&self, peers: usize) -> usize {
        match self.acks {
            Acks::All => peers,
            // More than half of the sites; this one has it.
            Acks::Majority => peers.div_ceil(2),
            Acks::Peers(number) => usize::from(number),
        }
    }
}

/// What one policy demands for an operation below its sync directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Need {
    /// The sync directory, by whose states it is decided who is waited for.
    pub root: FileId,
    /// A directory below may have terms of its own.
    pub terms: Terms,
}

impl Need {
    /// What the policy demands; nothing unless it is of a sync directory.
    pub fn of(policy: &Effective) -> Option<Self> {
        policy.sync_root().map(|root| Self { root, terms: Terms::of(&policy.policy) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_counts_this_site() {
        let majority = Terms::of(&Policy { acks: Acks::Majority, ..Policy::default() });
        for (peers, needed) in [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
            assert_eq!(majority.needed(peers), needed, "{peers} peers");
            assert!((needed + 1) * 2 > peers + 1, "more than half of the sites");
            assert!(needed * 2 <= peers + 1, "and not one too many");
        }
    }

    #[test]
    fn a_number_is_not_lowered_to_what_is_there() {
        let three = Terms::of(&Policy { acks: Acks::Peers(3), ..Policy::default() });
        assert_eq!(three.needed(1), 3);
    }
}
