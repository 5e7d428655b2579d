//! The extended attributes that set a policy: their names, and their values as text.
//!
//! What is read here and printed again is the same value. A value that an operator sets must be one of those; a value that came from a peer and is none
//! counts as absent.

use std::fmt;
use std::time::Duration;

use super::{Acks, Compress, Key, Mode, OnLoss, Policy, Priority, WriterSite};

/// What the names of all attributes of this file system begin with.
pub const PREFIX: &[u8] = b"user.syncline.";

/// How long a caller may have to wait: a shorter wait would be none, and no request can be interrupted.
const TIMEOUTS: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60 * 60);

/// Longer than any name of a site.
const MAX_SITE_BYTES: usize = 255;

/// One key with its value.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum Setting {
    Mode(Mode),
    Acks(Acks),
    OnLoss(OnLoss),
    Timeout(Duration),
    Priority(Priority),
    Compress(Compress),
    Writer(WriterSite),
}

/// A value that its attribute cannot have.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{} cannot be {value:?}; it can be {}", key.attribute(), key.valid())]
pub struct WrongValue {
    /// The attribute.
    pub key: Key,
    /// The value.
    pub value: String,
}

impl Key {
    /// Its name in attributes, texts and commands.
    pub fn name(self) -> &'static str {
        match self {
            Key::Mode => "mode",
            Key::Acks => "acks",
            Key::OnLoss => "on-loss",
            Key::Timeout => "timeout",
            Key::Priority => "priority",
            Key::Compress => "compress",
            Key::Writer => "writer",
        }
    }

    /// The key of this name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.name().as_bytes() == name)
    }

    /// The key of the attribute with this whole name.
    pub fn from_attribute(name: &[u8]) -> Option<Self> {
        Self::from_name(name.strip_prefix(PREFIX)?)
    }

    /// The whole name of its attribute.
    pub fn attribute(self) -> String {
        format!("user.syncline.{}", self.name())
    }

    /// Its values, for people.
    pub fn valid(self) -> &'static str {
        match self {
            Key::Mode => "async or sync",
            Key::Acks => "all, majority or a number of peers from 1 to 65535",
            Key::OnLoss => "degrade or fail",
            Key::Timeout => "a duration from 1ms to 60m, as 500ms, 10s or 2m",
            Key::Priority => "high, normal or bulk",
            Key::Compress => "auto, on or off",
            Key::Writer => "any or the name of a site of this volume",
        }
    }

    /// Its place in [`Key::ALL`].
    pub(super) fn index(self) -> usize {
        self as usize
    }
}

impl Setting {
    /// Reads a value.
    pub fn parse(key: Key, value: &[u8]) -> Result<Self, WrongValue> {
        let wrong = || WrongValue { key, value: String::from_utf8_lossy(value).into_owned() };
        let text = std::str::from_utf8(value).map_err(|_| wrong())?;
        let setting = match key {
            Key::Mode => match text {
                "async" => Some(Setting::Mode(Mode::Async)),
                "sync" => Some(Setting::Mode(Mode::Sync)),
                _ => None,
            },
            Key::Acks => match text {
                "all" => Some(Setting::Acks(Acks::All)),
                "majority" => Some(Setting::Acks(Acks::Majority)),
                number => digits(number).filter(|peers| *peers >= 1).map(|peers| Setting::Acks(Acks::Peers(peers))),
            },
            Key::OnLoss => match text {
                "degrade" => Some(Setting::OnLoss(OnLoss::Degrade)),
                "fail" => Some(Setting::OnLoss(OnLoss::Fail)),
                _ => None,
            },
            Key::Timeout => duration(text).filter(|time| TIMEOUTS.contains(time)).map(Setting::Timeout),
            Key::Priority => match text {
                "high" => Some(Setting::Priority(Priority::High)),
                "normal" => Some(Setting::Priority(Priority::Normal)),
                "bulk" => Some(Setting::Priority(Priority::Bulk)),
                _ => None,
            },
            Key::Compress => match text {
                "auto" => Some(Setting::Compress(Compress::Auto)),
                "on" => Some(Setting::Compress(Compress::On)),
                "off" => Some(Setting::Compress(Compress::Off)),
                _ => None,
            },
            Key::Writer => match text {
                "any" => Some(Setting::Writer(WriterSite::Any)),
                site if is_site(site) => Some(Setting::Writer(WriterSite::Site(site.to_owned()))),
                _ => None,
            },
        };
        setting.ok_or_else(wrong)
    }

