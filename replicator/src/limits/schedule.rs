//! Limits by the time of day.

use std::fmt;
use std::str::FromStr;

use proto::ids::Lane;

const MINUTES_A_DAY: i64 = 24 * 60;
const DAYS_A_WEEK: i64 = 7;
/// The Unix epoch was a Thursday, counted from Monday.
const EPOCH_WEEKDAY: i64 = 3;

/// A rule that holds during a part of the day.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Schedule {
    /// The lane that it is for, toward every peer.
    pub lane: Lane,
    /// When it begins.
    pub from: MinuteOfDay,
    /// When it ends. Not after `from`: on the next day, so that a night belongs to the day on which it begins; the same: after a whole day.
    pub to: MinuteOfDay,
    /// The days on which it begins.
    pub days: Days,
    /// What it does.
    pub action: Action,
}

/// What a schedule does while it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The lane rests.
    Pause,
    /// The lane is limited.
    Limit {
        /// The most bytes a second; more than 0.
        bytes_per_second: u64,
    },
}

/// A time of day, local, in minutes since midnight: `22:30`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MinuteOfDay(u16);

/// Days of the week.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Days(u8);

/// A local time, as far as schedules need it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalTime {
    /// 0 is Monday.
    weekday: u8,
    minute: MinuteOfDay,
}

/// Why a text is not a time of day or a day.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ScheduleError {
    /// Not a time.
    #[error("{0:?} is not a time of day; write it like 22:30")]
    Time(String),
    /// Not a day.
    #[error("{0:?} is not a day; the days are mon, tue, wed, thu, fri, sat and sun")]
    Day(String),
}

impl Schedule {
    /// Whether it holds at a time.
    pub fn holds(&self, now: LocalTime) -> bool {
        let yesterday = (now.weekday + 6) % 7;
        if self.from < self.to {
            self.days.has(now.weekday) && self.from <= now.minute && now.minute < self.to
        } else {
            let began_today = self.days.has(now.weekday) && self.from <= now.minute;
            let began_yesterday = self.days.has(yesterday) && now.minute < self.to;
            began_today || began_yesterday
        }
    }
}

impl MinuteOfDay {
    /// `None` beyond 23:59.
    pub fn new(hour: u8, minute: u8) -> Option<Self> {
        (hour < 24 && minute < 60).then_some(Self(u16::from(hour) * 60 + u16::from(minute)))
    }
}

impl FromStr for MinuteOfDay {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()) && part.len() == 2;
        let two_digits = |part: &str| part.parse().ok().filter(|_| number(part));
        let parsed = text.split_once(':').and_then(|(hour, minute)| Self::new(two_digits(hour)?, two_digits(minute)?));
        parsed.ok_or_else(|| ScheduleError::Time(text.to_string()))
    }
}

impl fmt::Display for MinuteOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl Days {
    /// Every day.
    pub const ALL: Days = Days(0b111_1111);
    const NAMES: [&'static str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

    /// Those named, like `mon`.
    pub fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, ScheduleError> {
        let mut days = 0;
        for name in names {
            let day = Self::NAMES.iter().position(|day| *day == name);
            days |= 1 << day.ok_or_else(|| ScheduleError::Day(name.to_string()))?;
        }
        Ok(Self(days))
    }

    fn has(self, weekday: u8) -> bool {
        self.0 & (1 << weekday) != 0
    }
}

impl LocalTime {
    /// The local time at `unix_seconds` where clocks are `utc_offset_seconds` ahead of UTC.
    pub fn at(unix_seconds: u64, utc_offset_seconds: i32) -> Self {
        let minutes = (unix_seconds as i64 + i64::from(utc_offset_seconds)).div_euclid(60);
        let weekday = (minutes.div_euclid(MINUTES_A_DAY) + EPOCH_WEEKDAY).rem_euclid(DAYS_A_WEEK);
        Self { weekday: weekday as u8, minute: MinuteOfDay(minutes.rem_euclid(MINUTES_A_DAY) as u16) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21, a Saturday, 00:00 UTC.
    const SATURDAY: u64 = 1_795_219_200;

    fn at(day: u64, time: &str) -> LocalTime {
        let MinuteOfDay(minute) = time.parse().expect("a time");
        LocalTime::at(SATURDAY + day * 86_400 + u64::from(minute) * 60 + 59, 0)
    }

    fn schedule(from: &str, to: &str, days: Days) -> Schedule {
        let time = |text: &str| text.parse().expect("a time");
        Schedule { lane: Lane::Bulk, from: time(from), to: time(to), days, action: Action::Pause }
    }

    #[test]
    fn a_day_begins_at_local_midnight() {
        assert_eq!(at(0, "00:00"), LocalTime { weekday: 5, minute: MinuteOfDay(0) });
        assert_eq!(LocalTime::at(SATURDAY, -60).weekday, 4);
        assert_eq!(LocalTime::at(SATURDAY + 23 * 3_600, 3_600), LocalTime { weekday: 6, minute: MinuteOfDay(0) });
        assert_eq!(LocalTime::at(0, -3_600), LocalTime { weekday: 2, minute: MinuteOfDay(23 * 60) });
    }

    #[test]
    fn it_holds_from_its_first_minute_to_before_its_last() {
        let schedule = schedule("08:00", "18:00", Days::named(["sat"]).expect("a day"));
        for (day, time, holds) in
            [(0, "07:59", false), (0, "08:00", true), (0, "17:59", true), (0, "18:00", false), (1, "09:00", false)]
        {
            assert_eq!(schedule.holds(at(day, time)), holds, "{day} {time}");
        }
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins() {
        let schedule = schedule("22:00", "06:00", Days::named(["sat"]).expect("a day"));
        for (day, time, holds) in
            [(0, "05:59", false), (0, "21:59", false), (0, "22:00", true), (1, "05:59", true), (1, "06:00", false)]
        {
            assert_eq!(schedule.holds(at(day, time)), holds, "{day} {time}");
        }
        let whole_day = super::tests::schedule("09:00", "09:00", Days::ALL);
        assert!((0..24).all(|hour| whole_day.holds(at(0, &format!("{hour:02}:30")))));
    }

    #[test]
    fn what_is_no_time_or_day_is_refused() {
        for text in ["24:00", "12:60", "7:30", "0730", "aa:bb", "-1:00", "+1:00", ""] {
            assert_eq!(text.parse::<MinuteOfDay>(), Err(ScheduleError::Time(text.to_string())));
        }
        assert_eq!("07:05".parse::<MinuteOfDay>().map(|time| time.to_string()), Ok("07:05".to_string()));
        assert_eq!(Days::named(["mon", "Tue"]), Err(ScheduleError::Day("Tue".to_string())));
    }
}
