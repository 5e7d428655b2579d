//! Attributes that are not kept but made when they are read, of every file: `user.syncline.effective`, `state` and `version`.
//!
//! ```text
//! effective := line for each key: `KEY=VALUE from PATH` or `KEY=VALUE default`; an empty line between the policies of several directories
//! version   := `content=POSITION TIME`, `metadata=POSITION TIME`                 TIME in UTC, POSITION as site/lane/incarnation.number
//! state     := line for each sync directory above, then line for each peer: see [`Volume::sync_state_text`]
//! ```

use std::sync::Arc;

use proto::hlc::{Hlc, Stamp};
use proto::ids::FileId;

use crate::error::FsError;
use crate::policy::attribute::{PREFIX, Setting};
use crate::policy::{Effective, Key};
use crate::store::table::{self, Table};
use crate::tree::xattr::Xattr;
use crate::volume::Volume;

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Computed {
    Effective,
    State,
    Version,
}

impl Computed {
    /// The one with this whole name.
    pub fn from_attribute(name: &[u8]) -> Option<Self> {
        match name.strip_prefix(PREFIX)? {
            b"effective" => Some(Computed::Effective),
            b"state" => Some(Computed::State),
            b"version" => Some(Computed::Version),
            _ => None,
        }
    }
}

impl Volume {
    /// The value of a computed attribute.
    pub(super) fn computed(&self, file: FileId, which: Computed) -> Result<String, FsError> {
        // Of what is not there nothing is computed.
        self.inode(file)?;
        match which {
            Computed::Effective => self.effective_text(file),
            Computed::State => self.sync_state_text(file),
            Computed::Version => self.version_text(file),
        }
    }

    fn effective_text(&self, file: FileId) -> Result<String, FsError> {
        let mut policies = self.policies_of(file)?;
        if policies.is_empty() {
            policies.push(Arc::default());
        }
        let texts: Result<Vec<_>, _> = policies.iter().map(|effective| self.policy_text(effective)).collect();
        Ok(texts?.join("\n\n"))
    }

    fn policy_text(&self, effective: &Effective) -> Result<String, FsError> {
        let mut lines = Vec::new();
        for (key, source) in Key::ALL.into_iter().zip(effective.sources) {
            let value = Setting::of(&effective.policy, key);
            lines.push(match source {
                Some(directory) => format!("{}={value} from {}", key.name(), self.path_of(directory)?),
                None => format!("{}={value} default", key.name()),
            });
        }
        Ok(lines.join("\n"))
    }

    fn version_text(&self, file: FileId) -> Result<String, FsError> {
        let inode = self.inode(file)?;
        // A directory's content is its names: what changes them sets its modification time.
        let content = if inode.is_dir() { inode.mtime_stamp } else { inode.content };
        let mut metadata = inode.created.max(inode.perms_stamp).max(inode.mode_stamp).max(inode.atime_stamp);
        // A change of content sets the modification time too; alone it is one of metadata.
        if inode.mtime_stamp != content {
            metadata = metadata.max(inode.mtime_stamp);
        }
        for (_, row) in self.rows.scan(Table::Xattr, &table::file_key(file), None, usize::MAX)? {
            metadata = metadata.max(Xattr::decode(row)?.stamp);
        }
        Ok(format!("content={}\nmetadata={}", stamp_text(content), stamp_text(metadata)))
    }
}

fn stamp_text(stamp: Stamp) -> String {
    // What exists from the beginning of the volume was made by no record.
    if stamp.hlc == Hlc(0) { "none".to_owned() } else { format!("{} {}", stamp.position, utc(stamp.hlc.ms())) }
}

/// Milliseconds since the Unix epoch as RFC 3339.
fn utc(ms: u64) -> String {
    let (secs, ms) = (ms / 1000, ms % 1000);
    let (days, secs) = (secs / 86_400, secs % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (secs / 3600, secs / 60 % 60, secs % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Year, month and day, from days since 1970-01-01: years are counted from the first of March, so that a leap day is the last of its year.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    // From 0000-03-01.
    let days = days + 719_468;
    let (era, day) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + later, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_the_calendar_has_them() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(utc(secs * 1000), text);
        }
        assert_eq!(utc(1_500_000_000_123), "2017-07-14T02:40:00.123Z");
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut last = date(0);
        for days in 1..200_000 {
            let (year, month, day) = date(days);
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            let next = match last {
                (year, 12, 31) => (year + 1, 1, 1),
                (year, month, day) if day == lengths[month as usize - 1] => (year, month + 1, 1),
                (year, month, day) => (year, month, day + 1),
            };
            assert_eq!((year, month, day), next, "day {days}");
            last = next;
        }
    }
}
