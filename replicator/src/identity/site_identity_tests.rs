use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

const NOW_SECS: u64 = 1_800_000_000;

fn profile(site: u16) -> Profile {
    Profile {
        volume: VolumeId([0xa7; 16]),
        volume_name: "datasets".to_owned(),
        site: SiteId(site),
        site_name: "gpu-1".to_owned(),
        listen_address: "0.0.0.0:7400".to_owned(),
        advertised_address: "gpu1.example.org:7400".to_owned(),
    }
}

fn found() -> SiteIdentity {
    SiteIdentity::found(profile(1), VolumeKey::from_bytes([0x42; 32]), NOW_SECS).expect("founded")
}

fn saved() -> (tempfile::TempDir, SiteIdentity) {
    let (store, identity) = (tempfile::tempdir().expect("a directory"), found());
    identity.save(store.path()).expect("saved");
    (store, identity)
}

/// The parts of a second site, as they are after a join.
fn joined(first: &SiteIdentity) -> Parts {
    let key = SiteKey::generate().expect("a key");
    let authority = first.authority().expect("the first site's");
    let certificate = authority.sign(&key.request().expect("a request"), SiteId(2), NOW_SECS).expect("signed");
    Parts {
        profile: profile(2),
        authority_certificate: first.authority_certificate().clone(),
        authority: None,
        certificate,
        key,
        volume_key: first.volume_key().clone(),
    }
}

#[test]
fn a_founded_identity_survives_its_directory() {
    let (store, identity) = saved();
    let loaded = SiteIdentity::load(store.path()).expect("loaded");
    assert_eq!(loaded.profile(), identity.profile());
    assert_eq!(loaded.certificate(), identity.certificate());
    assert_eq!(loaded.authority_certificate(), identity.authority_certificate());
    assert_eq!(loaded.volume_key().expose(), identity.volume_key().expose());
    assert_eq!(*loaded.key().to_pem(), *identity.key().to_pem());
    let keys = [&loaded, &identity].map(|identity| identity.authority().expect("an authority").key_pem());
    assert_eq!(*keys[0], *keys[1]);
}

#[test]
fn a_joined_identity_survives_its_directory() {
    let store = tempfile::tempdir().expect("a directory");
    let identity = SiteIdentity::new(joined(&found())).expect("fits");
    identity.save(store.path()).expect("saved");
    let loaded = SiteIdentity::load(store.path()).expect("loaded");
    assert_eq!(loaded.profile(), identity.profile());
    assert!(loaded.authority().is_none());
}

#[test]
fn only_the_owner_can_read_any_of_it() {
    let (store, _) = saved();
    let dir = identity_dir(store.path());
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o7777;
    assert_eq!(mode(&dir), 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        names.push(path.file_name().expect("a name").to_string_lossy().into_owned());

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        let error = SiteIdentity::load(store.path()).expect_err("refused");
        assert!(matches!(error, IdentityError::Disk(KeyFileError::Exposed { mode: 0o644, .. })), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
    }
    names.sort();
    assert_eq!(names, ["ca.key", "ca.pem", "identity.json", "site.key", "site.pem", "volume.key"]);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o750)).expect("chmod");
    assert!(matches!(
        SiteIdentity::load(store.path()),
        Err(IdentityError::Disk(KeyFileError::Exposed { mode: 0o750, wanted: 0o700, .. }))
    ));
}

#[test]
fn an_identity_is_never_overwritten() {
    let (store, identity) = saved();
    assert!(matches!(found().save(store.path()), Err(IdentityError::Exists { .. })));
    let loaded = SiteIdentity::load(store.path()).expect("loaded");
    assert_eq!(loaded.certificate(), identity.certificate());
}

#[test]
fn an_empty_store_says_what_to_run() {
    let store = tempfile::tempdir().expect("a directory");
    let error = SiteIdentity::load(store.path()).expect_err("none");
    assert!(matches!(error, IdentityError::Missing { .. }));
    assert!(error.to_string().contains("syncline init"), "{error}");
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let first = found();
    let refused = |change: &dyn Fn(&mut Parts)| {
        let mut parts = joined(&first);
        change(&mut parts);
        SiteIdentity::new(parts).expect_err("refused")
    };
    let stranger = found();
    assert!(matches!(refused(&|parts| parts.profile.site = SiteId(3)), IdentityError::Mismatch(_)));
    assert!(matches!(refused(&|parts| parts.profile.volume = VolumeId([1; 16])), IdentityError::Mismatch(_)));
    let error = refused(&|parts| parts.authority_certificate = stranger.authority_certificate().clone());
    assert!(matches!(error, IdentityError::Certificate(CertificateError::NotSigned)), "{error}");
    let error = refused(&|parts| parts.key = SiteKey::generate().expect("a key"));
    assert!(matches!(error, IdentityError::Certificate(CertificateError::KeyMismatch)), "{error}");
    let error = refused(&|parts| {
        let key = stranger.authority().expect("an authority").key_pem();
        parts.authority = Authority::from_pem(stranger.authority_certificate().clone(), &key).ok();
    });
    assert!(matches!(error, IdentityError::Mismatch(_)), "{error}");
}

#[test]
fn a_damaged_file_is_named() {
    for name in [IDENTITY, AUTHORITY_CERTIFICATE, AUTHORITY_KEY, SITE_CERTIFICATE, SITE_KEY, VOLUME_KEY] {
        let (store, _) = saved();
        key_files::write(&identity_dir(store.path()), name, b"\xff garbage").expect("written");
        let error = SiteIdentity::load(store.path()).expect_err("refused");
        assert!(matches!(&error, IdentityError::File { path, .. } if path.ends_with(name)), "{name}: {error}");
    }
    for name in [IDENTITY, AUTHORITY_CERTIFICATE, SITE_CERTIFICATE, SITE_KEY, VOLUME_KEY] {
        let (store, _) = saved();
        fs::remove_file(identity_dir(store.path()).join(name)).expect("removed");
        let error = SiteIdentity::load(store.path()).expect_err("refused");
        assert!(error.to_string().contains(name), "{name}: {error}");
    }
}

#[test]
fn a_later_format_is_not_guessed_at() {
    let (store, _) = saved();
    let dir = identity_dir(store.path());
    let text = fs::read_to_string(dir.join(IDENTITY)).expect("a text");
    let later = text.replace("\"format\": 1", "\"format\": 2");
    assert_ne!(later, text);
    key_files::write(&dir, IDENTITY, later.as_bytes()).expect("written");
    let error = SiteIdentity::load(store.path()).expect_err("refused");
    assert!(error.to_string().contains("format 2"), "{error}");
}

#[test]
fn names_are_easy_to_type() {
    for good in ["a", "gpu-1", "Site_2.rack3", "0", &"x".repeat(MAX_NAME_BYTES)] {
        assert!(check_name("the site's name", good).is_ok(), "{good}");
    }
    for bad in ["", "-a", ".a", "a b", "a/b", "ä", "a\n", &"x".repeat(MAX_NAME_BYTES + 1)] {
        assert!(check_name("the site's name", bad).is_err(), "{bad}");
    }
}

#[test]
fn secrets_are_not_printed() {
    let text = format!("{:?}", found());
    assert!(!text.contains("66, 66") && !text.contains("BEGIN"), "{text}");
}
