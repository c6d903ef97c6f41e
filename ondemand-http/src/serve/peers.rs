//! Who is at the other end of a connection that comes from this machine: the kernel knows which user opened a socket (`sock_diag(7)`).
//!
//! A superuser of a database can run programs, and connect to loopback with them. Such a program has no business with the API, whatever token it has.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Mutex, PoisonError};

use axum::Router;
use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use ondemand_core::Error;

use crate::problem::Problem;

/// What an answer of the kernel fits in.
const ANSWER: usize = 8192;

/// The users that may not use the API from this machine.
#[derive(Debug)]
pub(super) struct Peers {
    guests: Vec<u32>,
    kernel: Mutex<Kernel>,
}

/// A line to the kernel.
#[derive(Debug)]
struct Kernel {
    socket: Socket,
    /// The number of the last question.
    question: u32,
}

/// A socket of this machine, as the kernel describes it.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    uid: u32,
    /// Whether a process has it open: the kernel does not know whose a closed one was.
    open: bool,
}

impl Peers {
    /// Keeps these users out.
    ///
    /// # Errors
    /// Why the kernel cannot be asked, in words for a user.
    pub(super) fn new(guests: Vec<u32>) -> Result<Self, String> {
        let peers = Kernel::open().map(|kernel| Self { guests, kernel: Mutex::new(kernel) });
        let peers = peers.map_err(|e| format!("the kernel does not tell whose a connection is: {e}"))?;
        peers.try_out().map_err(|e| format!("the kernel does not tell whose a connection is: {e}"))?;
        Ok(peers)
    }

    /// Asks for a connection of this process's own.
    fn try_out(&self) -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let found = self.find(client.local_addr()?, client.peer_addr()?)?;
        let own = Found { uid: rustix::process::geteuid().as_raw(), open: true };
        if found == Some(own) { Ok(()) } else { Err(io::Error::other(format!("it says {found:?} of one's own"))) }
    }

    fn find(&self, client: SocketAddr, server: SocketAddr) -> io::Result<Option<Found>> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner).find(client, server)
    }

    /// Returns why whoever connected from `client` to `server` is not answered, if it isn't.
    pub(super) fn refusal(&self, client: SocketAddr, server: SocketAddr) -> Option<Error> {
        let found = match self.find(client, server) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%client, "the kernel does not tell whose a connection is: {error}");
                return Some(forbidden("the kernel does not tell whose this connection is".to_owned()));
            }
        };
        match found {
            Some(Found { uid, open: true }) if self.guests.contains(&uid) => Some(forbidden(format!(
                "user {uid} runs programs of databases or environments, which may not use this API"
            ))),
            Some(Found { open: true, .. }) => None,
            None if !is_of_this_machine(client.ip()) => None,
            // It was closed before it could be seen whose it is. Who waits for an answer does not do that.
            Some(Found { open: false, .. }) | None => {
                Some(forbidden("it is not known whose this connection was".to_owned()))
            }
        }
    }
}

fn forbidden(message: String) -> Error {
    Error::Forbidden { message }
}

/// Answers every request with a refusal.
pub(super) fn refuse(reason: &Error) -> Router {
    let message = reason.to_string();
    Router::new().fallback(async move || {
        let hint = "call it as another user of this machine, or from another machine".to_owned();
        Problem::from(Error::Forbidden { message: message.clone() }).with_hint(hint)
    })
}

/// Tells whether an address is one of this machine's own: only those can be bound.
fn is_of_this_machine(address: IpAddr) -> bool {
    match UdpSocket::bind((address, 0)) {
        Ok(_) => true,
        Err(error) => error.kind() != ErrorKind::AddrNotAvailable,
    }
}

