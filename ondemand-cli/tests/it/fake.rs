//! A server that answers what a test wants, and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;

use axum::Router;
use tokio::sync::oneshot;

/// A server in a thread of its own, which ends with it.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    /// Serves `app` at a port of loopback.
    pub(crate) fn start(app: Router) -> Self {
        let (end, ended) = oneshot::channel::<()>();
        let (told, address) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
                told.send(listener.local_addr().expect("an address")).expect("the test waits");
                tokio::select! {
                    served = axum::serve(listener, app) => served.expect("it serves"),
                    _ = ended => (),
                }
            });
        });
        Self { address: address.recv().expect("an address"), end: Some(end), thread: Some(thread) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked, the test has failed for lack of an answer.
            let _ = thread.join();
        }
    }
}
