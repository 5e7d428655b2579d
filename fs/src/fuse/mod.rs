//! Translates between the kernel and the volume. The only user of `fuser`.
