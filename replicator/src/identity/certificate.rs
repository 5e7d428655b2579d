//! The volume's certificate authority, and the key and certificate by which a site proves that it is a site of the volume.
//!
//! ```text
//! authority    DNS name        <volume, 32 hex digits>.syncline     signs certificates only, 20 years
//! site         DNS name site-7.<volume, 32 hex digits>.syncline     server and client, 5 years
//! ```
//!
//! Keys are ECDSA P-256: every TLS library takes them. The names are not looked up anywhere; the ordinary TLS verifier compares them, so
//! a client that asks for `site-7…` gets site 7 or an error. A site's private key never leaves it: it sends a signing request, of
//! which the authority takes the public key alone; site and volume are the authority's to say.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto::ids::{SiteId, VolumeId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use sha2::{Digest, Sha256};
use std::time::Duration;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use zeroize::Zeroizing;

use super::hex;

const AUTHORITY_DAYS: u64 = 20 * 365;
const SITE_DAYS: u64 = 5 * 365;
/// Certificates are valid from an hour before they are made, for peers whose clocks are behind.
const BACKDATE_SECS: u64 = 3600;
/// The longest certificate or signing request that is looked at, in bytes; ours have about 500.
const MAX_DER_BYTES: usize = 16 << 10;
/// The latest time that is put into a certificate, in Unix seconds (the year 8307), so that no sum leaves the calendar.
const MAX_SECS: u64 = 200_000_000_000;

/// Why a key or certificate could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The bytes are no certificate.
    #[error("not a certificate: {0}")]
    Unreadable(String),
    /// The text is no private key of the right kind.
    #[error("not an ECDSA P-256 private key in PEM: {0}")]
    Key(rcgen::Error),
    /// The bytes are no signing request of the right kind, or it isn't signed by the key that it asks for.
    #[error("not a valid signing request: {0}")]
    Request(String),
    /// It is valid but not of this kind.
    #[error("the certificate is not {expected}")]
    Kind {
        /// What was needed.
        expected: &'static str,
    },
    /// Site 0 does not exist.
    #[error("site 0 does not exist; sites are numbered from 1")]
    SiteZero,
    /// The private key is not the certificate's.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// The certificate was not signed by the authority.
    #[error("the certificate was not signed by this volume's authority")]
    NotSigned,
    /// The library could not make it.
    #[error("could not make a key or certificate: {0}")]
    Make(rcgen::Error),
}

/// A certificate. What it claims is checked by who uses it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    der: Vec<u8>,
}

impl Certificate {
    /// Takes a certificate's DER bytes, if they are one.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        parse(der)?;
        Ok(Self { der: der.to_vec() })
    }

    /// Takes the first certificate in a PEM text.
    pub fn from_pem(pem: &str) -> Result<Self, CertificateError> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
            .map_err(|error| CertificateError::Unreadable(error.to_string()))?;
        if pem.label != "CERTIFICATE" {
            return Err(CertificateError::Unreadable(format!("it is a {:?}", pem.label)));
        }
        Self::from_der(&pem.contents)
    }

    /// Its DER bytes.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// It as PEM text.
    pub fn to_pem(&self) -> String {
        let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(&self.der);
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(64));
            pem.push_str(line);
            pem.push('\n');
            rest = after;
        }
        pem.push_str("-----END CERTIFICATE-----\n");
        pem
    }

    /// When it ends, in Unix seconds.
    pub fn expires_at_secs(&self) -> Result<u64, CertificateError> {
        let secs = parse(&self.der)?.validity().not_after.timestamp();
        Ok(u64::try_from(secs).unwrap_or(0))
    }

    /// Whether the authority with the certificate `authority` signed this one. Says nothing about time.
    pub fn check_signed_by(&self, authority: &Certificate) -> Result<(), CertificateError> {
        let (authority, this) = (parse(&authority.der)?, parse(&self.der)?);
        this.verify_signature(Some(authority.public_key())).map_err(|_| CertificateError::NotSigned)
    }
}

/// The name that a site's certificate proves, and that a TLS client of that site must ask for.
pub fn server_name(volume: VolumeId, site: SiteId) -> String {
    format!("site-{site}.{}", authority_name(volume))
}

fn authority_name(volume: VolumeId) -> String {
    format!("{volume}.syncline")
}

/// The volume and site that a site's certificate names. The certificate must have been verified against the volume's
/// authority, as TLS does: this only reads it.
///
/// # Errors
/// When it is no certificate, or is not one as [`Authority::sign`] makes them: of an authority, with other or several names.
pub fn site_of_certificate(der: &[u8]) -> Result<(VolumeId, SiteId), CertificateError> {
    let wrong = CertificateError::Kind { expected: "a site's certificate" };
    let certificate = parse(der)?;
    let Some(name) = only_name(&certificate).filter(|_| !certificate.is_ca()) else { return Err(wrong) };
    let named = name.strip_prefix("site-").and_then(|rest| {
        let (site, rest) = rest.split_once('.')?;
        let volume = hex::decode(rest.strip_suffix(".syncline")?)?;
        Some((VolumeId(volume), SiteId(site.parse().ok()?)))
    });
    // Comparing with the name as it is written refuses every other spelling of a number.
    named.filter(|(volume, site)| site.0 != 0 && server_name(*volume, *site) == name).ok_or(wrong)
}

