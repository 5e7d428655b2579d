//! A complete journalled file system for one site.
pub mod content;
pub mod error;
pub mod fuse;
pub mod types;
pub mod volume;
