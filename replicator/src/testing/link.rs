//! A TCP forwarder in front of a site, whose links can be cut.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    Open,
    /// Connections break, new ones too.
    Cut,
    /// Nothing passes, but nothing breaks.
    Silent,
}

pub struct Link {
    pub address: SocketAddr,
    state: watch::Sender<LinkState>,
    task: tokio::task::JoinHandle<()>,
}

impl Link {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = watch::Sender::new(LinkState::Open);
        let seen = Arc::new(state.subscribe());
        let task = tokio::spawn(async move {
            while let Ok((incoming, _)) = listener.accept().await {
                tokio::spawn(forward(incoming, target, (*seen).clone()));
            }
        });
        Self { address, state, task }
    }

    pub fn set(&self, state: LinkState) {
        self.state.send_replace(state);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(mut incoming: TcpStream, target: SocketAddr, mut state: watch::Receiver<LinkState>) {
    if *state.borrow_and_update() == LinkState::Cut {
        return;
    }
    let Ok(mut outgoing) = TcpStream::connect(target).await else { return };
    if incoming.set_nodelay(true).is_err() || outgoing.set_nodelay(true).is_err() {
        return;
    }
    loop {
        let now = *state.borrow_and_update();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut incoming, &mut outgoing), if now == LinkState::Open => return,
            changed = state.changed() => {
                if changed.is_err() || *state.borrow() == LinkState::Cut {
                    return;
                }
            }
        }
    }
}
