//! Routes as clients put them: what is accepted says the same after being written again, and a host is the same however it is
//! written.
//!
//! The input is a host, a line end, and a body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ondemand_core::router::{Route, Upstream};
use ondemand_core::{Error, Hostname};
use ondemand_http::wire::{self, PutRoute};

/// An error quotes what it was given, cut to something that a person reads and escaped, so that a log can carry it.
fn check(error: &Error) {
    let message = error.to_string();
    assert!(message.chars().count() < 1200, "{message}");
    assert!(!message.chars().any(char::is_control), "{message:?}");
}

fn check_host(text: &str) -> Option<Hostname> {
    let host = match Hostname::parse_lenient(text) {
        Ok(host) => host,
        Err(error) => {
            check(&error);
            assert!(Hostname::new(text).is_err(), "{text:?} is a host as it is");
            return None;
        }
    };
    assert_eq!(Hostname::new(host.as_str()).expect("a host as the router knows it"), host);
    for same in [host.to_string(), format!("{host}."), host.as_str().to_ascii_uppercase(), format!("{text}.")] {
        // Of the dots at the end one is taken away, and a text may have had it.
        if !text.ends_with(['.', '\u{3002}', '\u{ff0e}', '\u{ff61}']) || !same.starts_with(text) {
            assert_eq!(Hostname::parse_lenient(&same).expect("the same host"), host, "{text:?} {same:?}");
        }
    }
    assert!(Hostname::parse_lenient(&format!("{host}:80")).is_err(), "a port is no part of a host");
    Some(host)
}

fn check_route(route: &Route) {
    route.validate().expect("a route that leads somewhere");
    for upstream in &route.upstreams {
        assert_eq!(Upstream::new(upstream.as_str()).expect("it was accepted before"), *upstream);
        assert!(!upstream.as_str().contains(|c: char| c.is_whitespace() || c.is_control() || "/@?#".contains(c)));
    }
    // As it is saved.
    let saved = serde_json::to_vec(route).expect("JSON");
    assert_eq!(serde_json::from_slice::<Route>(&saved).expect("what was saved"), *route);
    // As it is shown, and put again.
    let shown = wire::Route::new(route.clone(), None);
    let text = serde_json::to_vec(&shown).expect("JSON");
    assert_eq!(serde_json::from_slice::<wire::Route>(&text).expect("what was shown"), shown);
    let wire::Route { host, upstreams, protocol, pending, owner, .. } = shown;
    let put = PutRoute { upstream: None, upstreams: Some(upstreams), protocol, pending, owner };
    let host = Hostname::parse_lenient(&host).expect("a host");
    assert_eq!(put.into_route(host).expect("a route"), *route);
}

fuzz_target!(|input: &[u8]| {
    let (host, body) = match input.iter().position(|&byte| byte == b'\n') {
        Some(end) => (&input[..end], &input[end + 1..]),
        None => (input, &b"{\"pending\":true}"[..]),
    };
    let host = std::str::from_utf8(host).ok().and_then(check_host);
    // What a router saved, or another version wrote, may be anything.
    if let Ok(route) = serde_json::from_slice::<Route>(body)
        && route.validate().is_ok()
    {
        check_route(&route);
    }
    let Ok(put) = serde_json::from_slice::<PutRoute>(body) else { return };
    let again = serde_json::to_vec(&put).expect("JSON");
    assert_eq!(serde_json::from_slice::<PutRoute>(&again).expect("what it wrote itself"), put);
    let host = host.unwrap_or_else(|| Hostname::new("a.example").expect("a host"));
    match put.into_route(host) {
        Ok(route) => check_route(&route),
        Err(error) => check(&error),
    }
});
