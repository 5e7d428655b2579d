//! The join token: the one line that an operator carries from a member to a new site.
//!
//! ```text
//! token   := "syncline1." base64url(payload | checksum)               without padding; the 1 is the format
//! payload := volume (16) | inviter:uint | expiry:uint | secret (32) | addresses:list(bytes) | authority:bytes
//! checksum := first 4 bytes of SHA-256(payload)                       uint: LEB128; bytes: uint length, then they
//! ```
//!
//! It carries the authority's whole certificate, not a hash of it: so the new site verifies the inviter by the ordinary TLS verifier
//! before it says the secret. The checksum tells a line that was cut or altered on the way from one that is wrong; it
//! protects nothing. Whoever has the token can join until it is used or expires: treat it like a password.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use proto::codec::{self, DecodeError, Reader};
use proto::ids::{SiteId, VolumeId};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::certificate::{self, Certificate};

const NAME: &str = "syncline";
const FORMAT: u32 = 1;
const CHECKSUM_BYTES: usize = 4;
/// The longest line that is looked at, in bytes; one with an address has about 900.
const MAX_TOKEN_BYTES: usize = 16 << 10;
/// The most addresses in a token.
pub const MAX_ADDRESSES: usize = 8;
/// The longest address: a DNS name, a colon and a port.
const MAX_ADDRESS_BYTES: usize = 253 + 6;
const MAX_AUTHORITY_BYTES: usize = 8 << 10;

/// What proves to the inviter that the new site was invited. Known to the two alone; the inviter keeps its hash.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct InviteSecret([u8; InviteSecret::BYTES]);

impl InviteSecret {
    /// Its length in bytes.
    pub const BYTES: usize = 32;

    /// Takes the secret's bytes, which must be random.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The secret's bytes, to send them to the inviter.
    pub fn expose(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl fmt::Debug for InviteSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InviteSecret(redacted)")
    }
}

/// What a new site needs to reach its inviter, to be sure that it is the inviter, and to be let in.
#[derive(Clone, Debug)]
pub struct JoinToken {
    /// The volume to join.
    pub volume: VolumeId,
    /// The member that invites: the TLS client asks for its name.
    pub inviter: SiteId,
    /// Where it is reached, `host:port` each, to be tried in turn.
    pub addresses: Vec<String>,
    /// The certificate of the volume's authority.
    pub authority: Certificate,
    /// What proves the invitation.
    pub secret: InviteSecret,
    /// Until when it can be used, in Unix seconds.
    pub expires_at_secs: u64,
}

/// Why there is no token, or why a line can't be used as one.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Something else was pasted.
    #[error("this is not a join token: one begins with \"syncline1.\" and is printed by `syncline invite`")]
    NotAToken,
    /// From a later version.
    #[error("the token has format {format}, this version knows {FORMAT}; install the version of the inviting site")]
    UnknownFormat {
        /// The format's number.
        format: u32,
    },
    /// Something is missing or was altered.
    #[error("the token is incomplete or was altered; copy the whole line that `syncline invite` printed")]
    Damaged,
    /// The line is whole but says what can't be.
    #[error("the token is whole but not valid: {what}; make a new one with `syncline invite`")]
    Invalid {
        /// What is wrong.
        what: &'static str,
    },
    /// Too late.
    #[error("the token expired {ago_secs} s ago; make a new one with `syncline invite`, and check this host's clock")]
    Expired {
        /// How long ago, in seconds.
        ago_secs: u64,
    },
    /// An address that a new site could not connect to.
    #[error("{address:?} is not an address that another site can reach; give host:port, as in `gpu1.example.org:7400`")]
    Address {
        /// The address.
        address: String,
    },
    /// Addresses are missing or too many.
    #[error("a token carries 1 to {MAX_ADDRESSES} addresses, not {count}")]
    AddressCount {
        /// How many were given.
        count: usize,
    },
}

impl JoinToken {
    /// The token as one line, without a newline.
    ///
    /// # Errors
    /// When its addresses could not be used, or its authority isn't the volume's.
    pub fn encode(&self) -> Result<Zeroizing<String>, TokenError> {
        self.check()?;
        let mut payload = Zeroizing::new(Vec::with_capacity(2048));
        payload.extend_from_slice(&self.volume.0);
        codec::put_u64(&mut payload, u64::from(self.inviter.0));
        codec::put_u64(&mut payload, self.expires_at_secs);
        payload.extend_from_slice(self.secret.expose());
        codec::put_u64(&mut payload, self.addresses.len() as u64);
        for address in &self.addresses {
            codec::put_bytes(&mut payload, address.as_bytes());
        }
        codec::put_bytes(&mut payload, self.authority.der());
        let checksum = checksum(&payload);
        payload.extend_from_slice(&checksum);
        let mut line = Zeroizing::new(format!("{NAME}{FORMAT}."));
        URL_SAFE_NO_PAD.encode_string(&*payload, &mut line);
        Ok(line)
    }

