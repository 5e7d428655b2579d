//! A complete journalled file system for one site.
pub mod error;
pub mod fuse;
pub mod journal;
pub mod types;
pub mod volume;
