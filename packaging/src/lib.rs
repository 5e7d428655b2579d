//! The `syncline` command: command line and daemon.
pub mod config;
pub mod units;
