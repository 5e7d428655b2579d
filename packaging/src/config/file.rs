//! The configuration file that `init` and `join` write: every key, explained, the optional ones commented out.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Config, Weights};
use crate::units::{Size, Span};

/// Why the file can't be written. Nothing is there that wasn't.
#[derive(Debug, thiserror::Error)]
pub enum WriteConfigError {
    /// It is there already.
    #[error("{} exists and is left as it is: choose another --config, or remove it", .0.display())]
    Exists(PathBuf),
    /// A path can't stand in a configuration file.
    #[error("the path of the store, {0:?}, is not valid UTF-8 and can't stand in a configuration file")]
    NotUtf8(PathBuf),
    /// The file system refuses.
    #[error("cannot write the configuration {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
}

/// Whether [`write`] is going to work, as far as one can know: asked before anything else is made.
pub fn check_absent(path: &Path) -> Result<(), WriteConfigError> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Err(WriteConfigError::Exists(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(WriteConfigError::Io { path: path.to_owned(), source }),
    }
}

/// Writes a new file (mode 0644: no secret is in it) and its directory if that is missing.
pub fn write(path: &Path, config: &Config) -> Result<(), WriteConfigError> {
    let text = text(config)?;
    let failed = |source| WriteConfigError::Io { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o644).open(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => WriteConfigError::Exists(path.to_owned()),
            _ => failed(error),
        })?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

/// The file's text. [`Config::parse`] of it gives `config` again, if its optional values are the defaults.
pub fn text(config: &Config) -> Result<String, WriteConfigError> {
    let store = config.store.to_str().ok_or_else(|| WriteConfigError::NotUtf8(config.store.clone()))?;
    let Config { volume, site, listen, advertise, log_level, .. } = config;
    let [volume, site, store] = [volume.as_str(), site.as_str(), store].map(toml::Value::from);
    let file_size = Size(config.journal_file_bytes);
    let flush_interval = Span(config.flush_interval);
    let max_drift = Span(config.max_clock_drift);
    let window = Size(config.window_bytes);
    let Weights { high, normal, bulk } = config.weights;
    let level = log_level.to_string().to_lowercase();
    Ok(format!(
        r#"# One site of a Syncline volume. Used by: syncline mount --config FILE MOUNTPOINT
# Values that are commented out are the defaults. The daemon reads the file when it starts.

# The volume's name, and this site's name in it. They are part of the site's identity: leave them as they are.
volume = {volume}
site = {site}

# Where this site keeps its replica: data, journal, keys. A directory of its own, on a local file system.
store = {store}

# Where this site listens for the others.
listen = "{listen}"

# HOST:PORT at which the other sites reach this one.
advertise = "{advertise}"

# Where Prometheus reads metrics, at /metrics. Off by default: whoever reaches the address can read them.
#metrics = "127.0.0.1:9400"

[journal]
# Size of one journal file. Files are reused; their number follows what the slowest peer still needs.
#file_size = "{file_size}"
# How long a change may wait for the background flush before it is on the disk and on its way to the other sites.
# Programs that need it earlier call fsync.
#flush_interval = "{flush_interval}"

[clock]
# A peer whose clock is further ahead than this is refused, not followed.
#max_drift = "{max_drift}"

[mount]
# Threads that answer the kernel. By default as many as there are processors, and at least 4.
#threads = 4
# Whether other users may use the mount; permissions are always checked. By default where it is allowed: for a daemon
# of root, or if /etc/fuse.conf says user_allow_other.
#allow_other = true
# Whether the kernel may read content itself, where it can (Linux 6.9 or later, a daemon of root).
#passthrough = true

[replication]
# How many bytes may be under way to one peer: at least bandwidth times round-trip time.
#window = "{window}"

[lanes.weights]
# How the lanes share a link that all of them want to fill: in this proportion. The lane of sync directories comes before them.
#high = {high}
#normal = {normal}
#bulk = {bulk}

# How fast changes go to the other sites at most: per second, for example 200Mbit, 25MB or 10MiB. Without `peer` to each of them, without
# `lane` all lanes together. `syncline limit` changes it while the daemon runs.
#
# [[limit]]
# peer = "tokyo"
# rate = "200Mbit"
#
# By the time of day, in this host's time zone, toward every site; of several that hold, and of the limits above, the strictest. `days` are
# those on which it begins; without them every day.
#
# [[schedule]]
# lane = "bulk"
# from = "06:00"
# to = "22:00"
# days = ["mon", "tue", "wed", "thu", "fri"]
# pause = true                    # or: rate = "50Mbit"

[log]
# error, warn, info, debug or trace. The environment variable SYNCLINE_LOG overrides it, by module if need be:
# SYNCLINE_LOG=info,replicator=debug
#level = "{level}"
"#
    ))
}
