//! Which programs keep a mount busy, found in `/proc` without touching the mount.

use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// As many as a message can show.
const SHOWN: usize = 10;

/// A program that uses something below a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// Its process.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// How it uses it.
    pub how: &'static str,
    /// What it uses.
    pub path: PathBuf,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {}): {} {}", self.name, self.pid, self.how, self.path.display())
    }
}

/// The programs that use something below `point`, but `except` one, a line each: at most ten, then how many more.
pub fn describe(point: &Path, except: u32) -> String {
    let users = users(point, except);
    if users.is_empty() {
        return "no program of this mount namespace that may be looked at uses it; try as root".into();
    }
    let mut lines: Vec<String> = users.iter().take(SHOWN).map(User::to_string).collect();
    if users.len() > SHOWN {
        lines.push(format!("and {} more", users.len() - SHOWN));
    }
    lines.join("\n")
}

/// One use of each process that has one. Processes that can't be looked at are left out.
pub fn users(point: &Path, except: u32) -> Vec<User> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != except).filter_map(|pid| first_use(pid, point)).collect()
}

fn first_use(pid: u32, point: &Path) -> Option<User> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let below = |link: PathBuf| fs::read_link(link).ok().filter(|path| path.starts_with(point));
    let working = || below(process.join("cwd")).map(|path| ("works in", path));
    let root = || below(process.join("root")).map(|path| ("has its root in", path));
    let open = || {
        let fds = fs::read_dir(process.join("fd")).ok()?;
        fds.flatten().find_map(|entry| below(entry.path())).map(|path| ("has open", path))
    };
    let mapped = || mapped_below(&process, point).map(|path| ("has mapped", path));
    let (how, path) = working().or_else(root).or_else(open).or_else(mapped)?;
    let name = fs::read_to_string(process.join("comm")).map_or_else(|_| "?".into(), |name| name.trim_end().into());
    Some(User { pid, name, how, path })
}

/// `7f00-7f01 r--p 00000000 fe:00 123    /path/of a file`
fn mapped_below(process: &Path, point: &Path) -> Option<PathBuf> {
    let maps = fs::read(process.join("maps")).ok()?;
    maps.split(|byte| *byte == b'\n').find_map(|line| {
        let start = line.iter().position(|byte| *byte == b'/')?;
        let path = Path::new(std::ffi::OsStr::from_bytes(&line[start..]));
        path.starts_with(point).then(|| path.to_owned())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_open_file_and_a_working_directory_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let point = directory.path().canonicalize().unwrap();
        assert_eq!(users(&point, 0), []);
        let file = fs::File::create(point.join("f")).unwrap();
        let own = std::process::id();
        let found = users(&point, 0);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].pid, found[0].how, &found[0].path), (own, "has open", &point.join("f")));
        assert_eq!(users(&point, own), []);
        drop(file);

        let mut sleeper = std::process::Command::new("sleep").arg("60").current_dir(&point).spawn().unwrap();
        let text = describe(&point, own);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert!(text.ends_with(&format!("(pid {}): works in {}", sleeper.id(), point.display())), "{text}");
    }
}
