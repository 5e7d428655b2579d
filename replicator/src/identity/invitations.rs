//! Which invitations are outstanding at this site: each lets one site in, once, until it expires.
//!
//! Pure, with time as an argument. Only hashes are kept, so whoever reads the file can't join by it. A caller saves what
//! [`Invitations::redeem`] has left before it lets the new site in: then a crash may lose an invitation, but never gives one twice.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::hex;
use super::key_files::{self, KeyFileError};
use super::site_identity::identity_dir;
use super::token::InviteSecret;

const FILE: &str = "invitations.json";
/// No index of an invitation.
const NOT_FOUND: u32 = u32::MAX;

/// The most invitations that are outstanding at once.
pub const MAX_OUTSTANDING: usize = 64;

/// The outstanding invitations of one site.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invitations {
    outstanding: Vec<Invitation>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Invitation {
    /// SHA-256 of the secret. The secret is random, so no salt is needed.
    #[serde(with = "hash")]
    secret_sha256: [u8; 32],
    /// Unix seconds.
    expires_at_secs: u64,
}

/// Too many invitations are outstanding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{MAX_OUTSTANDING} invitations are outstanding; wait until one is used or expires")]
pub struct TooMany;

/// Why a secret lets nobody in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RedeemError {
    /// Never given out here, or used.
    #[error("the token was used already, or another site made it; make a new one with `syncline invite`")]
    Unknown,
    /// Given out here, but too long ago.
    #[error("the token has expired; make a new one with `syncline invite`")]
    Expired,
}

impl Invitations {
    /// Takes note of an invitation, and forgets those that have expired. Times in Unix seconds.
    pub fn add(&mut self, secret: &InviteSecret, expires_at_secs: u64, now_secs: u64) -> Result<(), TooMany> {
        self.outstanding.retain(|invitation| now_secs < invitation.expires_at_secs);
        if self.outstanding.len() >= MAX_OUTSTANDING {
            return Err(TooMany);
        }
        self.outstanding.push(Invitation { secret_sha256: sha256(secret), expires_at_secs });
        Ok(())
    }

    /// Uses up the invitation with this secret. The search takes the same time wherever it is, and however much of one was guessed.
    pub fn redeem(&mut self, secret: &InviteSecret, now_secs: u64) -> Result<(), RedeemError> {
        let given = sha256(secret);
        let mut found = NOT_FOUND;
        for (index, invitation) in (0u32..).zip(&self.outstanding) {
            found.conditional_assign(&index, invitation.secret_sha256.ct_eq(&given));
        }
        if found == NOT_FOUND {
            return Err(RedeemError::Unknown);
        }
        let invitation = self.outstanding.swap_remove(found as usize);
        if now_secs < invitation.expires_at_secs { Ok(()) } else { Err(RedeemError::Expired) }
    }

    /// How many are outstanding, expired ones included until the next [`Invitations::add`].
    pub fn len(&self) -> usize {
        self.outstanding.len()
    }

    /// Whether none is outstanding.
    pub fn is_empty(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// Reads a store's outstanding invitations; none when there is no file yet.
    pub fn load(store: &Path) -> Result<Self, InvitationsError> {
        match key_files::read(&identity_dir(store), FILE) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(InvitationsError::Json),
            Err(KeyFileError::Missing { .. }) => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes them into the store's identity directory, durably.
    pub fn save(&self, store: &Path) -> Result<(), InvitationsError> {
        let bytes = serde_json::to_vec_pretty(self).map_err(InvitationsError::Json)?;
        Ok(key_files::write(&identity_dir(store), FILE, &bytes)?)
    }
}

/// Why the invitations could not be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum InvitationsError {
    /// The file has something else in it.
    #[error("{FILE} in the identity directory is not valid: {0}; remove it and invite anew")]
    Json(serde_json::Error),
    /// The file could not be written or read.
    #[error(transparent)]
    Disk(#[from] KeyFileError),
}

fn sha256(secret: &InviteSecret) -> [u8; 32] {
    Sha256::digest(secret.expose()).into()
}

mod hash {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::hex::encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        super::hex::decode(&text).ok_or_else(|| D::Error::custom("a hash is 64 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> InviteSecret {
        InviteSecret::from_bytes([byte; 32])
    }

    #[test]
    fn an_invitation_lets_one_site_in_once() {
        let mut invitations = Invitations::default();
        invitations.add(&secret(1), 100, 0).expect("room");
        invitations.add(&secret(2), 100, 0).expect("room");
        assert_eq!(invitations.redeem(&secret(3), 10), Err(RedeemError::Unknown));
        assert_eq!(invitations.redeem(&secret(1), 10), Ok(()));
        assert_eq!(invitations.redeem(&secret(1), 10), Err(RedeemError::Unknown));
        assert_eq!(invitations.redeem(&secret(2), 99), Ok(()));
        assert!(invitations.is_empty());
    }

    #[test]
    fn an_expired_invitation_lets_nobody_in_and_is_gone() {
        let mut invitations = Invitations::default();
        invitations.add(&secret(1), 100, 0).expect("room");
        assert_eq!(invitations.redeem(&secret(1), 100), Err(RedeemError::Expired));
        assert_eq!(invitations.redeem(&secret(1), 50), Err(RedeemError::Unknown));
    }

    #[test]
    fn their_number_is_bounded_and_expiry_makes_room() {
        let mut invitations = Invitations::default();
        for byte in 0..MAX_OUTSTANDING as u8 {
            invitations.add(&secret(byte), 100, 0).expect("room");
        }
        assert_eq!(invitations.add(&secret(200), 200, 99), Err(TooMany));
        assert_eq!(invitations.add(&secret(200), 200, 100), Ok(()));
        assert_eq!(invitations.len(), 1);
    }

    #[test]
    fn they_survive_a_restart_and_the_file_does_not_hold_the_secret() {
        let store = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(identity_dir(store.path())).expect("a directory");
        assert_eq!(Invitations::load(store.path()).expect("none yet"), Invitations::default());
        let mut invitations = Invitations::default();
        invitations.add(&secret(0xab), 100, 0).expect("room");
        invitations.save(store.path()).expect("saved");
        let text = std::fs::read_to_string(identity_dir(store.path()).join(FILE)).expect("a file");
        assert!(!text.contains(&"ab".repeat(16)), "{text}");
        let mut loaded = Invitations::load(store.path()).expect("loaded");
        assert_eq!(loaded, invitations);
        assert_eq!(loaded.redeem(&secret(0xab), 1), Ok(()));
    }
}
