//! How long a message and its answer take between two sockets, over the loopback net or a [`Link`]: what no wait for another site can beat.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::link::{Conditions, Link};
use crate::outcome::OrFail;

/// Bytes of a message and of its answer.
const MESSAGE_BYTES: usize = 64;

/// Sends `count` messages, each after the answer to the one before; over a link if there are conditions.
///
/// # Panics
/// When a socket fails.
pub fn measure(count: u64, conditions: Option<Conditions>) -> Vec<Duration> {
    let (mut near, mut far) = match conditions {
        None => pair(),
        Some(conditions) => {
            let link = Arc::new(Link::new(conditions, Arc::default(), Arc::default()));
            let ((near, dialler), (target, far)) = (pair(), pair());
            link.carry(dialler, target);
            (near, far)
        }
    };
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut message = [0; MESSAGE_BYTES];
            while far.read_exact(&mut message).is_ok() && far.write_all(&message).is_ok() {}
        });
        let mut message = [7; MESSAGE_BYTES];
        let mut one = |_| {
            let start = Instant::now();
            near.write_all(&message).or_fail("cannot send");
            near.read_exact(&mut message).or_fail("no answer");
            start.elapsed()
        };
        let times = (0..count).map(&mut one).collect();
        // The answering thread ends with it.
        near.shutdown(std::net::Shutdown::Both).or_fail("cannot close");
        times
    })
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).or_fail("cannot listen");
    let near = TcpStream::connect(listener.local_addr().or_fail("no address")).or_fail("cannot connect");
    let far = listener.accept().or_fail("cannot accept").0;
    for stream in [&near, &far] {
        stream.set_nodelay(true).or_fail("cannot switch off Nagle's algorithm");
    }
    (near, far)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_takes_as_long_as_it_says() {
        assert_eq!(measure(10, None).len(), 10);
        let delay = Duration::from_millis(15);
        let times = measure(3, Some(Conditions { delay, ..Conditions::default() }));
        assert!(times.iter().all(|time| *time >= 2 * delay), "{times:?}");
    }
}
