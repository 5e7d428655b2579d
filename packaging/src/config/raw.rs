//! The configuration as it stands in the file: every key optional but five, nothing checked but types.

use serde::Deserialize;
use toml::Spanned;

use crate::units::{Size, Span};

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
    #[serde(default)]
    pub journal: RawJournal,
    #[serde(default)]
    pub clock: RawClock,
    #[serde(default)]
    pub mount: RawMount,
    #[serde(default)]
    pub replication: RawReplication,
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
}

/// `[replication]`
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct RawReplication {
    pub window: Option<Place<Size>>,
}

/// `[log]`
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct RawLog {
    pub level: Option<Place<String>>,
}
