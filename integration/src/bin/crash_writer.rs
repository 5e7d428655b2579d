//! Writes into a directory, as the seed says, until it is stopped or an operation fails; logs each operation before and after.
//!
//! `crash_writer DIRECTORY LOG SEED [MOST]`: the directory must be empty, the log must not exist. Exit code 0 after MOST
//! operations, 1 when an operation failed (the message says which), 64 on wrong use.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use integration::crash::log::Log;
use integration::crash::model::Model;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let parsed = match arguments.as_slice() {
        [directory, log, seed] => seed.parse().ok().map(|seed| (directory, log, seed, u64::MAX)),
        [directory, log, seed, most] => {
            seed.parse().ok().zip(most.parse().ok()).map(|(seed, most)| (directory, log, seed, most))
        }
        _ => None,
    };
    let Some((directory, log, seed, most)) = parsed else {
        eprintln!("use: crash_writer DIRECTORY LOG SEED [MOST]");
        return ExitCode::from(64);
    };
    match write(&PathBuf::from(directory), &PathBuf::from(log), seed, most) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &Path, log: &Path, seed: u64, most: u64) -> Result<(), String> {
    rustix::process::umask(rustix::fs::Mode::empty());
    let mut log = Log::create(log).map_err(|e| format!("cannot make the log {}: {e}", log.display()))?;
    let mut model = Model::new(seed);
    for number in 0..most {
        let operation = model.decide();
        log.intent(number).map_err(|e| format!("cannot log: {e}"))?;
        let still_open = operation.run(directory);
        let still_open =
            still_open.map_err(|e| format!("operation {number} of seed {seed}: {operation:.200?}: {e}"))?;
        log.done(number).map_err(|e| format!("cannot log: {e}"))?;
        drop(still_open);
        model.take(&operation);
    }
    Ok(())
}
