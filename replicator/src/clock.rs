//! The only place in this crate that reads a clock or draws random numbers for timing.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::limits::schedule::LocalTime;

/// Milliseconds since the Unix epoch.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Milliseconds on a clock that never runs backwards.
pub fn steady_ms() -> u64 {
    start().elapsed().as_millis() as u64
}

/// Microseconds on the same clock.
pub fn steady_us() -> u64 {
    start().elapsed().as_micros() as u64
}

fn start() -> &'static Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now)
}

/// The local time.
pub fn local_time() -> LocalTime {
    let now = jiff::Timestamp::now();
    let offset_seconds = jiff::tz::TimeZone::system().to_offset(now).seconds();
    LocalTime::at(wall_ms() / 1_000, offset_seconds)
}

/// From 0 to 1000, to spread moments.
pub fn jitter() -> u32 {
    rand::random_range(0..=1000)
}
