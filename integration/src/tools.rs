//! Test suites of others, as programs. `.ci/run tools` installs them.

use std::path::{Path, PathBuf};

/// Names a directory with the programs in its `bin`.
pub const VARIABLE: &str = "SYNCLINE_TOOLS";

/// The program of this name: below what `SYNCLINE_TOOLS` names, below `target/tools`, or on the path.
///
/// # Panics
/// When it is nowhere.
pub fn find(name: &str) -> PathBuf {
    let named = std::env::var_os(VARIABLE).map(|directory| PathBuf::from(directory).join("bin"));
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = named.into_iter().chain([own]).chain(std::env::split_paths(&path));
    let found = places.map(|place| place.join(name)).find(|program| program.is_file());
    found.unwrap_or_else(|| panic!("{name} is needed: run `.ci/run tools`, or name its place in {VARIABLE}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_on_the_path_is_found() {
        assert!(find("sh").is_file());
    }

    #[test]
    #[should_panic(expected = ".ci/run tools")]
    fn a_program_that_is_nowhere_is_asked_for() {
        find("a-program-that-nobody-has");
    }
}
