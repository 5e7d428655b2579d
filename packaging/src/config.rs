//! One site's configuration: TOML, checked once, before anything is opened or changed.
//!
//! A `Config` that exists is one that can work as far as that can be known from it alone. Every default stands in
//! [`Config::new`]; every key is described in the file that [`file::text`] writes.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::ConfigError;
use proto::ids::Lane;
use replicator::config::{LimitRule, Schedule};
use replicator::engine::Settings;

mod check;
mod error;
pub mod file;
mod raw;

/// How the lanes besides `sync` share a link that all of them want.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weights {
    /// Of the lane `high`.
    pub high: u32,
    /// Of the lane `normal`.
    pub normal: u32,
    /// Of the lane `bulk`.
    pub bulk: u32,
}

impl Default for Weights {
    fn default() -> Self {
        let [_, high, normal, bulk] = Settings::default().weights;
        Self { high, normal, bulk }
    }
}

impl Weights {
    /// By the lane's number. That of the sync lane does not matter: it has a connection of its own.
    pub fn by_lane(self) -> [u32; Lane::ALL.len()] {
        Lane::ALL.map(|lane| match lane {
            Lane::Sync | Lane::High => self.high,
            Lane::Normal => self.normal,
            Lane::Bulk => self.bulk,
        })
    }
}

/// What a daemon is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The volume's name, for people.
    pub volume: String,
    /// This site's name in the volume.
    pub site: String,
    /// Where this site's replica lives. Absolute.
    pub store: PathBuf,
    /// Where peers are listened to.
    pub listen: SocketAddr,
    /// `host:port` at which the other sites reach this one.
    pub advertise: String,
    /// Size of one journal file.
    pub journal_file_bytes: u64,
    /// How long a change may wait for the background flush.
    pub flush_interval: Duration,
    /// A peer whose clock is further ahead is refused.
    pub max_clock_drift: Duration,
    /// Threads that answer the kernel; absent: as many as cores, and at least 4.
    pub threads: Option<usize>,
    /// Whether users other than the daemon's may use the mount (always with the kernel's permission checks); absent:
    /// where that is allowed.
    pub allow_other: Option<bool>,
    /// Whether the kernel may read content itself, where it can.
    pub passthrough: bool,
    /// Bytes that may be under way to one peer.
    pub window_bytes: u64,
    /// Where metrics can be read; absent: nowhere.
    pub metrics: Option<SocketAddr>,
    /// How lanes share a link.
    pub weights: Weights,
    /// How fast records go to the peers at most; no two for the same peer and lane.
    pub limits: Vec<LimitRule>,
    /// What is limited or paused by the time of day.
    pub schedules: Vec<Schedule>,
    /// The least important messages that are logged.
    pub log_level: tracing::Level,
}

impl Config {
    /// The necessary values as given, everything else as it is by default.
    pub fn new(volume: String, site: String, store: PathBuf, listen: SocketAddr, advertise: String) -> Self {
        Self {
            volume,
            site,
            store,
            listen,
            advertise,
            journal_file_bytes: 64 << 20,
            flush_interval: Duration::from_millis(20),
            max_clock_drift: Duration::from_secs(60),
            threads: None,
            allow_other: None,
            passthrough: true,
            window_bytes: 16 << 20,
            metrics: None,
            weights: Weights::default(),
            limits: Vec::new(),
            schedules: Vec::new(),
            log_level: tracing::Level::INFO,
        }
    }

    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Checks `text`, which stands in `path`.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let blame = error::Blame { path, text };
        let raw: raw::RawConfig = toml::from_str(text).map_err(|error| blame.toml(&error))?;
        check::config(&blame, raw)
    }
}

/// A name of a volume or site: what can stand in a file name, a certificate and a command line unquoted.
pub fn check_name(name: &str) -> Result<(), String> {
    let start = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    let rest = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if start && rest && name.len() <= 63 {
        return Ok(());
    }
    Err(format!("`{name}` is no name: 1 to 63 letters, digits, `-`, `_`, `.`, of which the first is a letter or digit"))
}

/// An address to listen at: an IP address and a port that the other sites can be told.
pub fn check_listen(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| {
        format!("`{text}` is no address to listen at: write IP:PORT, for example `0.0.0.0:7400` or `[::]:7400`")
    })?;
    if address.port() == 0 {
        return Err(format!("`{text}`: the other sites must know the port, so it can't be 0"));
    }
    Ok(address)
}

/// What the other sites connect to: given, or else the address listened at if that can be reached from elsewhere.
pub fn check_advertise(text: Option<&str>, listen: SocketAddr) -> Result<String, String> {
    let hint = "give the address at which the other sites reach this one, for example `gpu1.example.org:7400`";
    let Some(text) = text else {
        if listen.ip().is_unspecified() {
            return Err(format!("{listen} is every address of this host and can't be told to the other sites: {hint}"));
        }
        return Ok(listen.to_string());
    };
    let wrong = |why: &str| Err(format!("`{text}` {why}: {hint}"));
    let Some((host, port)) = text.rsplit_once(':') else { return wrong("has no port") };
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return wrong("has no port from 1 to 65535");
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let ip = bare.unwrap_or(host).parse::<IpAddr>();
    match ip {
        Ok(ip) if ip.is_unspecified() => wrong("is every address of this host"),
        Ok(IpAddr::V6(_)) if bare.is_none() => wrong("needs brackets around the IPv6 address"),
        Ok(_) => Ok(text.to_owned()),
        Err(_) if is_host_name(host) => Ok(text.to_owned()),
        Err(_) => wrong("has no valid host name"),
    }
}

fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            && !label.starts_with('-')
    };
    host.len() <= 253 && host.trim_end_matches('.').split('.').all(label)
}

/// A directory for the store: absolute, and not the root of the host.
pub fn check_store(store: &Path) -> Result<PathBuf, String> {
    if !store.is_absolute() || store.parent().is_none() {
        return Err(format!("`{}` is no place for a store: write the absolute path of a directory", store.display()));
    }
    if store.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(format!("`{}`: write the store's path without `..`", store.display()));
    }
    Ok(store.to_owned())
}

#[cfg(test)]
#[path = "config/config_tests.rs"]
mod tests;
