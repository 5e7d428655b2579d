//! The two streams that a site keeps to each peer: one for the sync lane, one for the others, each over a connection of its own. So what
//! fills the one never stands in front of the other.

use std::fmt;

use proto::ids::Lane;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Channel {
    /// For records whose writers wait.
    Sync = 0,
    /// For all others.
    Async = 1,
}

impl Channel {
    /// Both.
    pub const ALL: [Channel; 2] = [Channel::Sync, Channel::Async];

    /// The lanes that it carries.
    pub fn lanes(self) -> &'static [Lane] {
        match self {
            Channel::Sync => &[Lane::Sync],
            Channel::Async => &[Lane::High, Lane::Normal, Lane::Bulk],
        }
    }

    /// The one that carries a lane.
    pub fn of(lane: Lane) -> Self {
        if lane == Lane::Sync { Channel::Sync } else { Channel::Async }
    }

    /// The one that carries these lanes and no other.
    pub fn carrying(lanes: &[Lane]) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.lanes() == lanes)
    }

    /// Its name in `status` and logs.
    pub fn name(self) -> &'static str {
        match self {
            Channel::Sync => "sync",
            Channel::Async => "async",
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lane_has_one_channel() {
        for lane in Lane::ALL {
            let carrying: Vec<Channel> =
                Channel::ALL.into_iter().filter(|channel| channel.lanes().contains(&lane)).collect();
            assert_eq!(carrying, [Channel::of(lane)]);
        }
        assert_eq!(Channel::carrying(&[Lane::Sync]), Some(Channel::Sync));
        assert_eq!(Channel::carrying(&Lane::ALL), None);
    }
}
