//! Random system calls over all that changes a tree, made by a seed, run through mounts and on plain ext4 beside them.
//!
//! [`generate`] decides the next call from a seed and the [`names`] that are there; a [`call`] runs below any directory and answers
//! what a program sees of it; a [`pair`] runs it in a mount and on ext4 and demands the same. What fails is made short by [`shrink`].

pub mod answer;
pub mod call;
pub mod generate;
pub mod names;
pub mod pair;
pub mod shrink;
