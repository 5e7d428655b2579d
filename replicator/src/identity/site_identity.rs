//! Everything that a site proves itself with, and the directory that keeps it.
//!
//! ```text
//! STORE/identity/            0700, made at once and never overwritten
//!   identity.json            volume and site, by id and by name; addresses
//!   ca.pem                   certificate of the volume's authority
//!   ca.key                   its key, where this site may admit others
//!   site.pem  site.key       this site's certificate and key
//!   volume.key               32 bytes: what segments are sealed with
//! ```
//!
//! Invariant of a [`SiteIdentity`]: its parts belong together. The site's certificate names this volume and site, is signed by the
//! authority, and its key is the site's; so a mixed-up directory is found at start, by name, not by failing handshakes.

use std::path::{Path, PathBuf};

use proto::ids::{SiteId, VolumeId};
use proto::seal::VolumeKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::certificate::{self, Authority, Certificate, CertificateError, SiteKey};
use super::hex;
use super::key_files::{self, KeyFileError};

const DIR: &str = "identity";
const IDENTITY: &str = "identity.json";
const AUTHORITY_CERTIFICATE: &str = "ca.pem";
const AUTHORITY_KEY: &str = "ca.key";
const SITE_CERTIFICATE: &str = "site.pem";
const SITE_KEY: &str = "site.key";
const VOLUME_KEY: &str = "volume.key";
const FORMAT: u32 = 1;
/// The longest name of a volume or site.
pub const MAX_NAME_BYTES: usize = 63;

/// The directory of a store that holds its identity.
pub fn identity_dir(store: &Path) -> PathBuf {
    store.join(DIR)
}

/// Which site of which volume, and where it is reached. Not secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Profile {
    /// The volume.
    pub volume: VolumeId,
    /// Its name for people.
    pub volume_name: String,
    /// This site.
    pub site: SiteId,
    /// Its name for people, in commands and in policies.
    pub site_name: String,
    /// Where it listens, `host:port`.
    pub listen_address: String,
    /// Where the other sites reach it, `host:port`.
    pub advertised_address: String,
}

/// A site's identity, complete and consistent.
#[derive(Debug)]
pub struct SiteIdentity {
    profile: Profile,
    authority_certificate: Certificate,
    authority: Option<Authority>,
    certificate: Certificate,
    key: SiteKey,
    volume_key: VolumeKey,
}

/// What a site's identity is made of. [`SiteIdentity::new`] checks that it belongs together.
#[derive(Debug)]
pub struct Parts {
    /// Which site of which volume.
    pub profile: Profile,
    /// The certificate of the volume's authority.
    pub authority_certificate: Certificate,
    /// The authority itself, where this site may admit others.
    pub authority: Option<Authority>,
    /// This site's certificate.
    pub certificate: Certificate,
    /// This site's key.
    pub key: SiteKey,
    /// What segments are sealed with.
    pub volume_key: VolumeKey,
}

