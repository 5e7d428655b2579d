#![allow(clippy::unwrap_used)]

use proto::ids::Lane;
use replicator::config::{Action, Days};

use super::*;

const GOOD: &str = r#"volume = "data"
site = "berlin"
store = "/var/lib/syncline/data"
listen = "127.0.0.1:7400"
"#;

fn good() -> Config {
    Config::parse(Path::new("f.toml"), GOOD).unwrap()
}

/// The message for `GOOD` with more lines below.
fn complaint(more: &str) -> String {
    Config::parse(Path::new("f.toml"), &format!("{GOOD}{more}")).unwrap_err().to_string()
}

/// The message for `GOOD` with `from` replaced.
fn complaint_with(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from));
    Config::parse(Path::new("f.toml"), &GOOD.replace(from, to)).unwrap_err().to_string()
}

#[test]
fn necessary_keys_are_enough() {
    let config = good();
    assert_eq!(config.advertise, "127.0.0.1:7400");
    assert_eq!(config.flush_interval, Duration::from_millis(20));
    assert_eq!(config.journal_file_bytes, 64 << 20);
    assert_eq!(config.log_level, tracing::Level::INFO);
}

#[test]
fn every_key_is_read() {
    let more = r#"advertise = "gpu1.example.org:7000"
metrics = "[::1]:9400"
[journal]
file_size = "8MiB"
flush_interval = "5ms"
[clock]
max_drift = "10s"
[mount]
threads = 3
allow_other = false
passthrough = false
[replication]
window = "2MiB"
[lanes]
weights = { high = 9, normal = 3, bulk = 2 }
[[limit]]
rate = "1Gbit"
[[limit]]
peer = "tokyo"
lane = "bulk"
rate = "200Mbit"
[[schedule]]
lane = "bulk"
from = "22:00"
to = "06:00"
rate = "100MB"
[[schedule]]
lane = "bulk"
from = "06:00"
to = "22:00"
days = ["sat", "sun"]
pause = true
[log]
level = "debug"
"#;
    let config = Config::parse(Path::new("f.toml"), &format!("{GOOD}{more}")).unwrap();
    let [night, morning] = ["22:00", "06:00"].map(|time| time.parse().unwrap());
    let expected = Config {
        advertise: "gpu1.example.org:7000".into(),
        journal_file_bytes: 8 << 20,
        flush_interval: Duration::from_millis(5),
        max_clock_drift: Duration::from_secs(10),
        threads: Some(3),
        allow_other: Some(false),
        passthrough: false,
        window_bytes: 2 << 20,
        metrics: Some("[::1]:9400".parse().unwrap()),
        weights: Weights { high: 9, normal: 3, bulk: 2 },
        limits: vec![
            LimitRule { peer: None, lane: None, bytes_per_second: Some(125_000_000) },
            LimitRule { peer: Some("tokyo".into()), lane: Some(Lane::Bulk), bytes_per_second: Some(25_000_000) },
        ],
        schedules: vec![
            Schedule {
                lane: Lane::Bulk,
                from: night,
                to: morning,
                days: Days::ALL,
                action: Action::Limit { bytes_per_second: 100_000_000 },
            },
            Schedule {
                lane: Lane::Bulk,
                from: morning,
                to: night,
                days: Days::named(["sat", "sun"]).unwrap(),
                action: Action::Pause,
            },
        ],
        log_level: tracing::Level::DEBUG,
        ..good()
    };
    assert_eq!(config, expected);
}

#[test]
fn the_written_file_reads_as_the_same() {
    let config = Config { store: PathBuf::from("/srv/it's \"odd\"\\"), ..good() };
    let text = file::text(&config).unwrap();
    assert_eq!(Config::parse(Path::new("f.toml"), &text).unwrap(), config);
}

#[test]
fn the_defaults_shown_in_the_written_file_are_valid_and_are_the_defaults() {
    let text = file::text(&good()).unwrap();
    let lines = text.lines().map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line));
    let uncommented: Vec<&str> = lines.collect();
    assert!(uncommented.contains(&"flush_interval = \"20ms\""));
    let read = Config::parse(Path::new("f.toml"), &uncommented.join("\n")).unwrap();
    // These follow the host when they are absent, or are off; the file shows a value that suits most.
    let metrics = Some("127.0.0.1:9400".parse().unwrap());
    assert_eq!(read, Config { threads: Some(4), allow_other: Some(true), metrics, ..good() });
}

fn schedule(from: &str, to: &str, more: &str) -> String {
    format!("[[schedule]]\nlane = \"bulk\"\nfrom = \"{from}\"\nto = \"{to}\"\n{more}\n")
}