    /// Reads a token. Blanks and line breaks that a terminal put into it are skipped. Says nothing about time: see
    /// [`JoinToken::check_expiry`].
    pub fn decode(line: &str) -> Result<Self, TokenError> {
        if line.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::NotAToken);
        }
        let line: Zeroizing<String> = Zeroizing::new(line.chars().filter(|char| !char.is_ascii_whitespace()).collect());
        let rest = line.strip_prefix(NAME).ok_or(TokenError::NotAToken)?;
        // A line cut within its prefix is damaged; "syncline.conf" is something else.
        let Some((format, text)) = rest.split_once('.') else {
            return Err(if rest.bytes().all(|byte| byte.is_ascii_digit()) {
                TokenError::Damaged
            } else {
                TokenError::NotAToken
            });
        };
        let format = format.parse().map_err(|_| TokenError::NotAToken)?;
        if format != FORMAT {
            return Err(TokenError::UnknownFormat { format });
        }
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Damaged)?);
        let (payload, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TokenError::Damaged)?;
        if *sum != checksum(payload) {
            return Err(TokenError::Damaged);
        }
        let token = Self::parse(Bytes::copy_from_slice(payload))?;
        token.check()?;
        Ok(token)
    }

    /// Refuses a token that is too old at `now_secs` (Unix seconds). The inviter decides; this spares the way.
    pub fn check_expiry(&self, now_secs: u64) -> Result<(), TokenError> {
        match now_secs.checked_sub(self.expires_at_secs) {
            Some(ago_secs) => Err(TokenError::Expired { ago_secs }),
            None => Ok(()),
        }
    }

    fn parse(payload: Bytes) -> Result<Self, TokenError> {
        let mut reader = Reader::new(payload);
        let volume = VolumeId(array(&mut reader, "the volume")?);
        let inviter = SiteId(reader.uint("the inviter")?);
        let expires_at_secs = reader.u64("the expiry")?;
        let secret = InviteSecret::from_bytes(array(&mut reader, "the secret")?);
        let count: usize = reader.uint("the number of addresses")?;
        if count > MAX_ADDRESSES {
            return Err(TokenError::AddressCount { count });
        }
        let mut addresses = Vec::with_capacity(count);
        for _ in 0..count {
            let address = reader.bytes(MAX_ADDRESS_BYTES, "an address")?;
            let address = std::str::from_utf8(&address).map_err(|_| TokenError::Invalid { what: "an address" })?;
            addresses.push(address.to_owned());
        }
        let authority = reader.bytes(MAX_AUTHORITY_BYTES, "the authority")?;
        reader.finish("the end")?;
        let authority = Certificate::from_der(&authority)
            .map_err(|_| TokenError::Invalid { what: "the authority's certificate" })?;
        Ok(Self { volume, inviter, addresses, authority, secret, expires_at_secs })
    }

    fn check(&self) -> Result<(), TokenError> {
        if self.inviter.0 == 0 {
            return Err(TokenError::Invalid { what: "the inviter" });
        }
        if !(1..=MAX_ADDRESSES).contains(&self.addresses.len()) {
            return Err(TokenError::AddressCount { count: self.addresses.len() });
        }
        if let Some(address) = self.addresses.iter().find(|address| !is_address(address)) {
            return Err(TokenError::Address { address: address.clone() });
        }
        let named = certificate::volume_of_authority(self.authority.der()).ok();
        if named != Some(self.volume) || self.authority.der().len() > MAX_AUTHORITY_BYTES {
            return Err(TokenError::Invalid { what: "the authority is not the volume's" });
        }
        Ok(())
    }
}

impl From<DecodeError> for TokenError {
    fn from(error: DecodeError) -> Self {
        let (DecodeError::Short { what } | DecodeError::Invalid { what }) = error;
        TokenError::Invalid { what }
    }
}

fn array<const N: usize>(reader: &mut Reader, what: &'static str) -> Result<[u8; N], TokenError> {
    let bytes = reader.take(N, what)?;
    bytes.as_ref().try_into().map_err(|_| TokenError::Invalid { what })
}

fn checksum(payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = Sha256::digest(payload);
    [hash[0], hash[1], hash[2], hash[3]]
}

/// `host:port` with a port that can be connected to, and a host that is not the wildcard.
fn is_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let plain = address.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'@' | b'?' | b'#'));
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let wildcard = matches!(host, "" | "0.0.0.0" | "[::]" | "*");
    let port = port.parse::<u16>().is_ok_and(|port| port != 0);
    plain && !wildcard && port && (bracketed || !host.contains(':')) && address.len() <= MAX_ADDRESS_BYTES
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
