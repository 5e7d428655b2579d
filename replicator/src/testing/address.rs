//! Addresses for sites that listen.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

/// An address that nobody else has: of this process alone, with a port that is given to no connection.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, a, b, c.max(1)], NEXT.fetch_add(1, Ordering::Relaxed)))
}
