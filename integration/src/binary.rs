//! Finds the `syncline` binary, building it when it must be.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::outcome::OrFail;

/// Names a ready binary, and nothing is built.
pub const VARIABLE: &str = "SYNCLINE_BIN";

/// The `syncline` binary: what `SYNCLINE_BIN` names, else a fresh build in the profile of the running program.
///
/// Cargo gives a program only the binaries of its own package, so this asks cargo; once per process, and cargo's own lock
/// keeps several processes apart.
///
/// # Panics
/// When it can't be built.
pub fn syncline() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os(VARIABLE) {
        Some(path) => {
            let path = PathBuf::from(path);
            std::path::absolute(&path).or_fail(format_args!("{VARIABLE}={}", path.display()))
        }
        None => build(),
    })
}

fn build() -> PathBuf {
    let directory = profile_directory();
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let target = directory.parent().or_fail("the target directory has no parent");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "syncline", "--bin", "syncline", "--profile", profile]);
    command.arg("--target-dir").arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    let status = command.status().or_fail("cannot run cargo");
    assert!(status.success(), "cannot build the syncline binary; or name one in {VARIABLE}");
    directory.join("syncline")
}

/// `target/<profile>`: tests run in its `deps`, binaries in itself.
fn profile_directory() -> PathBuf {
    let exe = std::env::current_exe().or_fail("where am I?");
    let mut directory = exe.parent().or_fail("the program has no directory").to_owned();
    if directory.ends_with("deps") || directory.ends_with("examples") {
        directory.pop();
    }
    directory
}
