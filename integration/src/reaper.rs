//! Cleans up after a test process that died without running its destructors (killed, aborted, out of memory).
//!
//! A shell in a session of its own reads notes from a pipe. Only this process holds the pipe's other end, so that the end of
//! the notes means that this process is gone, however it went: then the shell kills the noted daemons, unmounts and removes.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::outcome::OrFail;

/// Kills before it unmounts, unmounts before it removes, and removes nothing that is still mounted.
const SCRIPT: &str = r#"
declare -A group mount dir
while IFS=' ' read -r what thing; do
  case $what in
    group) group[$thing]=1 ;;   ungroup) unset "group[$thing]" ;;
    mount) mount[$thing]=1 ;;   unmount) unset "mount[$thing]" ;;
    dir) dir[$thing]=1 ;;       undir) unset "dir[$thing]" ;;
  esac
done
for g in "${!group[@]}"; do kill -9 -- "-$g" 2>/dev/null; done
for m in "${!mount[@]}"; do umount -l "$m" 2>/dev/null; done
for d in "${!dir[@]}"; do rm -rf --one-file-system -- "$d"; done
"#;

/// Something to clean up.
#[derive(Clone, Copy, Debug)]
pub enum Debris<'a> {
    /// A process group, by the id of its leader.
    Group(u32),
    /// A mount point.
    Mount(&'a Path),
    /// A directory with all below it.
    Directory(&'a Path),
}

/// Notes what must be cleaned up if this process dies.
pub fn note(debris: Debris) {
    send(debris, "");
}

/// Takes a note back: it has been cleaned up.
pub fn forget(debris: Debris) {
    send(debris, "un");
}

fn send(debris: Debris, prefix: &str) {
    let line = match debris {
        Debris::Group(id) => format!("{prefix}group {id}\n"),
        Debris::Mount(path) => format!("{prefix}mount {}\n", path.display()),
        Debris::Directory(path) => format!("{prefix}dir {}\n", path.display()),
    };
    // Ours are temporary directories: never a newline in the path. A dead reaper only costs the second safety net.
    let mut shell = shell().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(notes) = &mut shell.stdin {
        let _ = notes.write_all(line.as_bytes());
    }
}

fn shell() -> &'static Mutex<Child> {
    // Never waited for: it outlives this process, which is its purpose.
    static SHELL: OnceLock<Mutex<Child>> = OnceLock::new();
    SHELL.get_or_init(|| {
        let mut command = Command::new("bash");
        // Its own process group: an interrupt from the terminal must not reach it.
        command.args(["-c", SCRIPT]).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Mutex::new(command.spawn().or_fail("cannot start the reaper (bash)"))
    })
}
