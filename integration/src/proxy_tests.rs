#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::time::Instant;

use super::*;

/// A network of two whose site 1 is a server that echoes, and site 0 is this process.
fn echoing() -> Network {
    let network = Network::new(2);
    network.add_daemon(std::process::id(), 0);
    let listener = TcpListener::bind(network.listen_address(1)).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut from = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut from, &mut stream);
            });
        }
    });
    network
}

fn dial(network: &Network) -> TcpStream {
    let stream = TcpStream::connect(network.public_address(1)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn echo(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<()> {
    stream.write_all(text)?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back)?;
    assert_eq!(back, text);
    Ok(())
}

#[test]
fn carries_and_counts_by_pair() {
    let network = echoing();
    let mut stream = dial(&network);
    echo(&mut stream, b"hello").unwrap();
    assert_eq!(network.link(0, 1).bytes(), (5, 5));
    assert_eq!(network.link(0, 1).connections(), 1);
    assert_eq!(network.link(1, 0).bytes(), (0, 0));
}

#[test]
fn cut_ends_and_refuses_and_heal_lets_through() {
    let network = echoing();
    let mut stream = dial(&network);
    echo(&mut stream, b"hello").unwrap();
    network.cut(0, 1);
    assert!(echo(&mut stream, b"again").is_err());
    assert!(echo(&mut dial(&network), b"new").is_err());
    network.heal(0, 1);
    echo(&mut dial(&network), b"healed").unwrap();
}

#[test]
fn a_cut_of_another_pair_is_not_felt() {
    let network = echoing();
    network.cut(1, 1);
    echo(&mut dial(&network), b"hello").unwrap();
}

#[test]
fn stalled_carries_nothing_and_ends_nothing() {
    let network = echoing();
    let mut stream = dial(&network);
    echo(&mut stream, b"hello").unwrap();
    network.between(0, 1, |c| c.flow = Flow::Stalled);
    stream.write_all(b"x").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut one = [0];
    assert!(stream.read(&mut one).is_err());
    network.heal(0, 1);
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.read_exact(&mut one).unwrap();
    assert_eq!(&one, b"x");
}

#[test]
fn delay_is_felt_both_ways() {
    let network = echoing();
    network.between(0, 1, |c| c.delay = Duration::from_millis(60));
    let mut stream = dial(&network);
    let start = Instant::now();
    echo(&mut stream, b"hello").unwrap();
    assert!(start.elapsed() >= Duration::from_millis(120), "{:?}", start.elapsed());
}

#[test]
fn rate_is_held() {
    let network = echoing();
    network.between(0, 1, |c| c.bytes_per_second = Some(1 << 20));
    let mut stream = dial(&network);
    let mut writer = stream.try_clone().unwrap();
    let start = Instant::now();
    thread::spawn(move || writer.write_all(&vec![7; 512 << 10]));
    let mut back = vec![0; 512 << 10];
    stream.read_exact(&mut back).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(450), "{:?}", start.elapsed());
}

#[test]
fn a_half_close_is_passed_on() {
    let network = echoing();
    let mut stream = dial(&network);
    stream.write_all(b"all").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    assert_eq!(back, b"all");
}

/// Two connections, one of each direction of dialling, go over one bottleneck.
#[test]
fn connections_of_a_pair_share_the_rate_whoever_dialled() {
    let network = Network::new(2);
    network.everywhere(|conditions| conditions.bytes_per_second = Some(1 << 20));
    let start = Instant::now();
    let (there, back) = (network.link(0, 1), network.link(1, 0));
    thread::scope(|scope| {
        // 256 KiB from 0 to 1 over each: forward where 0 dialled, backward where 1 did.
        for (link, by_zero) in [(there, true), (back, false)] {
            let pair = || {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                (one, listener.accept().unwrap().0)
            };
            let ((dialler, proxied_dialler), (target, proxied_target)) = (pair(), pair());
            link.carry(proxied_dialler, proxied_target);
            let (mut from, mut to) = if by_zero { (dialler, target) } else { (target, dialler) };
            scope.spawn(move || from.write_all(&vec![7; 256 << 10]).unwrap());
            scope.spawn(move || to.read_exact(&mut vec![0; 256 << 10]).unwrap());
        }
    });
    assert!(start.elapsed() >= Duration::from_millis(450), "{:?}", start.elapsed());
}
