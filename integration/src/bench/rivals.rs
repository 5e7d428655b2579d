//! What the best rivals reached on the same work, on a machine of the same kind (see `docs/PERFORMANCE.md`).

/// The best rival's figure for a measure of the report at full size (a large file has 1 GiB, small files are 10,000), or "-" where none was measured.
pub fn best(work: &str, measure: &str) -> &'static str {
    match (work, measure) {
        ("large file", "written") => "0.86 s Syncthing; synchronous 2.9 s GlusterFS",
        ("large file", "identical at B") => "7.8 s Syncthing; synchronous 2.9 s GlusterFS",
        ("large file", "CPU, both daemons") => "6.0 s/GiB Syncthing; synchronous 8.3 s/GiB GlusterFS",
        ("small files", "written") => "0.47 s lsyncd; synchronous 16.8 s MooseFS",
        ("small files", "identical at B") => "2.2 s lsyncd; synchronous 16.8 s MooseFS",
        ("append + fsync", "p50") => "synchronous 0.67 ms MooseFS",
        ("append + fsync", "p99") => "synchronous 1.9 ms GlusterFS",
        ("lag", "p50") => "561 ms lsyncd; synchronous 1.9 ms GlusterFS",
        ("lag", "p99") => "1065 ms lsyncd; synchronous 3.1 ms GlusterFS",
        ("lag", "max") => "1151 ms lsyncd; synchronous 3.3 ms GlusterFS",
        ("read large file", "cold") => "885 MiB/s GlusterFS",
        ("read large file", "warm") => "4111 MiB/s GlusterFS",
        ("read small files", "cold") => "6.0 s GlusterFS",
        ("read small files", "warm") => "3.9 s GlusterFS",
        ("stat small files", "cold") => "1.03 s GlusterFS",
        ("stat small files", "warm") => "0.29 s GlusterFS",
        _ => "-",
    }
}
