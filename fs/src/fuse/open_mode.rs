//! How the kernel does the reads, writes and mappings of each open of one inode. Pure.
//!
//! The kernel keeps an inode either in its own page cache or passed through to the object below, never both: the first
//! open decides, a contrary one fails with EIO until the last is gone.
//!
//! ```text
//!                 R, W                                    RW
//!        ┌─────────────────────── Idle ───────────────────────┐   (R, W too, where nothing can be passed through)
//!        ▼                       ▲    ▲                       ▼
//!  Passthrough(n) ── last release┘    └last release ──── Cached(n)
//!     R       Passthrough        ▲                        any  Cached
//!     W, RW   DirectPassthrough  │
//!        │  ▲                    │ nobody maps the object
//!        ▼  └─ R, W, RW ─── Mapped
//!        └──── last release ──▶
//!              of what may have been mapped unseen
//! ```
//!
//! - *Passthrough*: the kernel reads and maps the object; replayed bytes are there at once. Never for writes: they would
//!   reach no journal.
//! - *DirectPassthrough*: reads and writes are requests; mappings go to the object. Opened for reading too, it can be
//!   mapped shared and writable, and those writes are seen by nobody: `unseen_writes`.
//! - *Cached*: everything through the kernel's page cache, mapped writes arrive as requests. Best for what is first opened
//!   for both: databases.
//!
//! - *Mapped*: a mapping of the object holds the object, and not the open that it was made through: RELEASE comes with the last `close`, and the program
//!   goes on storing. Until nobody has the object open any more, opens are passed through, so that all see the same bytes.
//!
//! A passed-through open drops the pages that the kernel has cached of the inode (it is answered without KEEP_CACHE), and none
//! can be added before the last is gone. So whatever a cached open finds in the page cache is good: it keeps it.
//!
//! The kernel leaves a mode before its RELEASE arrives here, never after, so the set of opens here contains the kernel's.

use std::num::NonZeroU32;

/// What an open asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// O_RDONLY
    Read,
    /// O_WRONLY: cannot be mapped.
    Write,
    /// O_RDWR
    ReadWrite,
}

/// How an open is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoMode {
    /// The kernel works on the object.
    Passthrough,
    /// Reads and writes come here, mappings go to the object.
    DirectPassthrough {
        /// The open can be mapped shared and writable.
        unseen_writes: bool,
    },
    /// Through the kernel's page cache.
    Cached,
}

/// What is open of one inode.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum OpenMode {
    /// Nothing.
    #[default]
    Idle,
    /// So many, all passed through.
    Passthrough(NonZeroU32),
    /// Nothing, but mappings of the object may be left.
    Mapped,
    /// So many, all cached.
    Cached(NonZeroU32),
}

impl OpenMode {
    /// Counts one more open and says how it is done. `passthrough`: the object can be passed through.
    pub fn open(&mut self, access: Access, passthrough: bool) -> IoMode {
        match (*self, access) {
            (OpenMode::Cached(opens), _) => {
                *self = OpenMode::Cached(opens.saturating_add(1));
                IoMode::Cached
            }
            (OpenMode::Passthrough(opens), _) => {
                *self = OpenMode::Passthrough(opens.saturating_add(1));
                Self::passed_through(access)
            }
            (OpenMode::Idle, Access::Read | Access::Write) | (OpenMode::Mapped, _) if passthrough => {
                *self = OpenMode::Passthrough(NonZeroU32::MIN);
                Self::passed_through(access)
            }
            (OpenMode::Idle | OpenMode::Mapped, _) => {
                *self = OpenMode::Cached(NonZeroU32::MIN);
                IoMode::Cached
            }
        }
    }

    fn passed_through(access: Access) -> IoMode {
        match access {
            Access::Read => IoMode::Passthrough,
            Access::Write => IoMode::DirectPassthrough { unseen_writes: false },
            Access::ReadWrite => IoMode::DirectPassthrough { unseen_writes: true },
        }
    }

    /// Counts one open less. `mapped`: one of those passed through may have been mapped unseen.
    pub fn release(&mut self, mapped: bool) {
        let less = |opens: NonZeroU32| NonZeroU32::new(opens.get() - 1);
        let last = if mapped { OpenMode::Mapped } else { OpenMode::Idle };
        *self = match *self {
            none @ (OpenMode::Idle | OpenMode::Mapped) => {
                debug_assert!(false, "release without an open");
                none
            }
            OpenMode::Passthrough(opens) => less(opens).map_or(last, OpenMode::Passthrough),
            OpenMode::Cached(opens) => less(opens).map_or(last, OpenMode::Cached),
        };
    }
}

#[cfg(test)]
#[path = "open_mode_tests.rs"]
mod tests;
