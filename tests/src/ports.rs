//! Ports that no other test has, also of those that run at the same time.

use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Mutex, OnceLock, PoisonError};

/// How many ports are claimed at a time.
const BLOCK: u16 = 20;
const FIRST: u16 = 12_000;
/// From here on, the system hands out ports by itself.
const END: u16 = 32_000;

/// Claims blocks of ports next to each other for as long as this process lives. The claim is a socket with a name in the kernel's own name space: it
/// goes with the process, however that ends, and leaves no file.
fn claim(blocks: u16) -> Option<u16> {
    let all = (END - FIRST) / BLOCK;
    #[expect(clippy::cast_possible_truncation, reason = "it is below the number of blocks")]
    let begin = (std::process::id().wrapping_mul(37) % u32::from(all)) as u16;
    let name = |block: u16| SocketAddr::from_abstract_name(format!("ondemand-test-ports-{block}"));
    (0..all).map(|step| (begin + step) % all).filter(|first| first + blocks <= all).find_map(|first| {
        let claims: Option<Vec<UnixListener>> =
            (first..first + blocks).map(|block| UnixListener::bind_addr(&name(block).ok()?).ok()).collect();
        // Kept for as long as the process lives: what it started on these ports may outlive the caller.
        std::mem::forget(claims?);
        Some(FIRST + first * BLOCK)
    })
}

/// Returns a range of ports that no other test has, below those that the system hands out by itself.
///
/// # Panics
/// If all are claimed.
pub fn free_range(count: u16) -> (u16, u16) {
    let first = claim(count.div_ceil(BLOCK)).expect("a free range of ports");
    (first, first + count - 1)
}

/// Returns a port of loopback that is free, and that this does not return again soon.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    static BLOCK_OF_PORTS: OnceLock<(u16, Mutex<u16>)> = OnceLock::new();
    let (first, next) = BLOCK_OF_PORTS.get_or_init(|| (free_range(BLOCK).0, Mutex::new(0)));
    let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..BLOCK {
        let port = first + *next;
        *next = (*next + 1) % BLOCK;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {first} on is free");
}
