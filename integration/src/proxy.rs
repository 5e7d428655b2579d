//! The network between sites: a TCP proxy in front of each, and a [`Link`] for each ordered pair of sites.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::link::{Conditions, Flow, Link};
use crate::link_source;
use crate::outcome::OrFail;
use crate::way::Way;

/// Where the daemon of site 0 listens; the others follow.
const DAEMON_PORT: u16 = 7400;
/// Where the proxy in front of site 0 listens; the others follow.
const PROXY_PORT: u16 = 7600;

/// The network of one cluster. Its addresses are its own, so that clusters run at the same time.
pub struct Network {
    ip: Ipv4Addr,
    shared: Arc<Shared>,
    proxies: Vec<Proxy>,
    direct: bool,
}

/// Who dials: a site by its number, or none for a program that is no site's daemon.
type Dialler = Option<usize>;

#[derive(Default)]
struct Shared {
    daemons: Mutex<HashMap<u32, usize>>,
    links: Mutex<HashMap<(Dialler, usize), Arc<Link>>>,
    /// From one to the other, whoever of them dialled.
    ways: Mutex<HashMap<(Dialler, Dialler), Arc<Way>>>,
    initial: Mutex<Conditions>,
}

struct Proxy {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Network {
    /// A network for `sites` sites; all links are open.
    ///
    /// # Panics
    /// When no address can be bound.
    pub fn new(sites: usize) -> Self {
        let (ip, listeners) = own_address(sites);
        let shared = Arc::new(Shared::default());
        let start = |(site, listener)| Proxy::start(site, listener, daemon_address(ip, site), shared.clone());
        let proxies = listeners.into_iter().enumerate().map(start).collect();
        Self { ip, shared, proxies, direct: false }
    }

    /// As [`new`](Self::new), but the sites dial each other themselves: no condition holds, and nothing costs time that a real network doesn't.
    pub fn direct(sites: usize) -> Self {
        let mut network = Self::new(sites);
        network.direct = true;
        network
    }

    /// Where the daemon of `site` must listen.
    pub fn listen_address(&self, site: usize) -> SocketAddr {
        daemon_address(self.ip, site)
    }

    /// Where the others must dial `site`.
    pub fn public_address(&self, site: usize) -> SocketAddr {
        if self.direct { self.listen_address(site) } else { self.proxies[site].address }
    }

    /// Tells that the process `pid` is the daemon of `site`.
    pub fn add_daemon(&self, pid: u32, site: usize) {
        lock(&self.shared.daemons).insert(pid, site);
    }

    /// Tells that the process is gone.
    pub fn remove_daemon(&self, pid: u32) {
        lock(&self.shared.daemons).remove(&pid);
    }

    /// The link over which `from` dials `to`.
    pub fn link(&self, from: usize, to: usize) -> Arc<Link> {
        self.shared.link(Some(from), to)
    }

    /// Changes both directions of dialling between two sites.
    pub fn between(&self, a: usize, b: usize, change: impl Fn(&mut Conditions)) {
        self.link(a, b).set(&change);
        self.link(b, a).set(&change);
    }

    /// Changes every link, and how new ones start.
    pub fn everywhere(&self, change: impl Fn(&mut Conditions)) {
        change(&mut lock(&self.shared.initial));
        let links: Vec<_> = lock(&self.shared.links).values().cloned().collect();
        links.iter().for_each(|link| link.set(&change));
    }

    /// Cuts two sites off from each other.
    pub fn cut(&self, a: usize, b: usize) {
        self.between(a, b, |conditions| conditions.flow = Flow::Cut);
    }

    /// Cuts one site off from all.
    pub fn cut_off(&self, site: usize) {
        for other in (0..self.proxies.len()).filter(|other| *other != site) {
            self.cut(site, other);
        }
    }

    /// Lets bytes pass between two sites again.
    pub fn heal(&self, a: usize, b: usize) {
        self.between(a, b, |conditions| conditions.flow = Flow::Open);
    }

    /// Cuts every site off from every other.
    pub fn cut_all(&self) {
        self.everywhere(|conditions| conditions.flow = Flow::Cut);
    }

    /// Opens every link.
    pub fn heal_all(&self) {
        self.everywhere(|conditions| conditions.flow = Flow::Open);
    }

    /// Bytes carried over all links, both ways.
    pub fn bytes(&self) -> u64 {
        lock(&self.shared.links).values().map(|link| link.bytes().0 + link.bytes().1).sum()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.everywhere(|conditions| conditions.flow = Flow::Cut);
    }
}

impl Shared {
    fn link(&self, from: Dialler, to: usize) -> Arc<Link> {
        let initial = *lock(&self.initial);
        let mut links = lock(&self.links);
        let link = links.entry((from, to)).or_insert_with(|| {
            let (forward, backward) = (self.way(from, Some(to)), self.way(Some(to), from));
            Arc::new(Link::new(initial, forward, backward))
        });
        link.clone()
    }

    fn way(&self, from: Dialler, to: Dialler) -> Arc<Way> {
        lock(&self.ways).entry((from, to)).or_default().clone()
    }

    fn dialler(&self, connection: &TcpStream) -> Dialler {
        let daemons = lock(&self.daemons).clone();
        let pids: Vec<u32> = daemons.keys().copied().collect();
        let (source, destination) = (connection.peer_addr().ok()?, connection.local_addr().ok()?);
        daemons.get(&link_source::owner(source, destination, &pids)?).copied()
    }
}

impl Proxy {
    fn start(site: usize, listener: TcpListener, target: SocketAddr, shared: Arc<Shared>) -> Self {
        let address = listener.local_addr().or_fail("the proxy has no address");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let acceptor = thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if stopped.load(Relaxed) {
                    break;
                }
                let shared = shared.clone();
                thread::spawn(move || forward(connection, site, target, &shared));
            }
        });
        Self { address, stop, acceptor: Some(acceptor) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        // Wakes the acceptor, which otherwise sleeps for ever.
        let woken = TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok();
        if let Some(acceptor) = self.acceptor.take().filter(|_| woken) {
            let _ = acceptor.join();
        }
    }
}

/// Dropping the connection closes it: a target that doesn't listen looks as if it refused.
fn forward(connection: TcpStream, site: usize, target: SocketAddr, shared: &Shared) {
    let link = shared.link(shared.dialler(&connection), site);
    if link.conditions().flow == Flow::Cut {
        return;
    }
    if let Ok(target) = TcpStream::connect(target) {
        link.carry(connection, target);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn daemon_address(ip: Ipv4Addr, site: usize) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(ip, DAEMON_PORT + site as u16))
}

/// An address of the loopback net that nobody else uses, with a listener for each proxy. Its ports are outside the range from
/// which the kernel takes those of outgoing connections, so that they can't be taken between two starts of a daemon.
fn own_address(sites: usize) -> (Ipv4Addr, Vec<TcpListener>) {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let pid = std::process::id();
    for _ in 0..1000 {
        let number = NEXT.fetch_add(1, Relaxed);
        let ip = Ipv4Addr::new(127, 16 + (number % 200) as u8, (pid >> 8) as u8, pid as u8);
        let bind = |site| TcpListener::bind((ip, PROXY_PORT + site as u16));
        // Another process may have the same address when process numbers are large; its listeners show it.
        if let Ok(listeners) = (0..sites).map(bind).collect::<Result<Vec<_>, _>>() {
            return (ip, listeners);
        }
    }
    panic!("no free address on the loopback net in a thousand attempts");
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