    /// The value that a policy has for the key.
    pub fn of(policy: &Policy, key: Key) -> Self {
        match key {
            Key::Mode => Setting::Mode(policy.mode),
            Key::Acks => Setting::Acks(policy.acks),
            Key::OnLoss => Setting::OnLoss(policy.on_loss),
            Key::Timeout => Setting::Timeout(policy.timeout),
            Key::Priority => Setting::Priority(policy.priority),
            Key::Compress => Setting::Compress(policy.compress),
            Key::Writer => Setting::Writer(policy.writer.clone()),
        }
    }

    /// Its key.
    pub fn key(&self) -> Key {
        match self {
            Setting::Mode(_) => Key::Mode,
            Setting::Acks(_) => Key::Acks,
            Setting::OnLoss(_) => Key::OnLoss,
            Setting::Timeout(_) => Key::Timeout,
            Setting::Priority(_) => Key::Priority,
            Setting::Compress(_) => Key::Compress,
            Setting::Writer(_) => Key::Writer,
        }
    }

    /// Sets it in a policy.
    pub fn put(&self, policy: &mut Policy) {
        match self {
            Setting::Mode(mode) => policy.mode = *mode,
            Setting::Acks(acks) => policy.acks = *acks,
            Setting::OnLoss(on_loss) => policy.on_loss = *on_loss,
            Setting::Timeout(timeout) => policy.timeout = *timeout,
            Setting::Priority(priority) => policy.priority = *priority,
            Setting::Compress(compress) => policy.compress = *compress,
            Setting::Writer(writer) => policy.writer = writer.clone(),
        }
    }
}

/// The value alone, as it is set.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Setting::Mode(Mode::Async) => "async",
            Setting::Mode(Mode::Sync) => "sync",
            Setting::Acks(Acks::All) => "all",
            Setting::Acks(Acks::Majority) => "majority",
            Setting::Acks(Acks::Peers(peers)) => return write!(f, "{peers}"),
            Setting::OnLoss(OnLoss::Degrade) => "degrade",
            Setting::OnLoss(OnLoss::Fail) => "fail",
            Setting::Timeout(time) => return print_duration(f, *time),
            Setting::Priority(Priority::High) => "high",
            Setting::Priority(Priority::Normal) => "normal",
            Setting::Priority(Priority::Bulk) => "bulk",
            Setting::Compress(Compress::Auto) => "auto",
            Setting::Compress(Compress::On) => "on",
            Setting::Compress(Compress::Off) => "off",
            Setting::Writer(WriterSite::Any) => "any",
            Setting::Writer(WriterSite::Site(site)) => site,
        };
        f.write_str(word)
    }
}

/// A number without sign and without leading zeros, so that each is written in one way.
fn digits<N: std::str::FromStr>(text: &str) -> Option<N> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().ok() } else { None }
}

fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return None,
    };
    digits::<u64>(number)?.checked_mul(unit_ms).map(Duration::from_millis)
}

/// In the largest unit of which it is a whole number.
fn print_duration(f: &mut fmt::Formatter<'_>, time: Duration) -> fmt::Result {
    match time.as_millis() {
        ms if ms % 60_000 == 0 => write!(f, "{}m", ms / 60_000),
        ms if ms % 1000 == 0 => write!(f, "{}s", ms / 1000),
        ms => write!(f, "{ms}ms"),
    }
}

/// Whether the text may be a site's name. Whether there is such a site is for those who know the sites.
fn is_site(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_SITE_BYTES && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

#[cfg(test)]
#[path = "attribute_tests.rs"]
mod tests;
