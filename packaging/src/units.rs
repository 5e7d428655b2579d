//! Durations, sizes and rates as people write them: `20ms`, `10s`, `64MiB`, `200Mbit`.
//!
//! A bare number is refused (except 0): nobody can see its unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer};

/// A length of time: a whole number and `ms`, `s`, `min`, `h` or `d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Span(pub Duration);

/// A number of bytes: a whole number and `B`, `KiB`, `MiB`, `GiB` or `TiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Size(pub u64);

/// Bytes per second, from a whole number and a unit of bytes or bits: `25MB`, `200Mbit`, `10MiB`, each with or without `/s` behind it. Not 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rate(pub u64);

/// Why a text is not a duration, a size or a rate.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnitError {
    /// It doesn't start with a digit.
    #[error("`{text}` doesn't start with a number; write for example `{example}`")]
    NoNumber {
        /// What was given.
        text: String,
        /// A right one.
        example: &'static str,
    },
    /// The unit is missing or unknown.
    #[error("`{text}` needs a unit: one of {units}; write for example `{example}`")]
    Unit {
        /// What was given.
        text: String,
        /// The known units.
        units: String,
        /// A right one.
        example: &'static str,
    },
    /// It doesn't fit.
    #[error("`{text}` is too large")]
    TooLarge {
        /// What was given.
        text: String,
    },
    /// A rate of nothing.
    #[error("`{text}` is no rate: to send nothing, pause")]
    Nothing {
        /// What was given.
        text: String,
    },
}

/// Units with their value in the smallest, from the largest down.
type Units = [(&'static str, u64)];

/// In milliseconds.
const SPAN_UNITS: &Units = &[("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1)];
/// In bytes.
const SIZE_UNITS: &Units = &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
/// In bytes per second. Those of bits and of powers of ten are what links are sold in.
const RATE_UNITS: &Units = &[
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("Gbit", 125_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("Mbit", 125_000),
    ("KiB", 1 << 10),
    ("kB", 1000),
    ("kbit", 125),
    ("B", 1),
];

fn parse(text: &str, units: &Units, example: &'static str) -> Result<u64, UnitError> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    if digits == 0 {
        return Err(UnitError::NoNumber { text: text.to_owned(), example });
    }
    let too_large = || UnitError::TooLarge { text: text.to_owned() };
    let number: u64 = text[..digits].parse().map_err(|_| too_large())?;
    let unit = text[digits..].trim_start();
    if unit.is_empty() && number == 0 {
        return Ok(0);
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        let names: Vec<_> = units.iter().rev().map(|(name, _)| *name).collect();
        return Err(UnitError::Unit { text: text.to_owned(), units: names.join(", "), example });
    };
    number.checked_mul(*factor).ok_or_else(too_large)
}

/// In the largest unit that needs no fraction.
fn show(f: &mut fmt::Formatter<'_>, value: u64, units: &Units) -> fmt::Result {
    let exact = units.iter().find(|(_, factor)| value >= *factor && value.is_multiple_of(*factor));
    let (name, factor) = exact.or(units.last()).copied().unwrap_or(("", 1));
    write!(f, "{}{name}", value / factor)
}

impl FromStr for Span {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, SPAN_UNITS, "10s").map(|ms| Self(Duration::from_millis(ms)))
    }
}

impl FromStr for Size {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, SIZE_UNITS, "64MiB").map(Self)
    }
}

impl FromStr for Rate {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let amount = text.trim_end();
        match parse(amount.strip_suffix("/s").unwrap_or(amount), RATE_UNITS, "200Mbit")? {
            0 => Err(UnitError::Nothing { text: text.to_owned() }),
            bytes => Ok(Self(bytes)),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.0, RATE_UNITS)?;
        f.write_str("/s")
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX), SPAN_UNITS)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.0, SIZE_UNITS)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// A number of bytes for a table: three significant digits, `1.50 MiB`.
pub fn human_bytes(bytes: u64) -> String {
    let Some((name, factor)) = SIZE_UNITS.iter().find(|(_, factor)| bytes >= *factor && *factor > 1) else {
        return format!("{bytes} B");
    };
    let value = bytes as f64 / *factor as f64;
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$} {name}")
}

/// Seconds for a table: `12 ms`, `3.4 s`, `5 min 10 s`, `2 h 3 min`.
pub fn human_seconds(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s.max(0.0) * 1000.0),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{} min {} s", whole / 60, whole % 60),
        s if s < 172_800.0 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_unit() {
        for (text, ms) in
            [("20ms", 20), ("10s", 10_000), ("5 min", 300_000), ("1h", 3_600_000), ("2d", 172_800_000), ("0", 0)]
        {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(ms))), "{text}");
        }
        for (text, bytes) in [("7B", 7), ("4KiB", 4096), ("64MiB", 64 << 20), ("1 GiB", 1 << 30), ("2TiB", 2 << 40)] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_ambiguous() {
        for text in ["", "s", "10", "10 m", "10sec", "-1s", "1.5s", "64MB", "10s10"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert_eq!(
            "99999999999999999999s".parse::<Span>(),
            Err(UnitError::TooLarge { text: "99999999999999999999s".into() })
        );
        assert!(matches!("16777217TiB".parse::<Size>(), Err(UnitError::TooLarge { .. })));
        let message = "64MB".parse::<Size>().map_err(|e| e.to_string());
        assert_eq!(message, Err("`64MB` needs a unit: one of B, KiB, MiB, GiB, TiB; write for example `64MiB`".into()));
    }

    #[test]
    fn reads_rates_in_bits_and_bytes() {
        for (text, bytes) in [
            ("200Mbit", 25_000_000),
            ("25MB", 25_000_000),
            ("25 MB/s", 25_000_000),
            ("10MiB", 10 << 20),
            ("1Gbit/s ", 125_000_000),
            ("8kbit", 1000),
            ("7B", 7),
        ] {
            assert_eq!(text.parse(), Ok(Rate(bytes)), "{text}");
        }
        for text in ["", "200", "0MB", "0", "200mbit", "200Mb", "200Mbps", "200Mbit/min", "1.5MB"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        assert_eq!(Rate(25_000_000).to_string(), "25MB/s");
        assert_eq!(Rate(10 << 20).to_string(), "10MiB/s");
        assert_eq!(Rate(1001).to_string(), "1001B/s");
        let message = "0MB".parse::<Rate>().map_err(|error| error.to_string());
        assert_eq!(message, Err("`0MB` is no rate: to send nothing, pause".into()));
    }

    #[test]
    fn shows_what_it_reads() {
        for text in ["20ms", "10s", "5min", "90min", "1h", "2d", "0ms"] {
            assert_eq!(text.parse::<Span>().map(|span| span.to_string()), Ok(text.to_owned()));
        }
        for text in ["7B", "4KiB", "1025B", "64MiB", "1GiB", "0B"] {
            assert_eq!(text.parse::<Size>().map(|size| size.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn shows_for_people() {
        assert_eq!(human_bytes(0), "0 B");
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1536), "1.50 KiB");
        assert_eq!(human_bytes(150 << 20), "150 MiB");
        assert_eq!(human_seconds(0.0124), "12 ms");
        assert_eq!(human_seconds(59.94), "59.9 s");
        assert_eq!(human_seconds(310.0), "5 min 10 s");
        assert_eq!(human_seconds(7380.0), "2 h 3 min");
        assert_eq!(human_seconds(183_600.0), "2 d 3 h");
    }
}
