//! Python with packages of the registry, fetched once and kept below `target`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::fs::FlockOperation;

use crate::outcome::OrFail;
use crate::site::succeed;

/// What the tests use.
pub const PACKAGES: [&str; 2] = ["numpy", "safetensors"];

/// Python outside the mount.
pub struct Python {
    /// An interpreter that has the [`PACKAGES`].
    pub interpreter: PathBuf,
    /// Their wheels, from which `pip` installs without the registry.
    pub wheels: PathBuf,
}

impl Python {
    /// Made on first use, which asks the registry.
    ///
    /// # Panics
    /// Without python3 and its venv module, or when the registry doesn't answer.
    pub fn get() -> &'static Self {
        static PYTHON: OnceLock<Python> = OnceLock::new();
        PYTHON.get_or_init(|| {
            let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python");
            fs::create_dir_all(&place).or_fail(format_args!("cannot make {}", place.display()));
            let place = fs::canonicalize(&place).or_fail("the place of python's packages");
            // Test programs may run beside each other.
            let lock = File::create(place.join("lock")).or_fail("cannot open the lock of python's packages");
            rustix::fs::flock(&lock, FlockOperation::LockExclusive).or_fail("cannot lock python's packages");
            let (environment, wheels, ready) = (place.join("venv"), place.join("wheels"), place.join("ready"));
            let python = Self { interpreter: environment.join("bin/python"), wheels };
            if !ready.exists() {
                succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment));
                let mut download = python.pip();
                download.args(["download", "--quiet", "--only-binary=:all:", "--dest"]).arg(&python.wheels);
                succeed(download.args(PACKAGES));
                succeed(
                    python
                        .pip()
                        .args(["install", "--quiet", "--no-index", "--find-links"])
                        .arg(&python.wheels)
                        .args(PACKAGES),
                );
                File::create(&ready).or_fail("cannot note that python's packages are there");
            }
            python
        })
    }

    /// `pip` of the interpreter.
    pub fn pip(&self) -> Command {
        let mut command = Command::new(&self.interpreter);
        command.args(["-m", "pip", "--disable-pip-version-check", "--no-input"]);
        command
    }
}

/// Runs a script; what it prints.
#[track_caller]
pub fn run(interpreter: &Path, script: &str, arguments: &[&Path]) -> String {
    succeed(Command::new(interpreter).args(["-c", script]).args(arguments))
}
