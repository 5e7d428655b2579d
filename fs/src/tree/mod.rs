//! The namespace: inodes, entries, names, and the one way in which a record changes them.

pub mod apply;
pub mod content;
pub mod entry;
pub mod inode;
pub mod xattr;