/// The volume whose authority the certificate names.
pub fn volume_of_authority(der: &[u8]) -> Result<VolumeId, CertificateError> {
    let wrong = CertificateError::Kind { expected: "a volume authority's certificate" };
    let certificate = parse(der)?;
    let Some(name) = only_name(&certificate).filter(|_| certificate.is_ca()) else { return Err(wrong) };
    name.strip_suffix(".syncline").and_then(hex::decode).map(VolumeId).ok_or(wrong)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    let unreadable = |what: &str| CertificateError::Unreadable(what.to_owned());
    if der.len() > MAX_DER_BYTES {
        return Err(unreadable("too long"));
    }
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(unreadable("bytes follow it")),
        Err(error) => Err(unreadable(&error.to_string())),
    }
}

fn only_name<'a>(certificate: &X509Certificate<'a>) -> Option<&'a str> {
    match certificate.subject_alternative_name().ok()??.value.general_names[..] {
        [GeneralName::DNSName(name)] => Some(name),
        _ => None,
    }
}

/// A site's private key.
pub struct SiteKey(KeyPair);

impl SiteKey {
    /// A new key, from the operating system's randomness.
    pub fn generate() -> Result<Self, CertificateError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self).map_err(CertificateError::Make)
    }

    /// The key in a PEM text (PKCS #8).
    pub fn from_pem(pem: &str) -> Result<Self, CertificateError> {
        key_from_pem(pem).map(Self)
    }

    /// The key as PEM text (PKCS #8): for its file, and for TLS.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    /// A signing request for this key in DER. It names nothing: who the site is, the authority says.
    pub fn request(&self) -> Result<Vec<u8>, CertificateError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.0).map_err(CertificateError::Make)?;
        Ok(request.der().to_vec())
    }

    /// Whether `certificate` is for this key.
    pub fn check(&self, certificate: &Certificate) -> Result<(), CertificateError> {
        check_key(&self.0, certificate)
    }
}

/// Whoever has this can admit sites to the volume.
pub struct Authority {
    volume: VolumeId,
    certificate: Certificate,
    key: KeyPair,
}

impl Authority {
    /// A new volume's authority, from the operating system's randomness. `now_secs`: Unix seconds.
    pub fn generate(volume: VolumeId, now_secs: u64) -> Result<Self, CertificateError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CertificateError::Make)?;
        let common_name = format!("syncline volume {volume}");
        let mut params = params(authority_name(volume), &common_name, now_secs, AUTHORITY_DAYS)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let made = params.self_signed(&key).map_err(CertificateError::Make)?;
        Ok(Self { volume, certificate: Certificate::from_der(made.der())?, key })
    }

    /// The authority of a certificate and its key in PEM.
    pub fn from_pem(certificate: Certificate, key_pem: &str) -> Result<Self, CertificateError> {
        let key = key_from_pem(key_pem)?;
        check_key(&key, &certificate)?;
        Ok(Self { volume: volume_of_authority(certificate.der())?, certificate, key })
    }

    /// The volume that it admits sites to.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Its certificate: what every site trusts, and nothing else.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Its private key as PEM text (PKCS #8).
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.key.serialize_pem())
    }

    /// A certificate for the key of a signing request (DER), which then proves to be `site`. Of the request, only the key is taken, and
    /// it must have signed the request. `now_secs`: Unix seconds.
    pub fn sign(&self, request: &[u8], site: SiteId, now_secs: u64) -> Result<Certificate, CertificateError> {
        if site.0 == 0 {
            return Err(CertificateError::SiteZero);
        }
        if request.len() > MAX_DER_BYTES {
            return Err(CertificateError::Request("too long".to_owned()));
        }
        let refused = |error: rcgen::Error| CertificateError::Request(error.to_string());
        let asked = CertificateSigningRequestParams::from_der(&request.into()).map_err(refused)?;
        if asked.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(CertificateError::Request("the key is not ECDSA P-256".to_owned()));
        }
        let common_name = format!("syncline site {site}");
        let mut params = params(server_name(self.volume, site), &common_name, now_secs, SITE_DAYS)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial_number(request, site, now_secs));

        let authority = self.certificate.der.as_slice().into();
        let issuer = Issuer::from_ca_cert_der(&authority, &self.key).map_err(CertificateError::Make)?;
        let made = params.signed_by(&asked.public_key, &issuer).map_err(CertificateError::Make)?;
        Certificate::from_der(made.der())
    }
}

fn params(name: String, common_name: &str, now_secs: u64, days: u64) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::new(vec![name]).map_err(CertificateError::Make)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now_secs = now_secs.min(MAX_SECS);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now_secs.saturating_sub(BACKDATE_SECS));
    params.not_after = epoch + Duration::from_secs(now_secs + days * 24 * 3600);
    Ok(params)
}

/// Differs for each request, whose signature is random: an authority must not use a number twice.
fn serial_number(request: &[u8], site: SiteId, now_secs: u64) -> SerialNumber {
    let hash = Sha256::new()
        .chain_update(request)
        .chain_update(site.0.to_le_bytes())
        .chain_update(now_secs.to_le_bytes())
        .finalize();
    let mut number = hash[..16].to_vec();
    number[0] &= 0x7f; // positive
    SerialNumber::from(number)
}

fn key_from_pem(pem: &str) -> Result<KeyPair, CertificateError> {
    KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256).map_err(CertificateError::Key)
}

fn check_key(key: &KeyPair, certificate: &Certificate) -> Result<(), CertificateError> {
    let parsed = parse(&certificate.der)?;
    let same = parsed.public_key().subject_public_key.data[..] == *key.public_key_raw();
    if same { Ok(()) } else { Err(CertificateError::KeyMismatch) }
}

impl std::fmt::Debug for SiteKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SiteKey(redacted)")
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority(volume {}, key redacted)", self.volume)
    }
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod tests;
