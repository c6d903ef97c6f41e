//! The contract of [`Router`] as tests.
//!
//! ```text
//! ondemand_core::router_conformance!(my_router, Arc::new(MyRouter::new()));
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Code;
use crate::name::Hostname;
use crate::router::{Protocol, Route, Router, Upstream};

/// Expands to a module with one test for each behaviour. The expression makes an `Arc<dyn Router>` that has no routes.
#[macro_export]
macro_rules! router_conformance {
    ($module:ident, $router:expr) => {
        $crate::router_conformance! { @tests $module, $router,
            a_route_is_listed_as_it_was_set
            setting_a_route_again_replaces_it
            removing_is_idempotent
            routes_are_listed_in_the_order_of_their_hosts
            a_route_without_upstreams_is_refused
            other_routes_are_not_touched
            a_replacement_is_never_seen_half_done
            many_routes_set_at_once_are_all_there
            one_route_is_asked_for_by_its_host
            a_pending_route_needs_no_upstream
            what_upstreams_speak_is_kept
            who_looks_after_a_route_is_kept
        }
    };
    (@tests $module:ident, $router:expr, $($behaviour:ident)*) => {
        mod $module {
            #[allow(unused_imports, reason = "the expression may need none of them")]
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $behaviour() {
                    let router: std::sync::Arc<dyn $crate::Router> = $router;
                    $crate::conformance::router::$behaviour(router).await;
                }
            )*
        }
    };
}

fn route(host: &str, upstreams: &[&str]) -> Route {
    Route::new(Hostname::new(host).unwrap(), upstreams.iter().map(|upstream| Upstream::new(*upstream).unwrap()))
}

/// A route is listed with its upstreams in their order.
pub async fn a_route_is_listed_as_it_was_set(router: Arc<dyn Router>) {
    assert_eq!(router.list().await.unwrap(), []);
    let route = route("a.example", &["10.0.0.2:80", "10.0.0.1:80", "[::1]:8080", "backend:1"]);
    router.set(&route).await.unwrap();
    assert_eq!(router.list().await.unwrap(), [route]);
}

/// The last upstreams set are the only ones.
pub async fn setting_a_route_again_replaces_it(router: Arc<dyn Router>) {
    router.set(&route("a.example", &["10.0.0.1:80", "10.0.0.2:80"])).await.unwrap();
    let second = route("a.example", &["10.0.0.3:80"]);
    router.set(&second).await.unwrap();
    assert_eq!(router.list().await.unwrap(), std::slice::from_ref(&second));
    router.set(&second).await.unwrap();
    assert_eq!(router.list().await.unwrap(), [second]);
}

/// Removing succeeds however often, and the host can be set again.
pub async fn removing_is_idempotent(router: Arc<dyn Router>) {
    let route = route("a.example", &["10.0.0.1:80"]);
    router.remove(&route.host).await.unwrap();
    router.set(&route).await.unwrap();
    router.remove(&route.host).await.unwrap();
    router.remove(&route.host).await.unwrap();
    assert_eq!(router.list().await.unwrap(), []);
    router.set(&route).await.unwrap();
    assert_eq!(router.list().await.unwrap(), [route]);
}

/// Routes are listed in the order of their hosts, however they were set.
pub async fn routes_are_listed_in_the_order_of_their_hosts(router: Arc<dyn Router>) {
    for host in ["c.example", "a.example", "b.example", "a", "a-b.example"] {
        router.set(&route(host, &["10.0.0.1:80"])).await.unwrap();
    }
    let listed = router.list().await.unwrap();
    let hosts: Vec<_> = listed.iter().map(|route| route.host.as_str()).collect();
    assert_eq!(hosts, ["a", "a-b.example", "a.example", "b.example", "c.example"]);
}

/// A route that leads nowhere is an error, and what was set before stays.
pub async fn a_route_without_upstreams_is_refused(router: Arc<dyn Router>) {
    let good = route("a.example", &["10.0.0.1:80"]);
    router.set(&good).await.unwrap();
    for host in ["a.example", "b.example"] {
        let error = router.set(&route(host, &[])).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidInput, "{error:?}");
    }
    assert_eq!(router.list().await.unwrap(), [good]);
}

