//! The `syncline` command: command line and daemon.
pub mod busy;
pub mod config;
pub mod control;
pub mod logging;
pub mod mounts;
pub mod units;
