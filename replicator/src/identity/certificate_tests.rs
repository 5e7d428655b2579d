use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use super::*;

const VOLUME: VolumeId = VolumeId([0xa7; 16]);
const OTHER: VolumeId = VolumeId([0x11; 16]);

fn now_secs() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
}

fn authority(volume: VolumeId) -> Authority {
    Authority::generate(volume, now_secs()).expect("an authority")
}

fn member(authority: &Authority, site: u16) -> (Certificate, SiteKey) {
    let key = SiteKey::generate().expect("a key");
    let request = key.request().expect("a request");
    (authority.sign(&request, SiteId(site), now_secs()).expect("a certificate"), key)
}

fn private(key: &SiteKey) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(key.0.serialize_der()).expect("PKCS #8")
}

fn chain(certificate: &Certificate) -> Vec<CertificateDer<'static>> {
    vec![certificate.der().to_vec().into()]
}

fn trusting(authority: &Authority) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().der().to_vec().into()).expect("an authority");
    Arc::new(roots)
}

/// A mutual TLS 1.3 handshake in memory; what the server learns of the client.
fn handshake(
    trusted: &Authority,
    server: &(Certificate, SiteKey),
    client: &(Certificate, SiteKey),
    name: &str,
) -> Result<(VolumeId, SiteId), rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(trusting(trusted), provider.clone()).build();
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier.expect("a verifier"))
        .with_single_cert(chain(&server.0), private(&server.1))?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(trusting(trusted))
        .with_client_auth_cert(chain(&client.0), private(&client.1))?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    let name = ServerName::try_from(name.to_owned()).expect("a DNS name");
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    for _ in 0..10 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("memory");
        server.read_tls(&mut wire.as_slice()).expect("memory");
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).expect("memory");
        client.read_tls(&mut wire.as_slice()).expect("memory");
        client.process_new_packets()?;
    }
    assert!(!server.is_handshaking() && !client.is_handshaking());
    let peer = server.peer_certificates().expect("a client certificate");
    Ok(site_of_certificate(&peer[0]).expect("a site"))
}

#[test]
fn two_sites_of_a_volume_prove_themselves_to_each_other() {
    let authority = authority(VOLUME);
    let (seven, eight) = (member(&authority, 7), member(&authority, 8));
    let seen = handshake(&authority, &seven, &eight, &server_name(VOLUME, SiteId(7)));
    assert_eq!(seen, Ok((VOLUME, SiteId(8))));
}

#[test]
fn another_site_another_authority_and_a_foreign_key_are_refused() {
    let authority = authority(VOLUME);
    let (seven, eight) = (member(&authority, 7), member(&authority, 8));
    let name = server_name(VOLUME, SiteId(7));
    assert!(handshake(&authority, &eight, &seven, &name).is_err(), "site 8 answered for site 7");

    let impostor = self::authority(VOLUME);
    assert!(handshake(&authority, &seven, &member(&impostor, 8), &name).is_err(), "a client of another authority");
    assert!(handshake(&authority, &member(&impostor, 7), &eight, &name).is_err(), "a server of another authority");

    let mixed = (seven.0.clone(), SiteKey::generate().expect("a key"));
    assert!(handshake(&authority, &mixed, &eight, &name).is_err(), "a key that is not the certificate's");
}

#[test]
fn a_site_can_not_admit_others() {
    let authority = authority(VOLUME);
    let (certificate, key) = member(&authority, 7);
    let key_pem = key.to_pem();
    assert!(matches!(Authority::from_pem(certificate, &key_pem), Err(CertificateError::Kind { .. })));
}

#[test]
fn a_certificate_says_who_the_site_is_and_until_when() {
    let authority = Authority::generate(VOLUME, 1_800_000_000).expect("an authority");
    let request = SiteKey::generate().and_then(|key| key.request()).expect("a request");
    let certificate = authority.sign(&request, SiteId(u16::MAX), 1_800_000_000).expect("a certificate");
    assert_eq!(site_of_certificate(certificate.der()).expect("a site"), (VOLUME, SiteId(u16::MAX)));
    assert_eq!(certificate.expires_at_secs().expect("a time"), 1_800_000_000 + 5 * 365 * 86_400);
    let authority_ends = authority.certificate().expires_at_secs().expect("a time");
    assert_eq!(authority_ends, 1_800_000_000 + 20 * 365 * 86_400);
    assert!(authority.sign(&request, SiteId(0), 1_800_000_000).is_err());
    assert!(Authority::generate(VOLUME, u64::MAX).is_ok(), "no time makes it panic");
}

#[test]
fn an_authority_and_a_site_are_not_taken_for_each_other() {
    let authority = authority(VOLUME);
    let (site, _) = member(&authority, 7);
    let authority = authority.certificate();
    assert_eq!(volume_of_authority(authority.der()).expect("a volume"), VOLUME);
    assert!(matches!(site_of_certificate(authority.der()), Err(CertificateError::Kind { .. })));
    assert!(matches!(volume_of_authority(site.der()), Err(CertificateError::Kind { .. })));
}

