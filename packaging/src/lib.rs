//! The `syncline` command: command line and daemon.
//!
//! | module | concept |
//! |---|---|
//! | [`cli`] | arguments, output and exit codes; one module per subcommand |
//! | [`config`] | a TOML file into a checked `Config`, and the file that `init` writes |
//! | [`founding`] | what makes a directory a site: `init` and `join` |
//! | [`daemon`] | wires volume, replicator, mount and control socket; ends them in order |
//! | [`peers`] | the replicator, as the daemon uses it |
//! | [`background`] | a daemon in the background and its word that it is ready |
//! | [`control`] | how commands speak with the daemon |
//! | [`store_dir`] | the store's directory: private, and one daemon's at a time |
//! | [`mounts`] | which mount a path is on, and so which daemon serves it |
//! | [`busy`] | which programs keep a mount busy |
//! | [`logging`] | where log lines go |
//! | [`demo`] | two sites on one machine, to try it out |
//! | [`metrics`] | the status as Prometheus reads it |
//! | [`lanes`] | lanes by their names |
//! | [`units`] | durations, sizes and rates as people write them |
//!
//! Only `founding`, `daemon`, `peers` and `control::handlers` use the crates below; `config`, `lanes` and `cli::policy` know their words.

pub mod background;
pub mod busy;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod demo;
pub mod founding;
pub mod lanes;
pub mod logging;
pub mod metrics;
pub mod mounts;
pub mod peers;
pub mod signals;
pub mod store_dir;
pub mod units;
