//! Which process opened a TCP connection on this machine: so that a proxy in front of one site knows which other site
//! dials it, and a single pair of sites can be cut without network namespaces.

use std::fs;
use std::net::{SocketAddr, SocketAddrV4};

/// Column of `/proc/net/tcp` with the inode of the socket.
const INODE_COLUMN: usize = 9;

/// The process among `candidates` that holds the connection from `source` to `destination`.
pub fn owner(source: SocketAddr, destination: SocketAddr, candidates: &[u32]) -> Option<u32> {
    let (SocketAddr::V4(source), SocketAddr::V4(destination)) = (source, destination) else { return None };
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = inode_of(&table, source, destination)?;
    let socket = format!("socket:[{inode}]");
    candidates.iter().copied().find(|pid| holds(*pid, &socket))
}

fn inode_of(table: &str, source: SocketAddrV4, destination: SocketAddrV4) -> Option<u64> {
    let (source, destination) = (hex(source), hex(destination));
    let columns = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut matching = columns.filter(|c| c.len() > INODE_COLUMN && c[1] == source && c[2] == destination);
    matching.next()?[INODE_COLUMN].parse().ok()
}

/// The kernel prints the address as a number of this machine's byte order, the port as a number.
fn hex(address: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

fn holds(pid: u32, socket: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == socket))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn finds_this_process_and_no_other() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let (source, destination) = (client.local_addr().unwrap(), server.local_addr().unwrap());
        assert_eq!(owner(source, destination, &[1, std::process::id()]), Some(std::process::id()));
        assert_eq!(owner(source, destination, &[1]), None);
        let elsewhere = "127.0.0.9:9".parse().unwrap();
        assert_eq!(owner(source, elsewhere, &[std::process::id()]), None);
    }
}
