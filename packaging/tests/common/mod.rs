//! Sites that are made, mounted and asked by the command that an operator uses.
#![allow(dead_code)]

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use packaging::mounts;
use packaging::store_dir::Lock;
use rustix::process::{Pid, Signal, kill_process};

/// For whatever must happen soon.
pub const LIMIT: Duration = Duration::from_secs(60);

pub fn can_mount() -> bool {
    let can = Path::new("/dev/fuse").exists() && rustix::process::geteuid().is_root();
    if !can {
        eprintln!("skipped: needs /dev/fuse and root");
    }
    can
}

pub fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A site that was made by `init`; unmounted and removed when dropped.
pub struct Site {
    directory: tempfile::TempDir,
}

impl Site {
    pub fn new() -> Self {
        Self::made(&["init", "--volume", "v", "--site", "one"])
    }

    /// A second site of the volume of `member`, which is mounted.
    pub fn joined(member: &Site, name: &str) -> Self {
        let invited = run(&["invite", "--config", member.config().to_str().unwrap()]);
        assert!(invited.status.success(), "{invited:?}");
        let token = String::from_utf8(invited.stdout).unwrap();
        Self::made(&["join", token.trim(), "--site", name])
    }

    fn made(command: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("m")).unwrap();
        let site = Self { directory };
        let listen = format!("127.0.0.1:{}", free_port());
        let (config, store) = (site.config(), site.store());
        let place = ["--config", config.to_str().unwrap(), "--store", store.to_str().unwrap(), "--listen", &listen];
        let made = run(&[command, &place].concat());
        assert!(made.status.success(), "{made:?}");
        site
    }

    /// Adds lines before the first section of the configuration.
    pub fn configure(&self, lines: &str) {
        let text = std::fs::read_to_string(self.config()).unwrap();
        std::fs::write(self.config(), format!("{lines}\n{text}")).unwrap();
    }

    /// The status as JSON.
    pub fn status(&self) -> serde_json::Value {
        let output = run(&["status", "--json", self.mountpoint().to_str().unwrap()]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    pub fn config(&self) -> PathBuf {
        self.directory.path().join("c.toml")
    }

    pub fn store(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    pub fn mountpoint(&self) -> PathBuf {
        self.directory.path().join("m")
    }

    pub fn mount(&self) -> Output {
        run(&["mount", "--config", self.config().to_str().unwrap(), self.mountpoint().to_str().unwrap()])
    }

    pub fn mounted(&self) -> u32 {
        let output = self.mount();
        assert!(output.status.success(), "{output:?}");
        Lock::holder(&self.store()).unwrap()
    }

    pub fn unmount(&self) -> Output {
        run(&["unmount", self.mountpoint().to_str().unwrap()])
    }

    pub fn is_mounted(&self) -> bool {
        mounts::at(&self.mountpoint()).unwrap().is_some()
    }

    pub fn signal(&self, pid: u32, signal: Signal) {
        kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(pid) = Lock::holder(&self.store()) {
            self.signal(pid, Signal::KILL);
            Lock::wait_until_free(&self.store(), LIMIT);
        }
        if self.is_mounted() {
            mounts::detach(&self.mountpoint()).unwrap();
        }
    }
}

pub fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_syncline")).args(arguments).output().unwrap()
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A port of the loopback address that nobody has now.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
