//! The thread that keeps a spare file ready and recycles old ones.
//!
//! A file leaves the journal in this order, so that a crash at any step leaves one run of live files:
//! 1. it is taken from the list, oldest first, one at a time; 2. its header says *spare*, durably; 3. it may be used again, or is deleted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

use super::error::JournalError;
use super::file::{JournalFile, LiveFile};
use super::recycle::hold;
use super::shared::Shared;
use super::stages;
use crate::room::Space;

/// Spare files kept beyond which recycled ones are deleted.
pub const SPARE_FILES: usize = 2;
/// When a file cannot be made (the disk is full, say), the next attempt.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Tells the thread that there may be something to do.
#[derive(Default)]
pub struct Upkeep {
    asked: Mutex<bool>,
    wake: Condvar,
}

impl Upkeep {
    /// Wakes the thread.
    pub fn ask(&self) {
        *self.asked.lock() = true;
        self.wake.notify_one();
    }

    /// Waits until asked.
    fn wait(&self) {
        let mut asked = self.asked.lock();
        while !*asked {
            self.wake.wait(&mut asked);
        }
        *asked = false;
    }

    /// Waits for a while, whatever is asked meanwhile, unless it is to stop.
    fn pause(&self, stopping: impl Fn() -> bool) {
        let end = Instant::now() + RETRY_AFTER;
        let mut asked = self.asked.lock();
        while !stopping() && !self.wake.wait_until(&mut asked, end).timed_out() {}
    }
}

impl Shared {
    /// The thread.
    pub fn run_upkeep(&self) {
        while !self.stopping() && self.check_sound().is_ok() {
            let result = self.recycle().and_then(|()| self.make_spare());
            match result {
                Ok(()) => self.upkeep.wait(),
                Err(error) => {
                    tracing::warn!(%error, "the journal has no spare file; appends allocate one when they need it");
                    self.upkeep.pause(|| self.stopping());
                }
            }
        }
        self.tell_failure();
    }

    /// Recycles what the truncation rule lets go.
    pub fn recycle(&self) -> Result<(), JournalError> {
        while let Some(live) = self.take_oldest() {
            if self.stopping() {
                return Ok(());
            }
            if let Err(error) = live.on_disk.retire(live.header.store_tag, live.header.generation) {
                // Whether it is live or spare on the disk is not known; recycling the next could leave a gap.
                tracing::error!(%error, "cannot recycle a journal file");
                self.poison(&error);
                return Err(error);
            }
            let spare = {
                let mut writer = self.writer.lock();
                let keep = writer.ready.len() < SPARE_FILES && live.on_disk.file_bytes == self.options.file_bytes;
                if keep {
                    writer.ready.push(live.on_disk.clone());
                }
                keep
            };
            if !spare {
                live.on_disk.remove()?;
            }
        }
        Ok(())
    }

    /// Takes the oldest file from the journal, if nothing holds it.
    fn take_oldest(&self) -> Option<Arc<LiveFile>> {
        let mut writer = self.writer.lock();
        let oldest = writer.sealed.front()?;
        if hold(oldest.last_lsn, &oldest.end, self.durable(), writer.checkpoint, &writer.watermarks).is_some() {
            return None;
        }
        stages::check_truncated(writer.checkpoint, &writer.watermarks, oldest.last_lsn, &oldest.end);
        writer.sealed.pop_front().map(|sealed| sealed.live)
    }

    /// Makes a spare file if there is none, and room for one.
    pub fn make_spare(&self) -> Result<(), JournalError> {
        if !self.writer.lock().ready.is_empty() {
            return Ok(());
        }
        // Filled, it would take what is kept for changes that free space, and be given back too late for those that failed meanwhile.
        let io = || JournalError::io("make a spare file in", &self.dir);
        let Space { free, kept } = Space::of(&self.dir).map_err(io())?;
        if free < kept + self.options.file_bytes {
            return Err(io()(Errno::NOSPC.into()));
        }
        let number = {
            let mut writer = self.writer.lock();
            writer.next_number += 1;
            writer.next_number - 1
        };
        let file = JournalFile::make(&self.dir, number, self.options.file_bytes, self.options.store_tag)?;
        self.writer.lock().ready.push(Arc::new(file));
        Ok(())
    }
}
