//! The name of a directory entry.

use std::fmt;

/// A name that every site can hold: 1 to 255 bytes, not `.` or `..`, without `/` and NUL. Any other bytes
/// are allowed; names need not be UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

/// Why bytes cannot be a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// Longer than [`Name::MAX_BYTES`].
    #[error("the name is longer than 255 bytes")]
    TooLong,
    /// Empty, `.`, `..`, or with `/` or NUL in it.
    #[error("the name is empty, \".\", \"..\" or has a slash or NUL in it")]
    NotAllowed,
}

impl Name {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 255;

    /// Checks and takes the name.
    pub fn new(bytes: &[u8]) -> Result<Self, NameError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(NameError::TooLong);
        }
        let refused = matches!(bytes, b"" | b"." | b"..") || bytes.iter().any(|b| matches!(b, b'/' | 0));
        if refused { Err(NameError::NotAllowed) } else { Ok(Self(bytes.into())) }
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_the_directory_are_refused() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b"] {
            assert_eq!(Name::new(bad), Err(NameError::NotAllowed), "{bad:?}");
        }
        assert_eq!(Name::new(&[b'a'; 256]), Err(NameError::TooLong));
    }

    #[test]
    fn odd_names_are_names() {
        for good in [&b"..."[..], b" ", b"a\nb", b"\xff\xfe", &[b'a'; 255]] {
            assert!(Name::new(good).is_ok(), "{good:?}");
        }
    }
}