#[test]
fn an_authority_with_the_name_of_a_site_is_no_site() {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![server_name(VOLUME, SiteId(7))]).expect("params");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let made = params.self_signed(&key).expect("made");
    assert!(matches!(site_of_certificate(made.der()), Err(CertificateError::Kind { .. })));
}

/// A certificate with these names, as another program could have the authority's key sign it.
fn named(names: &[&str]) -> Vec<u8> {
    let key = KeyPair::generate().expect("a key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).and_then(|params| params.self_signed(&key)).expect("made").der().to_vec()
}

#[test]
fn only_the_exact_name_is_a_site() {
    let good = server_name(VOLUME, SiteId(7));
    assert_eq!(site_of_certificate(&named(&[&good])).expect("a site"), (VOLUME, SiteId(7)));
    let volume = VOLUME.to_string();
    for bad in [
        format!("site-07.{volume}.syncline"),
        format!("site-+7.{volume}.syncline"),
        format!("site-0.{volume}.syncline"),
        format!("site-65536.{volume}.syncline"),
        format!("site-7.{}.syncline", volume.to_uppercase()),
        format!("site-7.{}.syncline", &volume[2..]),
        format!("site-7.{volume}.syncline.org"),
        format!("x.site-7.{volume}.syncline"),
        format!("{volume}.syncline"),
    ] {
        assert!(site_of_certificate(&named(&[&bad])).is_err(), "{bad}");
    }
    assert!(site_of_certificate(&named(&[&good, &server_name(VOLUME, SiteId(8))])).is_err(), "two names");
    assert!(site_of_certificate(&named(&[])).is_err(), "no name");
}

#[test]
fn the_authority_takes_nothing_but_the_key_from_a_request() {
    let authority = authority(VOLUME);
    let key = SiteKey::generate().expect("a key");
    let mut params = CertificateParams::new(vec![server_name(VOLUME, SiteId(1))]).expect("params");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let greedy = params.serialize_request(&key.0).expect("a request").der().to_vec();
    let certificate = authority.sign(&greedy, SiteId(9), now_secs()).expect("a certificate");
    assert_eq!(site_of_certificate(certificate.der()).expect("a site"), (VOLUME, SiteId(9)));
    key.check(&certificate).expect("its key");
}

#[test]
fn a_request_that_its_key_did_not_sign_or_of_another_kind_is_refused() {
    let authority = authority(VOLUME);
    let mut request = SiteKey::generate().and_then(|key| key.request()).expect("a request");
    let last = request.len() - 1;
    request[last] ^= 1;
    assert!(matches!(authority.sign(&request, SiteId(2), now_secs()), Err(CertificateError::Request(_))));

    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let request = CertificateParams::default().serialize_request(&key).expect("a request");
    assert!(matches!(authority.sign(request.der(), SiteId(2), now_secs()), Err(CertificateError::Request(_))));
}

#[test]
fn serial_numbers_do_not_repeat() {
    let authority = authority(VOLUME);
    let key = SiteKey::generate().expect("a key");
    let serial = || {
        let request = key.request().expect("a request");
        let made = authority.sign(&request, SiteId(2), 1_800_000_000).expect("a certificate");
        parse(made.der()).expect("parses").raw_serial().to_vec()
    };
    assert_ne!(serial(), serial());
}

#[test]
fn everything_survives_its_pem_text() {
    let authority = authority(VOLUME);
    let (certificate, key) = member(&authority, 7);
    assert_eq!(Certificate::from_pem(&certificate.to_pem()).expect("a certificate"), certificate);
    let read = SiteKey::from_pem(&key.to_pem()).expect("a key");
    read.check(&certificate).expect("the same key");
    let read = Authority::from_pem(authority.certificate().clone(), &authority.key_pem()).expect("an authority");
    let (certificate, _) = member(&read, 8);
    certificate.check_signed_by(authority.certificate()).expect("signed by the same authority");
    let other = self::authority(OTHER);
    assert!(matches!(certificate.check_signed_by(other.certificate()), Err(CertificateError::NotSigned)));
    let mixed = Authority::from_pem(authority.certificate().clone(), &other.key_pem());
    assert!(matches!(mixed, Err(CertificateError::KeyMismatch)));
    assert!(Certificate::from_pem(&key.to_pem()).is_err(), "a key is no certificate");
    assert!(!format!("{key:?} {authority:?}").contains("BEGIN"));
}

proptest! {
    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,200}") {
        prop_assert!(site_of_certificate(&bytes).is_err());
        prop_assert!(volume_of_authority(&bytes).is_err());
        prop_assert!(Certificate::from_pem(&text).is_err());
        prop_assert!(SiteKey::from_pem(&text).is_err());
    }
}

#[test]
fn a_changed_certificate_never_makes_the_parsers_panic() {
    let (certificate, _) = member(&authority(VOLUME), 7);
    for at in 0..certificate.der().len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = certificate.der().to_vec();
            changed[at] ^= flip;
            let _ = site_of_certificate(&changed);
            assert!(site_of_certificate(&changed[..at]).is_err());
        }
    }
}
