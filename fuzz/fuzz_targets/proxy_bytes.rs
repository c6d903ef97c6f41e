//! Raw bytes, as the proxy meets them on its port: it never panics or hangs, whatever reaches the upstream is well-formed, and what the client
//! hears is an answer or nothing.
#![no_main]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ondemand_core::config::ProxyConfig;
use ondemand_core::router::{Proxy, Route, Upstream};
use ondemand_core::{Hostname, Router};

/// The judge that the tests of the proxy have as well.
#[path = "../../ondemand-core/tests/proxy/lab/wire.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod wire;

/// How long anything may take. Nothing here waits for time to pass, so this is only reached by what hangs.
const DEADLINE: Duration = Duration::from_secs(5);

/// What came over each connection to the upstream since the last input, and whether it has ended.
#[derive(Default)]
struct Seen {
    connections: HashMap<u64, (Vec<u8>, bool)>,
}

struct World {
    proxy: Proxy,
    seen: Arc<(Mutex<Seen>, Condvar)>,
    /// Where the proxy was started; it has threads of its own.
    _runtime: tokio::runtime::Runtime,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("a bound socket");
    let seen = Arc::<(Mutex<Seen>, Condvar)>::default();
    let all = Arc::clone(&seen);
    std::thread::spawn(move || {
        for (id, stream) in (0..).zip(listener.incoming()) {
            let all = Arc::clone(&all);
            std::thread::spawn(move || upstream(stream.expect("a connection"), id, &all));
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let config = ProxyConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), workers: Some(1), ..ProxyConfig::default() };
    let proxy = runtime.block_on(async {
        let proxy = Proxy::start(&config).await.expect("a proxy");
        let host = Hostname::new("a.example").expect("a name");
        proxy.set(&Route::new(host, [Upstream::from(address)])).await.expect("a route");
        proxy
    });
    World { proxy, seen, _runtime: runtime }
});

/// Answers every request that is whole, and writes down every byte.
fn upstream(mut stream: TcpStream, id: u64, all: &(Mutex<Seen>, Condvar)) {
    let (mut pending, mut buffer) = (Vec::new(), [0; 8192]);
    loop {
        let length = stream.read(&mut buffer).unwrap_or(0);
        let mut answers = 0;
        pending.extend_from_slice(&buffer[..length]);
        while let Ok(Some((_, length))) = wire::message(&pending, wire::Kind::Request) {
            pending.drain(..length);
            answers += 1;
        }
        // Before it is answered, so that whoever has the answer finds it here.
        let mut seen = all.0.lock().expect("nobody panics with it");
        let (bytes, ended) = seen.connections.entry(id).or_default();
        bytes.extend_from_slice(&buffer[..length]);
        *ended = length == 0;
        drop(seen);
        all.1.notify_all();
        if length == 0 {
            return;
        }
        for _ in 0..answers {
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                break;
            }
        }
    }
}

/// Returns what the upstream got, once there is nothing half done: each connection ends with a whole request, or has ended.
fn forwarded(world: &World) -> Vec<Vec<u8>> {
    let (seen, changed) = &*world.seen;
    let half_done = |seen: &mut Seen| {
        seen.connections.values().any(|(bytes, ended)| !ended && wire::requests(bytes).is_ok_and(|(_, rest)| rest))
    };
    let seen = seen.lock().expect("nobody panics with it");
    let (mut seen, timeout) = changed.wait_timeout_while(seen, DEADLINE, half_done).expect("nobody panics with it");
    assert!(!timeout.timed_out(), "a request that was cut off keeps its connection to the upstream");
    std::mem::take(&mut seen.connections).into_values().map(|(bytes, _)| bytes).collect()
}

fuzz_target!(|input: &[u8]| {
    let world = &*WORLD;
    let mut client = TcpStream::connect(world.proxy.address()).expect("the proxy listens");
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    client.set_write_timeout(Some(DEADLINE)).expect("a timeout");
    // It may be refused before all of it was sent.
    let _ = client.write_all(input);
    let _ = client.shutdown(Shutdown::Write);
    let mut heard = Vec::new();
    match client.read_to_end(&mut heard) {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(e) => panic!("the proxy does not close: {e}; it said {:?}", String::from_utf8_lossy(&heard)),
    }

    let mut count = 0;
    for bytes in forwarded(world) {
        let (requests, _) = match wire::requests(&bytes) {
            Ok(found) => found,
            Err(why) => panic!("forwarded: {why}: {}", bytes.escape_ascii()),
        };
        for request in requests {
            assert!(request.one("host").to_ascii_lowercase().starts_with("a.example"), "{request:?}");
            assert_eq!(request.one("x-forwarded-for"), "127.0.0.1");
            count += 1;
        }
    }
    if input.starts_with(b"PRI * HTTP/2.0") {
        // Neither lines nor answers are text; what was forwarded had to be as good as ever.
        return;
    }
    // Each request has a line that names a version.
    let most = input.windows(5).filter(|window| *window == b"HTTP/").count();
    assert!(count <= most, "{count} requests were forwarded, of {most} at most");

    // An answer to HEAD may have the fields of a body, and no body; which one that is cannot be told here, so only the first is looked at.
    if !heard.is_empty() && !input.windows(4).any(|window| window == b"HEAD") {
        let answer = wire::message(&heard, wire::Kind::Answer { to_head: false });
        assert!(matches!(answer, Ok(Some(_))), "{answer:?}: {}", heard.escape_ascii());
    }
});
