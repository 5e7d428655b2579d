//! From what the file says to a `Config`: each value checked, each complaint with its place.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use replicator::config::{Action, Days, LimitRule, MinuteOfDay, Schedule};

use super::error::{Blame, ConfigError};
use super::raw::{Place, RawConfig, RawLimit, RawSchedule};
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
    if let Some(given) = raw.mount.passthrough {
        config.passthrough = given.into_inner();
    }
    if let Some(given) = raw.replication.window {
        config.window_bytes = within(blame, "window", given, Size(1 << 20)..=Size(1 << 30))?.0;
    }
    if let Some(given) = raw.metrics {
        config.metrics = Some(text(blame, "metrics", &given, metrics)?);
    }
    let weights = raw.lanes.weights;
    for (key, given, weight) in [
        ("high", weights.high, &mut config.weights.high),
        ("normal", weights.normal, &mut config.weights.normal),
        ("bulk", weights.bulk, &mut config.weights.bulk),
    ] {
        if let Some(given) = given {
            *weight = within(blame, key, given, 1..=1000)?;
        }
    }
    for given in raw.limit {
        let at = given.rate.span();
        let rule = limit(blame, given)?;
        if config.limits.iter().any(|other| (&other.peer, other.lane) == (&rule.peer, rule.lane)) {
            return Err(blame.at(at, "rate: there is another [[limit]] above for the same peer and lane".into()));
        }
        config.limits.push(rule);
    }
    for given in raw.schedule {
        let at = given.span();
        config.schedules.push(schedule(blame, given.into_inner(), at)?);
    }
    if let Some(given) = raw.log.level {
        config.log_level = text(blame, "level", &given, level)?;
    }
    Ok(config)
}

fn limit(blame: &Blame<'_>, raw: RawLimit) -> Result<LimitRule, ConfigError> {
    let name = |name: &str| check_name(name).map(|()| name.to_owned());
    let peer = raw.peer.map(|peer| text(blame, "peer", &peer, name)).transpose()?;
    let lane = raw.lane.map(|lane| lane.into_inner().0);
    Ok(LimitRule { peer, lane, bytes_per_second: Some(raw.rate.into_inner().0) })
}

fn schedule(blame: &Blame<'_>, raw: RawSchedule, at: Range<usize>) -> Result<Schedule, ConfigError> {
    let time = |text: &str| text.parse::<MinuteOfDay>().map_err(|error| error.to_string());
    let days = match raw.days {
        None => Days::ALL,
        Some(days) if days.get_ref().is_empty() => {
            return Err(blame.at(days.span(), "days: name some, or leave the line out for every day".into()));
        }
        Some(days) => Days::named(days.get_ref().iter().map(String::as_str))
            .map_err(|error| blame.at(days.span(), format!("days: {error}")))?,
    };
    let action = match (raw.rate, raw.pause.map(|pause| (*pause.get_ref(), pause.span()))) {
        (Some(rate), None) => Action::Limit { bytes_per_second: rate.into_inner().0 },
        (None, Some((true, _))) => Action::Pause,
        (_, Some((false, at))) => return Err(blame.at(at, "pause: only `true` makes sense here".into())),
        (Some(_), Some((true, at))) => {
            return Err(blame.at(at, "pause: there is a rate, too; write one of them".into()));
        }
        (None, None) => {
            return Err(blame.at(at, "schedule: what is to hold? write `rate = …` or `pause = true`".into()));
        }
    };
    let (from, to) = (text(blame, "from", &raw.from, time)?, text(blame, "to", &raw.to, time)?);
    Ok(Schedule { lane: raw.lane.into_inner().0, from, to, days, action })
}

fn metrics(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse().ok().filter(|address: &SocketAddr| address.port() != 0);
    address.ok_or_else(|| format!("`{text}` is no address to listen at: write IP:PORT, for example `127.0.0.1:9400`"))
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
