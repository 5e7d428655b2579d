//! The configuration as it stands in the file: every key optional but five, nothing checked but types.

use serde::Deserialize;
use toml::Spanned;

use crate::lanes::LaneName;
use crate::units::{Rate, Size, Span};

/// A value and where it stands, for messages.
pub type Place<T> = Spanned<T>;

/// The whole file.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    pub volume: Place<String>,
    pub site: Place<String>,
    pub store: Place<String>,
    pub listen: Place<String>,
    pub advertise: Option<Place<String>>,
    pub metrics: Option<Place<String>>,
    #[serde(default)]
    pub journal: RawJournal,
    #[serde(default)]
    pub clock: RawClock,
    #[serde(default)]
    pub mount: RawMount,
    #[serde(default)]
    pub replication: RawReplication,
    #[serde(default)]
    pub lanes: RawLanes,
    #[serde(default)]
    pub limit: Vec<RawLimit>,
    #[serde(default)]
    pub schedule: Vec<Place<RawSchedule>>,
    #[serde(default)]
    pub log: RawLog,
}

/// `[journal]`
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct RawJournal {
    pub file_size: Option<Place<Size>>,
    pub flush_interval: Option<Place<Span>>,
}

/// `[clock]`
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct RawClock {
    pub max_drift: Option<Place<Span>>,
}

/// `[mount]`
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct RawMount {
    pub threads: Option<Place<usize>>,
    pub allow_other: Option<Place<bool>>,
    pub passthrough: Option<Place<bool>>,
}

/// `[replication]`
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct RawReplication {
    pub window: Option<Place<Size>>,
}

/// `[lanes]`
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct RawLanes {
    #[serde(default)]
    pub weights: RawWeights,
}

/// `[lanes.weights]`
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct RawWeights {
    pub high: Option<Place<u32>>,
    pub normal: Option<Place<u32>>,
    pub bulk: Option<Place<u32>>,
}

/// `[[limit]]`
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct RawLimit {
    pub peer: Option<Place<String>>,
    pub lane: Option<Place<LaneName>>,
    pub rate: Place<Rate>,
}

/// `[[schedule]]`
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct RawSchedule {
    pub lane: Place<LaneName>,
    pub from: Place<String>,
    pub to: Place<String>,
    pub days: Option<Place<Vec<String>>>,
    pub rate: Option<Place<Rate>>,
    pub pause: Option<Place<bool>>,
}

/// `[log]`
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct RawLog {
    pub level: Option<Place<String>>,
}
