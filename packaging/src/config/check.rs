//! From what the file says to a `Config`: each value checked, each complaint with its place.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;

use super::error::{Blame, ConfigError};
use super::raw::{Place, RawConfig};
use super::{Config, check_advertise, check_listen, check_name, check_store};
use crate::units::{Size, Span};

/// Checks everything that the file says.
pub fn config(blame: &Blame<'_>, raw: RawConfig) -> Result<Config, ConfigError> {
    let volume = text(blame, "volume", &raw.volume, |text| check_name(text).map(|()| text.to_owned()))?;
    let site = text(blame, "site", &raw.site, |text| check_name(text).map(|()| text.to_owned()))?;
    let store = text(blame, "store", &raw.store, |text| check_store(Path::new(text)))?;
    let listen = text(blame, "listen", &raw.listen, check_listen)?;
    let advertise = match &raw.advertise {
        Some(given) => text(blame, "advertise", given, |text| check_advertise(Some(text), listen))?,
        None => text(blame, "advertise", &raw.listen, |_| check_advertise(None, listen))?,
    };
    let mut config = Config::new(volume, site, store, listen, advertise);

    if let Some(given) = raw.journal.file_size {
        config.journal_file_bytes = within(blame, "file_size", given, Size(1 << 20)..=Size(4 << 30))?.0;
    }
    if let Some(given) = raw.journal.flush_interval {
        config.flush_interval = within(blame, "flush_interval", given, span_ms(1)..=span_ms(10_000))?.0;
    }
    if let Some(given) = raw.clock.max_drift {
        config.max_clock_drift = within(blame, "max_drift", given, span_ms(100)..=span_ms(86_400_000))?.0;
    }
    if let Some(given) = raw.mount.threads {
        config.threads = Some(within(blame, "threads", given, 1..=256)?);
    }
    if let Some(given) = raw.mount.allow_other {
        config.allow_other = Some(given.into_inner());
    }
    if let Some(given) = raw.replication.window {
        config.window_bytes = within(blame, "window", given, Size(1 << 20)..=Size(1 << 30))?.0;
    }
    if let Some(given) = raw.log.level {
        config.log_level = text(blame, "level", &given, level)?;
    }
    Ok(config)
}

fn text<T>(
    blame: &Blame<'_>,
    key: &str,
    given: &Place<String>,
    check: impl Fn(&str) -> Result<T, String>,
) -> Result<T, ConfigError> {
    check(given.get_ref()).map_err(|why| blame.at(given.span(), format!("{key}: {why}")))
}

fn within<T: PartialOrd + Display>(
    blame: &Blame<'_>,
    key: &str,
    given: Place<T>,
    range: RangeInclusive<T>,
) -> Result<T, ConfigError> {
    if range.contains(given.get_ref()) {
        return Ok(given.into_inner());
    }
    let what = format!("{key}: {} is outside {} to {}", given.get_ref(), range.start(), range.end());
    Err(blame.at(given.span(), what))
}

fn span_ms(ms: u64) -> Span {
    Span(std::time::Duration::from_millis(ms))
}

fn level(text: &str) -> Result<tracing::Level, String> {
    match text {
        "error" => Ok(tracing::Level::ERROR),
        "warn" => Ok(tracing::Level::WARN),
        "info" => Ok(tracing::Level::INFO),
        "debug" => Ok(tracing::Level::DEBUG),
        "trace" => Ok(tracing::Level::TRACE),
        _ => Err(format!("`{text}` is none of error, warn, info, debug, trace")),
    }
}