/// Setting and removing one host changes no other, however alike their names.
pub async fn other_routes_are_not_touched(router: Arc<dyn Router>) {
    let others = [route("example", &["10.0.0.1:80"]), route("xa.example", &["10.0.0.2:80"])];
    for other in &others {
        router.set(other).await.unwrap();
    }
    let mine = route("a.example", &["10.0.0.3:80"]);
    router.set(&mine).await.unwrap();
    router.set(&route("a.example", &["10.0.0.4:80"])).await.unwrap();
    router.remove(&mine.host).await.unwrap();
    assert_eq!(router.list().await.unwrap(), others);
}

/// While a route is replaced again and again, every reader sees one of its versions, whole, and never none.
pub async fn a_replacement_is_never_seen_half_done(router: Arc<dyn Router>) {
    let versions = [
        route("a.example", &["10.0.0.1:80", "10.0.0.2:80"]),
        route("a.example", &["10.0.0.3:80", "10.0.0.4:80", "10.0.0.5:80"]),
    ];
    router.set(&versions[0]).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let readers = (0..4).map(|_| {
        let (router, versions, done) = (Arc::clone(&router), versions.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            let mut reads = 0_u32;
            while !done.load(Ordering::Relaxed) || reads == 0 {
                let listed = router.list().await.unwrap();
                assert_eq!(listed.len(), 1, "{listed:?}");
                assert!(versions.contains(&listed[0]), "{listed:?}");
                reads += 1;
                tokio::task::yield_now().await;
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    for i in 0..500 {
        router.set(&versions[(i + 1) % 2]).await.unwrap();
        // It has taken effect when it returns.
        assert_eq!(router.list().await.unwrap(), [versions[(i + 1) % 2].clone()]);
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
}

/// No route is lost among those that are set at the same time.
pub async fn many_routes_set_at_once_are_all_there(router: Arc<dyn Router>) {
    let expected: Vec<_> = (0..64).map(|i| route(&format!("h{i:02}.example"), &["10.0.0.1:80"])).collect();
    let setters = expected.clone().into_iter().map(|route| {
        let router = Arc::clone(&router);
        tokio::spawn(async move { router.set(&route).await })
    });
    for setter in setters.collect::<Vec<_>>() {
        setter.await.unwrap().unwrap();
    }
    assert_eq!(router.list().await.unwrap(), expected);
}

/// A host's route is what was set, and an unknown host is an error.
pub async fn one_route_is_asked_for_by_its_host(router: Arc<dyn Router>) {
    let (mine, other) = (route("a.example", &["10.0.0.1:80"]), route("b.example", &["10.0.0.2:80"]));
    router.set(&mine).await.unwrap();
    router.set(&other).await.unwrap();
    assert_eq!(router.get(&mine.host).await.unwrap(), mine);
    router.remove(&mine.host).await.unwrap();
    assert_eq!(router.get(&mine.host).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(router.get(&other.host).await.unwrap(), other);
}

/// A route may be there before what it leads to is, and stops being pending when it is set again.
pub async fn a_pending_route_needs_no_upstream(router: Arc<dyn Router>) {
    let ready = route("a.example", &["10.0.0.1:80"]);
    let pending = Route::pending(ready.host.clone());
    router.set(&pending).await.unwrap();
    assert_eq!(router.list().await.unwrap(), std::slice::from_ref(&pending));
    router.set(&ready).await.unwrap();
    assert_eq!(router.list().await.unwrap(), std::slice::from_ref(&ready));
    let paused = Route { pending: true, ..ready };
    router.set(&paused).await.unwrap();
    assert_eq!(router.list().await.unwrap(), [paused]);
}

/// A route says what its upstreams speak, and setting it again may change that.
pub async fn what_upstreams_speak_is_kept(router: Arc<dyn Router>) {
    let second = route("a.example", &["10.0.0.1:80"]).with_protocol(Protocol::Http2);
    router.set(&second).await.unwrap();
    assert_eq!(router.list().await.unwrap(), std::slice::from_ref(&second));
    let first = second.with_protocol(Protocol::Http1);
    router.set(&first).await.unwrap();
    assert_eq!(router.list().await.unwrap(), [first]);
}

/// A route says what looks after it, and setting it again may change that.
pub async fn who_looks_after_a_route_is_kept(router: Arc<dyn Router>) {
    let own = route("a.example", &["10.0.0.1:80"]).with_owner("0123abcd/demo");
    router.set(&own).await.unwrap();
    assert_eq!(router.list().await.unwrap(), std::slice::from_ref(&own));
    assert_eq!(router.get(&own.host).await.unwrap(), own);
    let manual = Route { owner: None, ..own };
    router.set(&manual).await.unwrap();
    assert_eq!(router.list().await.unwrap(), [manual]);
}