/// Why an identity could not be made, saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A name that would be hard to use in commands and policies.
    #[error(
        "{what} {name:?} is not allowed: use 1 to 63 letters, digits, '-', '_' and '.', beginning with a letter or digit"
    )]
    Name {
        /// Whose.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Two parts that are each fine but not of one site.
    #[error("the parts of the identity do not belong together: {0}; restore the directory as a whole, or join anew")]
    Mismatch(&'static str),
    /// The store has an identity already.
    #[error("{} holds the identity of a site already; use another store", dir.display())]
    Exists {
        /// The directory.
        dir: PathBuf,
    },
    /// The store has no identity.
    #[error("{} does not exist: this store belongs to no volume yet; run `syncline init` or `syncline join`", dir.display())]
    Missing {
        /// The directory.
        dir: PathBuf,
    },
    /// A file that is not what its name says.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A key or certificate that could not be made or does not fit.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A file could not be written or read.
    #[error(transparent)]
    Disk(#[from] KeyFileError),
}

impl SiteIdentity {
    /// A new volume with its first site. `volume_key` must be random; the key pairs are drawn here. `now_secs`: Unix seconds.
    pub fn found(profile: Profile, volume_key: VolumeKey, now_secs: u64) -> Result<Self, IdentityError> {
        let authority = Authority::generate(profile.volume, now_secs)?;
        let key = SiteKey::generate()?;
        let certificate = authority.sign(&key.request()?, profile.site, now_secs)?;
        let authority_certificate = authority.certificate().clone();
        Self::new(Parts { profile, authority_certificate, authority: Some(authority), certificate, key, volume_key })
    }

    /// The identity of these parts, if they belong together: for a site that joins, or one that is loaded.
    pub fn new(parts: Parts) -> Result<Self, IdentityError> {
        let Parts { profile, authority_certificate, authority, certificate, key, volume_key } = parts;
        check_name("the volume's name", &profile.volume_name)?;
        check_name("the site's name", &profile.site_name)?;
        if certificate::volume_of_authority(authority_certificate.der())? != profile.volume {
            return Err(IdentityError::Mismatch("the authority is another volume's"));
        }
        if authority.as_ref().is_some_and(|authority| *authority.certificate() != authority_certificate) {
            return Err(IdentityError::Mismatch("the authority's key is another authority's"));
        }
        if certificate::site_of_certificate(certificate.der())? != (profile.volume, profile.site) {
            return Err(IdentityError::Mismatch("the site's certificate names another site"));
        }
        certificate.check_signed_by(&authority_certificate)?;
        key.check(&certificate)?;
        Ok(Self { profile, authority_certificate, authority, certificate, key, volume_key })
    }

    /// Which site of which volume.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The certificate of the volume's authority: what a peer's certificate is verified against.
    pub fn authority_certificate(&self) -> &Certificate {
        &self.authority_certificate
    }

    /// The volume's authority, where this site may admit others.
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// This site's certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// This site's key.
    pub fn key(&self) -> &SiteKey {
        &self.key
    }

    /// What the volume's segments are sealed with.
    pub fn volume_key(&self) -> &VolumeKey {
        &self.volume_key
    }

    /// Writes it into `store`, all or nothing.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] when the store has one: it is never overwritten, since a volume key that is lost is lost for good.
    pub fn save(&self, store: &Path) -> Result<(), IdentityError> {
        let json = Zeroizing::new(serde_json::to_vec_pretty(&File::from(&self.profile)).map_err(|error| {
            IdentityError::File { path: identity_dir(store).join(IDENTITY), cause: error.to_string() }
        })?);
        let (authority_pem, site_pem) = (self.authority_certificate.to_pem(), self.certificate.to_pem());
        let site_key = self.key.to_pem();
        let authority_key = self.authority.as_ref().map(Authority::key_pem);
        let mut files = vec![
            (IDENTITY, json.as_slice()),
            (AUTHORITY_CERTIFICATE, authority_pem.as_bytes()),
            (SITE_CERTIFICATE, site_pem.as_bytes()),
            (SITE_KEY, site_key.as_bytes()),
            (VOLUME_KEY, self.volume_key.expose().as_slice()),
        ];
        if let Some(key) = &authority_key {
            files.push((AUTHORITY_KEY, key.as_bytes()));
        }
        key_files::create_dir(store, DIR, &files).map_err(|error| match error {
            KeyFileError::Exists { path } => IdentityError::Exists { dir: path },
            error => error.into(),
        })
    }

    /// Reads it from `store`.
    ///
    /// # Errors
    /// Also when others than the owner can read any of it.
    pub fn load(store: &Path) -> Result<Self, IdentityError> {
        let dir = identity_dir(store);
        key_files::check_dir(&dir).map_err(|error| match error {
            KeyFileError::Missing { path } => IdentityError::Missing { dir: path },
            error => error.into(),
        })?;
        let wrong = |name: &str, cause: String| IdentityError::File { path: dir.join(name), cause };
        let text = |name: &str| -> Result<Zeroizing<String>, IdentityError> {
            let bytes = key_files::read(&dir, name)?;
            let text = std::str::from_utf8(&bytes).map_err(|_| wrong(name, "not a text".to_owned()))?;
            Ok(Zeroizing::new(text.to_owned()))
        };
        let certificate =
            |name: &str| Certificate::from_pem(&text(name)?).map_err(|error| wrong(name, error.to_string()));
        let file: File = serde_json::from_str(&text(IDENTITY)?).map_err(|error| wrong(IDENTITY, error.to_string()))?;
        let profile = file.profile().map_err(|cause| wrong(IDENTITY, cause))?;
        let authority_certificate = certificate(AUTHORITY_CERTIFICATE)?;
        let authority = match text(AUTHORITY_KEY) {
            Ok(key) => Some(
                Authority::from_pem(authority_certificate.clone(), &key)
                    .map_err(|error| wrong(AUTHORITY_KEY, error.to_string()))?,
            ),
            Err(IdentityError::Disk(KeyFileError::Missing { .. })) => None,
            Err(error) => return Err(error),
        };
        let key = SiteKey::from_pem(&text(SITE_KEY)?).map_err(|error| wrong(SITE_KEY, error.to_string()))?;
        let volume_key = key_files::read(&dir, VOLUME_KEY)?;
        let volume_key = <[u8; VolumeKey::BYTES]>::try_from(volume_key.as_slice())
            .map(VolumeKey::from_bytes)
            .map_err(|_| wrong(VOLUME_KEY, format!("it has {} bytes instead of 32", volume_key.len())))?;
        let certificate = certificate(SITE_CERTIFICATE)?;
        Self::new(Parts { profile, authority_certificate, authority, certificate, key, volume_key })
    }
}

/// The content of identity.json.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    volume: String,
    volume_name: String,
    site: u16,
    site_name: String,
    listen: String,
    advertise: String,
}

impl From<&Profile> for File {
    fn from(profile: &Profile) -> Self {
        Self {
            format: FORMAT,
            volume: profile.volume.to_string(),
            volume_name: profile.volume_name.clone(),
            site: profile.site.0,
            site_name: profile.site_name.clone(),
            listen: profile.listen_address.clone(),
            advertise: profile.advertised_address.clone(),
        }
    }
}

impl File {
    fn profile(self) -> Result<Profile, String> {
        if self.format != FORMAT {
            return Err(format!("it has format {}, this version knows {FORMAT}; upgrade syncline", self.format));
        }
        let volume = hex::decode(&self.volume).ok_or("the volume's id is not 32 hexadecimal digits")?;
        Ok(Profile {
            volume: VolumeId(volume),
            volume_name: self.volume_name,
            site: SiteId(self.site),
            site_name: self.site_name,
            listen_address: self.listen,
            advertised_address: self.advertise,
        })
    }
}

/// Checks the name of a volume or site; `what` says whose in the error.
pub fn check_name(what: &'static str, name: &str) -> Result<(), IdentityError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts && name.len() <= MAX_NAME_BYTES && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(IdentityError::Name { what, name: name.to_owned() })
    }
}

#[cfg(test)]
#[path = "site_identity_tests.rs"]
mod tests;
