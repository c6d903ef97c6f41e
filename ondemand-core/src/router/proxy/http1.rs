//! HTTP/1.1 with clients and upstreams.
//!
//! The messages are parsed, checked and moved here rather than by a general HTTP library: such a library takes what a proxy must not
//! pass on (bare line feeds, lengths that are given twice), hides where a body's bytes are, and hands every request from task to task.
//! The fields of a head are parsed by `httparse`.

pub(super) mod body;
pub(super) mod connection;
mod exchange;
pub(super) mod forward;
pub(super) mod pump;
pub(super) mod request;
pub(super) mod response;
pub(super) mod scan;
mod trailers;
