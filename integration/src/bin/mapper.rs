//! Opens, maps, reads and writes files as its standard input says, one command a line, and answers each with a line. It stands for
//! a program that may die: by SIGBUS, or by whoever drives it ([`integration::mapper`]).
//!
//! Files and mappings have names of the caller's choice. An answer is `ok`, `ok VALUE`, or `error ERRNO`.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::ptr;

use integration::seed::Seed;
use rustix::fs::OFlags;
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};

const PAGE: u64 = 4096;

struct Mapping {
    address: *mut u8,
    len: usize,
}

#[derive(Default)]
struct State {
    files: HashMap<String, File>,
    mappings: HashMap<String, Mapping>,
}

fn main() {
    let mut state = State::default();
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match state.run(&words) {
            Ok(value) if value.is_empty() => "ok".to_owned(),
            Ok(value) => format!("ok {value}"),
            Err(error) => format!("error {}", error.raw_os_error().map_or(error.to_string(), |code| code.to_string())),
        };
        let mut out = io::stdout().lock();
        if writeln!(out, "{answer}").and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::other(format!("wrong use: {what}"))
}

fn number(word: &str) -> io::Result<u64> {
    word.parse().map_err(|_| wrong(word))
}

impl State {
    fn file(&self, name: &str) -> io::Result<&File> {
        self.files.get(name).ok_or_else(|| wrong(name))
    }

    fn mapping(&self, name: &str) -> io::Result<&Mapping> {
        self.mappings.get(name).ok_or_else(|| wrong(name))
    }

    fn run(&mut self, words: &[&str]) -> io::Result<String> {
        let mut value = String::new();
        match words {
            ["open", name, how, path] => drop(self.files.insert((*name).to_owned(), open(how, path)?)),
            ["close", name] => {
                let file = self.files.remove(*name).ok_or_else(|| wrong(name))?;
                // SAFETY: the descriptor is this file's alone.
                unsafe { rustix::io::try_close(file.into_raw_fd()) }?;
            }
            ["map", name, file, kind, len] => {
                let mapping = map(self.file(file)?, kind, number(len)?)?;
                self.mappings.insert((*name).to_owned(), mapping);
            }
            ["unmap", name] => {
                let Mapping { address, len } = self.mappings.remove(*name).ok_or_else(|| wrong(name))?;
                // SAFETY: made by `map` with this length; nothing refers to it any more.
                unsafe { rustix::mm::munmap(address.cast(), len) }?;
            }
            ["msync", name] => {
                let Mapping { address, len } = self.mapping(name)?;
                // SAFETY: the mapping is alive.
                unsafe { rustix::mm::msync(address.cast(), *len, MsyncFlags::SYNC) }?;
            }
            ["store", name, offset, byte, len] => {
                self.mapping(name)?.store(number(offset)?, number(byte)? as u8, number(len)?)?;
            }
            ["load", name, offset, len] => value = runs(&self.mapping(name)?.load(number(offset)?, number(len)?)?),
            ["scatter", name, seed, count] => {
                let (mapping, mut seed) = (self.mapping(name)?, Seed::new(number(seed)?));
                for _ in 0..number(count)? {
                    let page = seed.below(mapping.len as u64 / PAGE);
                    mapping.store(page * PAGE + seed.below(PAGE - 64), seed.below(255) as u8 + 1, 64)?;
                }
            }
            ["write", name, offset, byte, len] => {
                let bytes = vec![number(byte)? as u8; number(len)? as usize];
                self.file(name)?.write_all_at(&bytes, number(offset)?)?;
            }
            ["read", name, offset, len] => {
                let mut bytes = vec![0; number(len)? as usize];
                let count = self.file(name)?.read_at(&mut bytes, number(offset)?)?;
                value = runs(&bytes[..count]);
            }
            ["truncate", name, len] => self.file(name)?.set_len(number(len)?)?,
            ["size", name] => value = self.file(name)?.metadata()?.len().to_string(),
            ["fsync", name] => self.file(name)?.sync_all()?,
            _ => return Err(wrong(&words.join(" "))),
        }
        Ok(value)
    }
}

impl Mapping {
    /// `len` bytes at `offset`: within the mapping. They may be beyond the file's end; then the system ends this program.
    fn at(&self, offset: u64, len: u64) -> io::Result<*mut u8> {
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.len as u64);
        if !fits {
            return Err(wrong("outside of the mapping"));
        }
        // SAFETY: within the mapping.
        Ok(unsafe { self.address.add(offset as usize) })
    }

    /// Byte by byte and volatile: other programs change the same memory.
    fn store(&self, offset: u64, byte: u8, len: u64) -> io::Result<()> {
        let from = self.at(offset, len)?;
        for index in 0..len as usize {
            // SAFETY: `at` checked the range.
            unsafe { ptr::write_volatile(from.add(index), byte) };
        }
        Ok(())
    }

    fn load(&self, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let from = self.at(offset, len)?;
        // SAFETY: `at` checked the range.
        Ok((0..len as usize).map(|index| unsafe { ptr::read_volatile(from.add(index)) }).collect())
    }
}

fn open(how: &str, path: &str) -> io::Result<File> {
    let mut options = OpenOptions::new();
    for word in how.split('+') {
        match word {
            "r" => options.read(true),
            "w" => options.write(true),
            "create" => options.create(true),
            "sync" => options.custom_flags(OFlags::SYNC.bits() as i32),
            _ => return Err(wrong(how)),
        };
    }
    options.open(path)
}

fn map(file: &File, kind: &str, len: u64) -> io::Result<Mapping> {
    let (prot, flags) = match kind {
        "shared" => (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED),
        "shared-read" => (ProtFlags::READ, MapFlags::SHARED),
        "private" => (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE),
        _ => return Err(wrong(kind)),
    };
    // SAFETY: a new mapping, at an address of the system's choice.
    let address = unsafe { rustix::mm::mmap(ptr::null_mut(), len as usize, prot, flags, file, 0) }?;
    Ok(Mapping { address: address.cast(), len: len as usize })
}

/// Bytes in short: `3xA` for "AAA"; others than visible ones by number.
fn runs(bytes: &[u8]) -> String {
    let one = |run: &[u8]| match run[0] {
        byte if byte.is_ascii_graphic() => format!("{}x{}", run.len(), byte as char),
        byte => format!("{}x#{byte}", run.len()),
    };
    bytes.chunk_by(|a, b| a == b).map(one).collect::<Vec<_>>().join(",")
}
