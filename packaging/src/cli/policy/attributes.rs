//! The extended attributes of a policy, through the mount.

use std::io;
use std::path::{Path, PathBuf};

use fs::policy::Key;
use fs::policy::attribute::Setting;
use rustix::fs::{XattrFlags, getxattr, removexattr, setxattr};
use rustix::io::Errno;
use serde_json::{Map, Value, json};

use crate::cli::table::columns;
use crate::mounts::Mount;

/// What the kernel lets an attribute be at most.
const MAX_VALUE_BYTES: usize = 1 << 16;
/// The policy in force, as text.
const EFFECTIVE: &str = "user.syncline.effective";

/// Why an attribute can't be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum AttributeError {
    /// The directory is read-only here.
    #[error("{}: cannot change {name}: this site is read-only; see `syncline status`", path.display())]
    ReadOnly {
        /// The directory.
        path: PathBuf,
        /// The attribute.
        name: String,
    },
    /// The daemon knows better.
    #[error("{}: {name} cannot be `{value}` in this volume: if it is a site's name, there is no such site; see `syncline status`",
        path.display())]
    Refused {
        /// The directory.
        path: PathBuf,
        /// The attribute.
        name: String,
        /// What it can't be.
        value: String,
    },
    /// The directory is in sync mode, and said that it fails.
    #[error("{}: {name} may be changed here, but the sites that the policy requires did not acknowledge it in time; \
        see `syncline policy get` and `syncline status`", path.display())]
    NotAcknowledged {
        /// The directory.
        path: PathBuf,
        /// The attribute.
        name: String,
    },
    /// Anything else.
    #[error("{}: {name}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The attribute.
        name: String,
        /// The answer.
        source: io::Error,
    },
    /// The daemon is of another version.
    #[error(
        "the daemon says of the policy: {0:?}, which this command does not understand; restart the daemon after an update"
    )]
    Text(String),
}

/// Sets one.
pub fn set(path: &Path, setting: &Setting) -> Result<(), AttributeError> {
    let (name, value) = (setting.key().attribute(), setting.to_string());
    match setxattr(path, name.as_str(), value.as_bytes(), XattrFlags::empty()) {
        Ok(()) => Ok(()),
        Err(Errno::INVAL) => Err(AttributeError::Refused { path: path.to_owned(), name, value }),
        Err(error) => Err(change_error(path, name, error)),
    }
}

/// Removes one. False if it was not there.
pub fn remove(path: &Path, key: Key) -> Result<bool, AttributeError> {
    let name = key.attribute();
    match removexattr(path, name.as_str()) {
        Ok(()) => Ok(true),
        Err(Errno::NODATA) => Ok(false),
        Err(error) => Err(change_error(path, name, error)),
    }
}

fn change_error(path: &Path, name: String, error: Errno) -> AttributeError {
    let path = path.to_owned();
    match error {
        Errno::ROFS => AttributeError::ReadOnly { path, name },
        Errno::IO => AttributeError::NotAcknowledged { path, name },
        error => AttributeError::Io { path, name, source: error.into() },
    }
}

/// The policy in force for a file or directory on `mount`.
pub fn get_effective(path: &Path, mount: &Mount) -> Result<Effective, AttributeError> {
    let io = |source| AttributeError::Io { path: path.to_owned(), name: EFFECTIVE.into(), source };
    let mut buffer = vec![0; MAX_VALUE_BYTES];
    let len = getxattr(path, EFFECTIVE, &mut buffer[..]).map_err(|error| io(error.into()))?;
    buffer.truncate(len);
    let text = String::from_utf8_lossy(&buffer).into_owned();
    Effective::parse(&text, &mount.point).ok_or(AttributeError::Text(text))
}

/// The policies that hold at a place: of a file with names in several directories, one for each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Effective(Vec<Vec<InForce>>);

/// One key.
#[derive(Clone, PartialEq, Eq, Debug)]
struct InForce {
    key: String,
    value: String,
    /// The directory that sets it; `None` where the default holds.
    from: Option<String>,
}

impl Effective {
    /// Lines `KEY=VALUE default` and `KEY=VALUE from PATH`, an empty one between policies. A path starts at the mount point.
    fn parse(text: &str, point: &Path) -> Option<Self> {
        let line = |line: &str| {
            let (key, rest) = line.split_once('=')?;
            let (value, from) = match rest.split_once(' ')? {
                (value, "default") => (value, None),
                (value, rest) => {
                    let inside = rest.strip_prefix("from ")?.trim_start_matches('/');
                    (value, Some(point.join(inside).display().to_string().trim_end_matches('/').to_owned()))
                }
            };
            Some(InForce { key: key.to_owned(), value: value.to_owned(), from })
        };
        let policy =
            |text: &str| text.lines().map(line).collect::<Option<Vec<_>>>().filter(|policy| !policy.is_empty());
        text.split("\n\n").map(policy).collect::<Option<Vec<_>>>().map(Self)
    }

    /// The different values of a key.
    pub fn values(&self, key: Key) -> Vec<&str> {
        let all = self.0.iter().flatten().filter(|line| line.key == key.name());
        let mut values: Vec<&str> = all.map(|line| line.value.as_str()).collect();
        values.sort_unstable();
        values.dedup();
        values
    }

    /// For people.
    pub fn table(&self) -> String {
        let row = |line: &InForce| {
            let from = line.from.as_ref().map_or_else(|| "default".into(), |from| format!("from {from}"));
            [format!("{}={}", line.key, line.value), from]
        };
        let table = |policy: &Vec<InForce>| columns(&policy.iter().map(row).collect::<Vec<_>>(), &[true, true]);
        self.0.iter().map(table).collect::<Vec<_>>().join("\n\n")
    }

    /// `mode=sync acks=all …`, the first policy.
    pub fn line(&self) -> String {
        let words = self.0.first().into_iter().flatten().map(|line| format!("{}={}", line.key, line.value));
        words.collect::<Vec<_>>().join(" ")
    }

    /// For scripts.
    pub fn json(&self, path: &Path) -> Value {
        let entry = |line: &InForce| (line.key.clone(), json!({ "value": line.value, "from": line.from }));
        let policy = |policy: &Vec<InForce>| policy.iter().map(entry).collect::<Map<_, _>>();
        json!({ "path": path.display().to_string(), "policies": self.0.iter().map(policy).collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const TEXT: &str = "mode=sync from /a b\nacks=all default\nwriter=any from /\n\nmode=async default\nacks=2 from /c";

    #[test]
    fn what_the_daemon_says_is_shown_with_whole_paths() {
        let effective = Effective::parse(TEXT, Path::new("/mnt/data")).unwrap();
        assert_eq!(
            effective.table(),
            "mode=sync   from /mnt/data/a b\nacks=all    default\nwriter=any  from /mnt/data\n\n\
            mode=async  default\nacks=2      from /mnt/data/c"
        );
        assert_eq!(effective.line(), "mode=sync acks=all writer=any");
        assert_eq!(effective.values(Key::Acks), ["2", "all"]);
        let json = effective.json(Path::new("f"));
        assert_eq!(json["policies"][0]["mode"], json!({ "value": "sync", "from": "/mnt/data/a b" }));
        assert_eq!(json["policies"][1]["mode"], json!({ "value": "async", "from": null }));
    }

    #[test]
    fn what_is_not_understood_is_not_guessed() {
        for text in ["", "mode", "mode=sync", "mode=sync of /a", "mode=sync default\n\n\n"] {
            assert_eq!(Effective::parse(text, Path::new("/m")), None, "{text:?}");
        }
    }
}
