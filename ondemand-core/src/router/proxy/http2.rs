//! HTTP/2 with clients, and with upstreams that speak it.
//!
//! There is one engine that knows how requests are routed, held, limited, forwarded and answered, and it speaks HTTP/1.1. So each
//! stream of HTTP/2 is translated into a connection of HTTP/1.1 that exists within this process only, a pipe of bounded size, and what
//! comes out of it is translated back. That costs a copy, and spares a second engine whose manners would differ. The frames are
//! `hyper`'s.

mod body;
mod request;
mod server;
mod stream;
#[cfg(test)]
mod tests;
mod transport;
mod upstream;

pub(super) use server::{Limits, is_preface, serve};
pub(super) use transport::Transport;
pub(super) use upstream::Sessions;

/// How much of a message is on its way within a pipe, for each direction.
const PIPE: usize = 64 << 10;
