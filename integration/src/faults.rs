//! Things that go wrong at moments that a seed decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::proxy::Network;
use crate::seed::Seed;

/// Sleeps for a time between the two, in milliseconds, that the seed decides.
pub fn pause(seed: &mut Seed, low_ms: u64, high_ms: u64) {
    thread::sleep(Duration::from_millis(seed.between(low_ms, high_ms)));
}

/// Cuts and heals all links again and again in the background. Dropping it heals them for good.
pub struct Flapping {
    network: Arc<Network>,
    stop: Arc<AtomicBool>,
    cuts: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flapping {
    /// Starts; each state lasts at most `longest_ms`.
    pub fn start(network: Arc<Network>, seed: u64, longest_ms: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let cuts = Arc::new(AtomicU64::new(0));
        let (stopped, counted, links) = (stop.clone(), cuts.clone(), network.clone());
        let thread = thread::spawn(move || {
            let mut seed = Seed::new(seed);
            while !stopped.load(Relaxed) {
                pause(&mut seed, 1, longest_ms);
                links.cut_all();
                counted.fetch_add(1, Relaxed);
                pause(&mut seed, 1, longest_ms);
                links.heal_all();
            }
        });
        Self { network, stop, cuts, thread: Some(thread) }
    }

    /// How often it has cut.
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Relaxed)
    }
}

impl Drop for Flapping {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.network.heal_all();
    }
}