#[test]
fn wrong_values_are_named_with_their_place() {
    for (more, expected) in [
        ("[journal]\nflush_interval = \"20\"\n", "f.toml:6:18: `20` needs a unit"),
        ("[journal]\nflush_interval = \"20s\"\n", "f.toml:6:18: flush_interval: 20s is outside 1ms to 10s"),
        ("[journal]\n\n  file_size = \"1KiB\"\n", "f.toml:7:15: file_size: 1KiB is outside 1MiB to 4GiB"),
        ("[mount]\nthreads = \"4\"\n", "f.toml:6:11: invalid type: string \"4\", expected usize"),
        ("[mount]\nthreads = 0\n", "f.toml:6:11: threads: 0 is outside 1 to 256"),
        ("[log]\nlevel = \"loud\"\n", "f.toml:6:9: level: `loud` is none of error, warn, info, debug, trace"),
        ("advertise = \"0.0.0.0:7400\"\n", "f.toml:5:13: advertise: `0.0.0.0:7400` is every address of this host"),
        ("advertise = \"host\"\n", "f.toml:5:13: advertise: `host` has no port"),
        ("[log\n", "f.toml:5:5: "),
        ("metrics = \"9400\"\n", "f.toml:5:11: metrics: `9400` is no address to listen at"),
        ("metrics = \"127.0.0.1:0\"\n", "f.toml:5:11: metrics: `127.0.0.1:0` is no address"),
        ("[lanes.weights]\nbulk = 0\n", "f.toml:6:8: bulk: 0 is outside 1 to 1000"),
        ("[lanes.weights]\nsync = 1\n", "f.toml:6:1: unknown key `sync`"),
        ("[[limit]]\nrate = \"200\"\n", "f.toml:6:8: `200` needs a unit: one of B, kbit, kB"),
        ("[[limit]]\nrate = \"0MB\"\n", "f.toml:6:8: `0MB` is no rate: to send nothing, pause"),
        ("[[limit]]\nlane = \"fast\"\nrate = \"1MB\"\n", "f.toml:6:8: there is no lane `fast`, but sync, high"),
        ("[[limit]]\npeer = \"\"\nrate = \"1MB\"\n", "f.toml:6:8: peer: `` is no name"),
        (
            "[[limit]]\nrate = \"1MB\"\n[[limit]]\nrate = \"2MB\"\n",
            "f.toml:8:8: rate: there is another [[limit]] above for the same peer",
        ),
        (
            &schedule("22", "06:00", "pause = true"),
            "f.toml:7:8: from: \"22\" is not a time of day; write it like 22:30",
        ),
        (&schedule("22:00", "24:00", "pause = true"), "f.toml:8:6: to: \"24:00\" is not a time of day"),
        (&schedule("22:00", "06:00", ""), "f.toml:5:1: schedule: what is to hold?"),
        (&schedule("22:00", "06:00", "pause = false"), "f.toml:9:9: pause: only `true`"),
        (&schedule("22:00", "06:00", "rate = '1MB'\npause = true"), "f.toml:10:9: pause: there is a rate, too"),
        (&schedule("22:00", "06:00", "pause = true\ndays = []"), "f.toml:10:8: days: name some"),
        (&schedule("22:00", "06:00", "pause = true\ndays = ['today']"), "f.toml:10:8: days: \"today\" is not a day"),
        ("[[schedule]]\nfrom = '22:00'\nto = '23:00'\npause = true\n", "f.toml:5:1: missing field `lane`"),
    ] {
        let message = complaint(more);
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn unknown_keys_are_refused_with_the_nearest() {
    assert_eq!(complaint("advertize = \"h:1\"\n"), "f.toml:5:1: unknown key `advertize`; did you mean `advertise`?");
    assert_eq!(complaint("[journal]\nfilesize = 1\n"), "f.toml:6:1: unknown key `filesize`; did you mean `file_size`?");
    assert_eq!(complaint("[jurnal]\n"), "f.toml:5:2: unknown key `jurnal`; did you mean `journal`?");
    let message = complaint("[journal]\ncompletely_different = 1\n");
    assert_eq!(message, "f.toml:6:1: unknown key `completely_different`; valid here: file_size, flush_interval");
}

#[test]
fn necessary_keys_are_missed() {
    assert!(complaint_with("volume = \"data\"\n", "").contains("missing field `volume`"));
    let message = complaint_with("127.0.0.1:7400", "0.0.0.0:7400");
    assert!(message.starts_with("f.toml:4:10: advertise: 0.0.0.0:7400 is every address of this host"), "{message}");
}

#[test]
fn names_paths_and_addresses_are_checked() {
    for (from, to) in [
        ("\"data\"", "\"\""),
        ("\"data\"", "\"a b\""),
        ("berlin", "../berlin"),
        ("/var/lib", "var/lib"),
        ("/var/lib", "/var/../lib"),
        ("127.0.0.1:7400", "localhost:7400"),
        ("127.0.0.1:7400", "127.0.0.1"),
        ("127.0.0.1:7400", "127.0.0.1:0"),
    ] {
        let message = complaint_with(from, to);
        assert!(message.starts_with("f.toml:"), "{to}: {message}");
    }
    let listen = "127.0.0.1:1".parse().unwrap();
    for right in ["10.0.0.1:1", "[fe80::1]:7400", "gpu1:7400", "gpu1.example.org.:65535"] {
        assert_eq!(check_advertise(Some(right), listen), Ok(right.to_owned()));
    }
    for wrong in ["", ":1", "fe80::1:7400", "[::]:1", "a b:1", "gpu1:0", "gpu1:65536", "gpu1:", "-a:1", "[fe80::1]"] {
        assert!(check_advertise(Some(wrong), listen).is_err(), "{wrong}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let message = Config::load(Path::new("/nonexistent/f.toml")).unwrap_err().to_string();
    assert!(message.starts_with("cannot read the configuration /nonexistent/f.toml: No such file"), "{message}");
}
