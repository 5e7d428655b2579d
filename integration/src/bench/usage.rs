//! What a process has taken, from `/proc`.

use std::fs;

/// Field numbers in `/proc/PID/stat`, counted behind the name, which may hold spaces.
const USER_TICKS: usize = 11;
const SYSTEM_TICKS: usize = 12;

/// Processor time since its start, in seconds; none when it is gone.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = ticks(&stat)?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn ticks(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(USER_TICKS)?.parse::<u64>().ok()? + fields.get(SYSTEM_TICKS)?.parse::<u64>().ok()?)
}

/// The most memory that it has had resident, in bytes; none when it is gone.
pub fn peak_resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_this_process() {
        let before = cpu_seconds(std::process::id()).unwrap();
        let start = std::time::Instant::now();
        while start.elapsed().as_millis() < 60 {}
        assert!(cpu_seconds(std::process::id()).unwrap() > before);
        assert!(peak_resident_bytes(std::process::id()).unwrap() > 1 << 20);
        assert_eq!(ticks("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 100 23 0"), Some(123));
    }
}
