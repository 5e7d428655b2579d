//! One direction of dialling between two sites: the TCP connections from one to the other, which can be cut, stalled,
//! delayed and slowed at any time. Memory is bounded: a connection holds at most [`CHUNKS_IN_FLIGHT`] chunks a direction.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::way::Way;

/// Bytes moved at once.
const CHUNK_BYTES: usize = 64 << 10;
/// As few where the rate is limited: what others wait for before their turn.
const CHUNK_BYTES_LIMITED: usize = 16 << 10;
/// 16 MiB: more than 1 Gbit/s for 100 ms; 4 MiB where the rate is limited: more than 200 Mbit/s for 100 ms.
const CHUNKS_IN_FLIGHT: usize = 256;
/// What a limited link queues unless told otherwise: a shallow router's buffer.
const QUEUE_BYTES: u64 = 128 << 10;
/// The kernel lets sleepers sleep so much longer, to wake several at once (50 µs by default): on each hop of each message.
const TIMER_SLACK_NANOS: u64 = 1000;

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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conditions {
    /// Whether bytes pass.
    pub flow: Flow,
    /// How long each byte takes, one way.
    pub delay: Duration,
    /// At most so many bytes a second, each way, over all connections of the two sites, whoever dialled.
    pub bytes_per_second: Option<u64>,
    /// How many bytes wait for their turn at that rate, each way; what comes beyond is not taken in before there is room.
    pub queue_bytes: u64,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { flow: Flow::Open, delay: Duration::ZERO, bytes_per_second: None, queue_bytes: QUEUE_BYTES }
    }
}

/// All connections in one direction of dialling.
#[derive(Debug, Default)]
pub struct Link {
    conditions: Mutex<Conditions>,
    changed: Condvar,
    connections: Mutex<Vec<Weak<Connection>>>,
    forward: Direction,
    backward: Direction,
}

/// One direction of the bytes.
#[derive(Debug, Default)]
struct Direction {
    bytes: AtomicU64,
    way: Arc<Way>,
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
    /// A link whose bytes go over these ways: from the dialler to the target, and back.
    pub fn new(conditions: Conditions, forward: Arc<Way>, backward: Arc<Way>) -> Self {
        let direction = |way| Direction { bytes: AtomicU64::new(0), way };
        let (forward, backward) = (direction(forward), direction(backward));
        Self { conditions: Mutex::new(conditions), forward, backward, ..Self::default() }
    }

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
        be_punctual();
        let direction = if forward { &self.forward } else { &self.backward };
        let mut from = if forward { &connection.dialler } else { &connection.target };
        let mut buffer = vec![0; CHUNK_BYTES];
        while self.wait_until_open() {
            let limited = self.conditions().bytes_per_second.is_some();
            let most = if limited { CHUNK_BYTES_LIMITED } else { CHUNK_BYTES };
            let Ok(n @ 1..) = from.read(&mut buffer[..most]) else { break };
            // As they are now: they may have changed while there was nothing to read.
            let conditions = self.conditions();
            let through = direction.way.enter(n, conditions.bytes_per_second, conditions.queue_bytes);
            if sender.send((through + conditions.delay, buffer[..n].to_vec())).is_err() {
                break;
            }
            direction.bytes.fetch_add(n as u64, Relaxed);
        }
    }

    fn give_out(&self, connection: &Connection, forward: bool, receiver: Receiver<(Instant, Vec<u8>)>) {
        be_punctual();
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
}

fn be_punctual() {
    // Without it the link is a little slower than it says.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(TIMER_SLACK_NANOS));
}
