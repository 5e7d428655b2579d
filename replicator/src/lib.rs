//! Carries records between sites.

pub mod identity;
