//! Lanes by their names.

use std::fmt;
use std::str::FromStr;

use proto::ids::Lane;
use serde::Deserialize;
use serde::de::{self, Deserializer};

/// A lane as people write it: `sync`, `high`, `normal`, `bulk`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LaneName(pub Lane);

/// There is no such lane.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no lane `{0}`, but {known}", known = Lane::ALL.map(Lane::name).join(", "))]
pub struct NoLane(String);

impl FromStr for LaneName {
    type Err = NoLane;
    fn from_str(text: &str) -> Result<Self, NoLane> {
        let lane = Lane::ALL.into_iter().find(|lane| lane.name() == text);
        lane.map(Self).ok_or_else(|| NoLane(text.to_owned()))
    }
}

impl fmt::Display for LaneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

impl<'de> Deserialize<'de> for LaneName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_shown() {
        for lane in Lane::ALL {
            assert_eq!(lane.name().parse(), Ok(LaneName(lane)));
            assert_eq!(LaneName(lane).to_string(), lane.name());
        }
        let message = "fast".parse::<LaneName>().map_err(|error| error.to_string());
        assert_eq!(message, Err("there is no lane `fast`, but sync, high, normal, bulk".into()));
    }
}
