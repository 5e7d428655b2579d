use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::identity::certificate::Authority;

const VOLUME: VolumeId = VolumeId([0xa7; 16]);

static AUTHORITY: LazyLock<Certificate> = LazyLock::new(|| authority(VOLUME));

fn authority(volume: VolumeId) -> Certificate {
    Authority::generate(volume, 1_800_000_000).expect("an authority").certificate().clone()
}

fn token() -> JoinToken {
    JoinToken {
        volume: VOLUME,
        inviter: SiteId(7),
        addresses: vec!["gpu1.example.org:7400".to_owned(), "[2001:db8::7]:7400".to_owned()],
        authority: AUTHORITY.clone(),
        secret: InviteSecret::from_bytes([0x42; 32]),
        expires_at_secs: 1_800_003_600,
    }
}

fn line() -> Zeroizing<String> {
    token().encode().expect("encodes")
}

/// A line with a right checksum over any payload.
fn whole(payload: &[u8]) -> String {
    let bytes = [payload, &checksum(payload)].concat();
    format!("syncline1.{}", URL_SAFE_NO_PAD.encode(bytes))
}

#[test]
fn a_token_survives_its_line() {
    let line = line();
    assert!(line.starts_with("syncline1."));
    assert!(line.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)), "{}", *line);
    let (read, made) = (JoinToken::decode(&line).expect("decodes"), token());
    assert_eq!(read.volume, made.volume);
    assert_eq!(read.inviter, made.inviter);
    assert_eq!(read.addresses, made.addresses);
    assert_eq!(read.authority, made.authority);
    assert_eq!(read.secret.expose(), made.secret.expose());
    assert_eq!(read.expires_at_secs, made.expires_at_secs);
}

#[test]
fn a_line_that_a_terminal_broke_is_read() {
    let line = line();
    let (a, b) = line.split_at(100);
    assert!(JoinToken::decode(&format!("  {a}\r\n  {b}\n")).is_ok());
}

#[test]
fn a_line_cut_anywhere_is_incomplete() {
    let line = line();
    for cut in "syncline".len()..line.len() {
        let result = JoinToken::decode(&line[..cut]);
        assert!(matches!(result, Err(TokenError::Damaged)), "cut at {cut}: {result:?}");
    }
}

#[test]
fn something_else_is_not_a_token() {
    for other in ["", "sync", "hello", "synclineX.abc", "syncline.conf", &"a".repeat(MAX_TOKEN_BYTES + 1)] {
        assert!(matches!(JoinToken::decode(other), Err(TokenError::NotAToken)), "{other:.40}");
    }
    assert!(matches!(JoinToken::decode("syncline2.abc"), Err(TokenError::UnknownFormat { format: 2 })));
}

#[test]
fn a_token_expires() {
    let token = token();
    assert!(token.check_expiry(1_800_003_599).is_ok());
    assert!(matches!(token.check_expiry(1_800_003_600), Err(TokenError::Expired { ago_secs: 0 })));
    assert!(matches!(token.check_expiry(1_800_003_700), Err(TokenError::Expired { ago_secs: 100 })));
}

#[test]
fn a_token_that_no_one_could_use_is_neither_made_nor_taken() {
    let refused = |change: &dyn Fn(&mut JoinToken)| {
        let mut token = token();
        change(&mut token);
        token.encode().expect_err("refused")
    };
    assert!(matches!(refused(&|token| token.addresses.clear()), TokenError::AddressCount { count: 0 }));
    let many = refused(&|token| token.addresses = vec!["a:1".to_owned(); MAX_ADDRESSES + 1]);
    assert!(matches!(many, TokenError::AddressCount { .. }));
    assert!(matches!(refused(&|token| token.inviter = SiteId(0)), TokenError::Invalid { .. }));
    let other = authority(VolumeId([1; 16]));
    assert!(matches!(refused(&|token| token.authority = other.clone()), TokenError::Invalid { .. }));
    for bad in [
        "",
        "host",
        "host:",
        "host:0",
        "host:65536",
        ":7400",
        "0.0.0.0:7400",
        "[::]:7400",
        "::1:7400",
        "a b:1",
        "http://a:1",
    ] {
        let error = refused(&|token| token.addresses = vec![bad.to_owned()]);
        assert!(matches!(error, TokenError::Address { .. }), "{bad}: {error}");
    }
}

#[test]
fn a_whole_line_with_wrong_content_is_not_called_incomplete() {
    assert!(matches!(JoinToken::decode(&whole(b"")), Err(TokenError::Invalid { .. })));
    let payload = URL_SAFE_NO_PAD.decode(&line()["syncline1.".len()..]).expect("base64");
    let payload = &payload[..payload.len() - CHECKSUM_BYTES];
    assert!(JoinToken::decode(&whole(payload)).is_ok());
    assert!(matches!(JoinToken::decode(&whole(&[payload, b"x"].concat())), Err(TokenError::Invalid { .. })));
    for cut in [15, 16, 20, 50, 60, payload.len() - 1] {
        let result = JoinToken::decode(&whole(&payload[..cut]));
        assert!(matches!(result, Err(TokenError::Invalid { .. })), "{cut}: {result:?}");
    }
}

#[test]
fn the_secret_is_not_printed() {
    let text = format!("{:?}", token());
    // Longer than chance puts into the certificate's bytes, which are printed.
    assert!(text.contains("redacted") && !text.contains("66, 66, 66, 66, 66, 66"), "{text}");
}

proptest! {
    #[test]
    fn an_altered_character_is_noticed(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_-]") {
        let line = line();
        let at = "syncline1.".len() + at.index(line.len() - "syncline1.".len());
        let altered = format!("{}{to}{}", &line[..at], &line[at + 1..]);
        prop_assume!(altered != *line);
        prop_assert!(matches!(JoinToken::decode(&altered), Err(TokenError::Damaged)));
    }

    #[test]
    fn nothing_makes_the_decoder_panic(text in "\\PC{0,200}", payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = JoinToken::decode(&text);
        let _ = JoinToken::decode(&format!("syncline1.{text}"));
        prop_assert!(JoinToken::decode(&whole(&payload)).is_err());
    }
}
