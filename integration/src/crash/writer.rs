//! A process that writes and logs (`crash_writer`), and what must be found after it.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::crash::log::{self, Progress};
use crate::crash::model::Model;
use crate::outcome::{OrFail, eventually};
use crate::tree;

/// How long a call may hang in a mount whose daemon died, and how long the first operations may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The errors of a mount whose daemon died: ENOTCONN, ECONNABORTED, EIO, and ENOENT once it is unmounted.
const GONE: [&str; 4] = ["os error 107", "os error 103", "os error 5", "os error 2)"];

/// A writer and the directory that only it writes to. Dropping it kills it.
pub struct Writer {
    /// The name of its directory.
    pub name: String,
    seed: u64,
    log: PathBuf,
    errors: PathBuf,
    child: Option<Child>,
}

impl Writer {
    /// Makes the directory `name` below `parent` and starts the program there, which logs into `notes`.
    ///
    /// # Panics
    /// When it can't.
    pub fn start(program: &Path, parent: &Path, notes: &Path, name: &str, seed: u64) -> Self {
        let directory = parent.join(name);
        fs::create_dir(&directory).or_fail(directory.display());
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).or_fail(directory.display());
        let (log, errors) = (notes.join(format!("{name}.log")), notes.join(format!("{name}.err")));
        let mut command = Command::new(program);
        command.arg(&directory).arg(&log).arg(seed.to_string());
        let heard = File::create(&errors).or_fail(errors.display());
        let child = command.stdout(Stdio::null()).stderr(heard).spawn().or_fail(program.display());
        Self { name: name.to_owned(), seed, log, errors, child: Some(child) }
    }

    /// What its log says.
    pub fn progress(&self) -> Result<Progress, String> {
        log::read(&self.log).map_err(|e| e.to_string())
    }

    /// Waits until `count` operations were acknowledged.
    ///
    /// # Panics
    /// When that takes too long, or it ends.
    pub fn await_acknowledged(&mut self, count: u64) {
        let name = self.name.clone();
        eventually(PATIENCE, &format!("{name} writes"), || {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                panic!("{name} ended: {status}: {}", self.errors());
            }
            let progress = self.progress()?;
            if progress.acknowledged >= count { Ok(()) } else { Err(format!("{progress:?}")) }
        });
    }

    /// Waits for the end that a dead mount brings.
    ///
    /// # Panics
    /// When it doesn't end, or for another reason.
    pub fn await_end(&mut self) {
        let Some(child) = &mut self.child else { return };
        let status = eventually(PATIENCE, &format!("{} ends", self.name), || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it still runs".to_owned()),
            Err(e) => Err(e.to_string()),
        });
        self.child = None;
        let errors = self.errors();
        assert_eq!(status.code(), Some(1), "{} must fail only by the crash: {status}: {errors}", self.name);
        // An error that a healthy mount gives would be a failed operation before the crash.
        let gone = GONE.iter().any(|code| errors.contains(code));
        assert!(gone, "{}: not the error of a dead mount: {errors}", self.name);
    }

    /// Ends it in the middle of whatever it does.
    ///
    /// # Panics
    /// When it had ended by itself: nothing must have disturbed it.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let ended = child.try_wait().or_fail("cannot ask for the writer");
        assert!(ended.is_none(), "{} had ended: {ended:?}: {}", self.name, self.errors());
        child.kill().or_fail("cannot kill the writer");
        child.wait().or_fail("cannot wait for the writer");
    }

    fn errors(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }

    /// What is in its directory below `parent` must be what was acknowledged, with or without the operation that was under way, and nothing
    /// else. The number that was acknowledged, or the differences.
    pub fn check(&self, parent: &Path) -> Result<u64, String> {
        let progress = self.progress()?;
        let real = tree::read(&parent.join(&self.name)).map_err(|e| e.to_string())?;
        let mut model = Model::after(self.seed, progress.acknowledged);
        let without = model.differences(&real);
        if without.is_empty() {
            return Ok(progress.acknowledged);
        }
        let flying = model.decide();
        model.take(&flying);
        let with = model.differences(&real);
        if progress.in_flight && with.is_empty() {
            return Ok(progress.acknowledged);
        }
        Err(format!(
            "{} (seed {}) after {progress:?}, under way {flying:.200?}:\nwithout it: {without:#?}\nwith it: {with:#?}",
            self.name, self.seed
        ))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
