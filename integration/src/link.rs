//! One direction of dialling between two sites: the TCP connections from one to the other, which can be cut, stalled,
//! delayed and slowed at any time. Memory is bounded: a connection holds at most [`CHUNKS_IN_FLIGHT`] chunks a direction.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes moved at once.
const CHUNK_BYTES: usize = 64 << 10;
/// 16 MiB: more than 1 Gbit/s for 100 ms.
const CHUNKS_IN_FLIGHT: usize = 256;
/// How far ahead of its rate a slowed link takes bytes in.
const QUEUE: Duration = Duration::from_millis(20);

/// What the link does with bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Flow {
    /// Carries them.
    #[default]
    Open,
    /// Ends connections, and new ones at once.
    Cut,
    /// Accepts connections and carries nothing: a black hole. Ends none.
    Stalled,
}

/// The state of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Conditions {
    /// Whether bytes pass.
    pub flow: Flow,
    /// How long each byte takes, one way.
    pub delay: Duration,
    /// At most so many bytes a second, each way, over all connections.
    pub bytes_per_second: Option<u64>,
}

/// All connections in one direction of dialling.
#[derive(Debug, Default)]
pub struct Link {
    conditions: Mutex<Conditions>,
    changed: Condvar,
    connections: Mutex<Vec<Weak<Connection>>>,
    forward: Way,
    backward: Way,
}

/// One direction of the bytes.
#[derive(Debug, Default)]
struct Way {
    bytes: AtomicU64,
    /// When the bytes so far will have gone through at the link's rate.
    free_at: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Connection {
    dialler: TcpStream,
    target: TcpStream,
}

impl Connection {
    fn end(&self) {
        for stream in [&self.dialler, &self.target] {
            // Already ended is as good.
            let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// What it does now.
    pub fn conditions(&self) -> Conditions {
        *lock(&self.conditions)
    }

    /// Changes what it does, for the connections that stand too.
    pub fn set(&self, change: impl FnOnce(&mut Conditions)) {
        let cut = {
            let mut conditions = lock(&self.conditions);
            change(&mut conditions);
            self.changed.notify_all();
            conditions.flow == Flow::Cut
        };
        if cut {
            self.end_all();
        }
    }

    /// Ends all connections; new ones are as the conditions say.
    pub fn end_all(&self) {
        for connection in lock(&self.connections).drain(..).filter_map(|weak| weak.upgrade()) {
            connection.end();
        }
    }

    /// Bytes carried so far: from the dialler to the target, and back.
    pub fn bytes(&self) -> (u64, u64) {
        (self.forward.bytes.load(Relaxed), self.backward.bytes.load(Relaxed))
    }

    /// Connections that stand.
    pub fn connections(&self) -> usize {
        lock(&self.connections).iter().filter(|c| c.strong_count() > 0).count()
    }

    /// Carries a connection until either end closes or the link is cut. Returns at once.
    pub fn carry(self: &Arc<Self>, dialler: TcpStream, target: TcpStream) {
        for stream in [&dialler, &target] {
            // Only makes it quicker.
            let _ = stream.set_nodelay(true);
        }
        let connection = Arc::new(Connection { dialler, target });
        {
            let mut connections = lock(&self.connections);
            connections.retain(|weak| weak.strong_count() > 0);
            connections.push(Arc::downgrade(&connection));
        }
        // After it was listed: a cut either finds it in the list or is seen here.
        if self.conditions().flow == Flow::Cut {
            return connection.end();
        }
        for forward in [true, false] {
            let (sender, receiver) = sync_channel(CHUNKS_IN_FLIGHT);
            let (link, held) = (self.clone(), connection.clone());
            thread::spawn(move || link.take_in(&held, forward, sender));
            let (link, held) = (self.clone(), connection.clone());
            thread::spawn(move || link.give_out(&held, forward, receiver));
        }
    }

    fn take_in(&self, connection: &Connection, forward: bool, sender: SyncSender<(Instant, Vec<u8>)>) {
        let way = if forward { &self.forward } else { &self.backward };
        let mut from = if forward { &connection.dialler } else { &connection.target };
        let mut buffer = vec![0; CHUNK_BYTES];
        while self.wait_until_open() {
            self.wait_for_room(way);
            let Ok(n @ 1..) = from.read(&mut buffer) else { break };
            if sender.send((self.due(way, n), buffer[..n].to_vec())).is_err() {
                break;
            }
            way.bytes.fetch_add(n as u64, Relaxed);
        }
    }

    fn give_out(&self, connection: &Connection, forward: bool, receiver: Receiver<(Instant, Vec<u8>)>) {
        let mut to = if forward { &connection.target } else { &connection.dialler };
        for (due, chunk) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if !self.wait_until_open() || to.write_all(&chunk).is_err() {
                return connection.end();
            }
        }
        // The other end closed its side: pass that on, and no more than that.
        let _ = to.shutdown(Shutdown::Write);
    }

    /// False when the link was cut.
    fn wait_until_open(&self) -> bool {
        let mut conditions = lock(&self.conditions);
        while conditions.flow == Flow::Stalled {
            conditions = self.changed.wait(conditions).unwrap_or_else(PoisonError::into_inner);
        }
        conditions.flow == Flow::Open
    }

    fn wait_for_room(&self, way: &Way) {
        let free_at = *lock(&way.free_at);
        if let Some(free_at) = free_at {
            thread::sleep(free_at.saturating_duration_since(Instant::now()).saturating_sub(QUEUE));
        }
    }

    /// When `len` bytes that came in now may go out.
    fn due(&self, way: &Way, len: usize) -> Instant {
        let (conditions, now) = (self.conditions(), Instant::now());
        let mut free_at = lock(&way.free_at);
        let sent = match conditions.bytes_per_second {
            Some(rate) => free_at.unwrap_or(now).max(now) + Duration::from_secs_f64(len as f64 / rate.max(1) as f64),
            None => now,
        };
        *free_at = Some(sent);
        sent + conditions.delay
    }
}
