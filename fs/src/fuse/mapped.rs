//! Files whose mappings go to the object: looked at from time to time, and let go when nobody maps them any more.
//!
//! `msync` of such a mapping and the end of the last one reach the file system below, and not this daemon.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::opening::OpenFiles;
use super::session::End;
use crate::volume::Volume;

/// How late it is noticed that a mapping has changed a file, or is gone.
const EVERY: Duration = Duration::from_millis(500);

/// Does so on a thread of its own, until the session ends.
pub(super) fn look_after(volume: Arc<Volume>, files: Arc<OpenFiles>, end: Arc<End>) -> io::Result<()> {
    let run = move || {
        while !end.wait(EVERY) {
            look(&volume, &files);
        }
    };
    thread::Builder::new().name("fuse-mapped".into()).spawn(run).map(drop)
}

/// Looks once.
pub(super) fn look(volume: &Volume, files: &OpenFiles) {
    for file in files.mapped() {
        let Some(opens) = files.end_mapped(file, || volume.is_unmapped(file)) else { continue };
        if let Err(error) = volume.end_unseen_writes(file, opens) {
            tracing::warn!(%file, %error, "what mappings of a file changed is not journalled yet");
            files.assume_mapped(file, opens);
        }
    }
    volume.look_for_unseen_writes();
}