impl Kernel {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
        Ok(Self { socket, question: 0 })
    }

    /// Finds the client's socket of a connection. `None` if it is not on this machine, or in another network namespace.
    fn find(&mut self, client: SocketAddr, server: SocketAddr) -> io::Result<Option<Found>> {
        // A server that listens on all addresses sees those of IPv4 in the clothes of IPv6.
        let (source, destination) = (client.ip().to_canonical(), server.ip().to_canonical());
        self.question = self.question.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        header.sequence_number = self.question;
        let request = SockDiagMessage::InetRequest(InetRequest {
            family: if source.is_ipv4() { AF_INET } else { AF_INET6 },
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id: SocketId {
                source_port: client.port(),
                destination_port: server.port(),
                source_address: source,
                destination_address: destination,
                interface_id: scope(client),
                // Any.
                cookie: [0xff; 8],
            },
        });
        let mut packet = NetlinkMessage::new(header, request.into());
        packet.finalize();
        let mut buffer = vec![0; packet.buffer_len()];
        packet.serialize(&mut buffer);
        self.socket.send(&buffer, 0)?;
        loop {
            let mut answer = Vec::with_capacity(ANSWER);
            self.socket.recv(&mut answer, 0)?;
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(&answer).map_err(io::Error::other)?;
            if message.header.sequence_number != self.question {
                // To a question that was given up.
                continue;
            }
            return match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) => {
                    Ok(Some(Found { uid: found.header.uid, open: found.header.inode != 0 }))
                }
                NetlinkPayload::Error(error) => {
                    let error = error.to_io();
                    if error.kind() == ErrorKind::NotFound { Ok(None) } else { Err(error) }
                }
                other => Err(io::Error::other(format!("an answer of another kind: {other:?}"))),
            };
        }
    }
}

/// Returns the number of the interface that an address belongs to, where it says so.
fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V6(address) => address.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client's and the server's end of a connection.
    fn connection(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).expect("a port");
        let mut there = listener.local_addr().expect("an address");
        if there.ip().is_unspecified() {
            there.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        let client = TcpStream::connect(there).expect("a connection");
        (client, listener.accept().expect("a connection").0)
    }

    fn refusal(peers: &Peers, server: &TcpStream) -> Option<String> {
        let (client, server) = (server.peer_addr().expect("an address"), server.local_addr().expect("an address"));
        peers.refusal(client, server).map(|error| error.to_string())
    }

    #[test]
    fn guests_are_refused_and_others_are_not() {
        let own = rustix::process::geteuid().as_raw();
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0", "127.0.0.2:0"] {
            let (_client, server) = connection(address);
            let others = Peers::new(vec![own + 1]).expect("the kernel tells");
            assert_eq!(refusal(&others, &server), None, "{address}");
            let own = Peers::new(vec![own]).expect("the kernel tells");
            assert!(refusal(&own, &server).is_some_and(|reason| reason.contains("may not use")), "{address}");
        }
    }

    /// The kernel says that a closed socket is root's.
    #[test]
    fn one_that_was_closed_is_refused() {
        let peers = Peers::new(Vec::new()).expect("the kernel tells");
        let (client, server) = connection("127.0.0.1:0");
        drop(client);
        assert!(refusal(&peers, &server).is_some_and(|reason| reason.contains("not known whose")));
        let (client, server) = connection("127.0.0.1:0");
        rustix::net::sockopt::set_socket_linger(&client, Some(std::time::Duration::ZERO)).expect("an option");
        let addresses = (client.local_addr().expect("an address"), server.local_addr().expect("an address"));
        drop(client);
        assert!(peers.refusal(addresses.0, addresses.1).is_some(), "it was reset, and is nowhere");
    }

    #[test]
    fn other_machines_are_none_of_its_business() {
        let peers = Peers::new(Vec::new()).expect("the kernel tells");
        // An address for documentation, that no machine has.
        let elsewhere = (IpAddr::from([192, 0, 2, 1]), 40_000).into();
        assert!(peers.refusal(elsewhere, (Ipv4Addr::LOCALHOST, 80).into()).is_none());
    }
}
