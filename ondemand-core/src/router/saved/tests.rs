use std::fs;

use super::*;
use crate::fakes::{Fault, FaultPlan, Faulty};
use crate::router::{Table, Upstream};

fn route(host: &str, upstream: &str) -> Route {
    Route::new(Hostname::new(host).unwrap(), [Upstream::new(upstream).unwrap()])
}

fn table() -> Arc<dyn Router> {
    Arc::new(Table::new())
}

/// Opens the directory as another process would, and returns what is set.
async fn after_a_restart(dir: &Path) -> Vec<Route> {
    let table = table();
    Saved::open(dir, Arc::clone(&table)).await.unwrap();
    table.list().await.unwrap()
}

fn broken() -> Error {
    Error::backend("test", "setting a route", "it is broken")
}

#[tokio::test]
async fn routes_are_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let routes = dir.path().join("routes");
    let saved = Saved::open(&routes, table()).await.unwrap();
    let (mine, other) = (route("a.example", "10.0.0.1:80"), route("b.example", "10.0.0.2:80"));
    let pending = Route::pending(Hostname::new("c.example").unwrap());
    for route in [&other, &mine, &pending] {
        saved.set(route).await.unwrap();
    }
    saved.set(&route("b.example", "10.0.0.3:80")).await.unwrap();
    saved.set(&route("d.example", "10.0.0.4:80")).await.unwrap();
    saved.remove(&Hostname::new("d.example").unwrap()).await.unwrap();
    let expected = [mine, route("b.example", "10.0.0.3:80"), pending];
    assert_eq!(saved.list().await.unwrap(), expected);
    assert_eq!(after_a_restart(&routes).await, expected);
    let names: Vec<_> = fs::read_dir(&routes).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "a file is left: {names:?}");
}

#[tokio::test]
async fn the_longest_host_has_a_file_too() {
    let dir = tempfile::tempdir().unwrap();
    let saved = Saved::open(dir.path(), table()).await.unwrap();
    let long = route(&"x.".repeat(126).trim_end_matches('.').replace("x.x.", "xyz."), "10.0.0.1:80");
    assert!(long.host.as_str().len() > 240, "{}", long.host);
    let longest = route(&"a".repeat(253), "10.0.0.2:80");
    let like_it = route(&format!("{}b", "a".repeat(252)), "10.0.0.3:80");
    let expected = [longest, like_it, long];
    for route in &expected {
        saved.set(route).await.unwrap();
    }
    assert_eq!(after_a_restart(dir.path()).await, expected);
    for route in &expected {
        saved.remove(&route.host).await.unwrap();
    }
    assert_eq!(after_a_restart(dir.path()).await, []);
}

#[tokio::test]
async fn a_damaged_file_stands_in_no_other_routes_way() {
    let dir = tempfile::tempdir().unwrap();
    let saved = Saved::open(dir.path(), table()).await.unwrap();
    let good = route("good.example", "10.0.0.1:80");
    saved.set(&good).await.unwrap();
    let text = fs::read_to_string(dir.path().join("good.example.json")).unwrap();
    let damaged = [
        ("half.example.json", &text[..text.len() / 2]),
        ("nothing.example.json", ""),
        ("binary.example.json", "\0\u{1}"),
        ("other.example.json", &text),
        ("nowhere.example.json", r#"{"host":"nowhere.example","upstreams":[]}"#),
        ("bad.example.json", r#"{"host":"bad.example","upstreams":["10.0.0.1"]}"#),
        ("No Host.json", "{}"),
    ];
    for (name, text) in damaged {
        fs::write(dir.path().join(name), text).unwrap();
    }
    fs::create_dir(dir.path().join("directory.example.json")).unwrap();
    assert_eq!(after_a_restart(dir.path()).await, std::slice::from_ref(&good));
    for (name, text) in damaged {
        assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), text, "{name} is not left alone");
    }
    let saved = Saved::open(dir.path(), table()).await.unwrap();
    let names = |saved: &Saved| saved.unreadable().into_iter().map(|what| what.name).collect::<Vec<_>>();
    let hosts = ["No Host", "bad", "binary", "directory", "half", "nothing", "nowhere", "other"];
    let told = hosts.map(|host| if host == "No Host" { host.to_owned() } else { format!("{host}.example") });
    assert_eq!(names(&saved), told);
    saved.set(&route("half.example", "10.0.0.2:80")).await.unwrap();
    saved.remove(&Hostname::new("other.example").unwrap()).await.unwrap();
    let left: Vec<_> =
        told.into_iter().filter(|name| !name.starts_with("half") && !name.starts_with("other")).collect();
    assert_eq!(names(&saved), left);
    // Setting the route mends it.
    let half = route("half.example", "10.0.0.2:80");
    saved.set(&half).await.unwrap();
    assert_eq!(after_a_restart(dir.path()).await, [good, half]);
}

#[tokio::test]
async fn what_cannot_be_saved_is_not_set() {
    let dir = tempfile::tempdir().unwrap();
    let routes = dir.path().join("routes");
    let table = table();
    let saved = Saved::open(&routes, Arc::clone(&table)).await.unwrap();
    let kept = route("a.example", "10.0.0.1:80");
    saved.set(&kept).await.unwrap();
    // Whoever is root may write where nobody may, so it is not by its mode that the directory refuses.
    fs::remove_dir_all(&routes).unwrap();
    for change in [route("a.example", "10.0.0.2:80"), route("b.example", "10.0.0.2:80")] {
        let error = saved.set(&change).await.unwrap_err();
        assert_eq!(error.code(), Code::Backend, "{error}");
        assert!(error.to_string().contains(&routes.display().to_string()), "{error}");
    }
    assert!(saved.remove(&kept.host).await.is_err());
    assert_eq!(table.list().await.unwrap(), [kept]);
}

#[tokio::test]
async fn what_cannot_be_set_is_not_saved() {
    let dir = tempfile::tempdir().unwrap();
    let (table, plan) = (table(), FaultPlan::new());
    let saved = Saved::open(dir.path(), Arc::new(Faulty::new(Arc::clone(&table), plan.clone()))).await.unwrap();
    let kept = route("a.example", "10.0.0.1:80");
    saved.set(&kept).await.unwrap();
    plan.on("set", 2, Fault::fail_before(broken));
    plan.on("set", 3, Fault::fail_before(broken));
    plan.on("set", 4, Fault::fail_after(broken));
    plan.on("remove", 1, Fault::fail_before(broken));
    saved.set(&route("a.example", "10.0.0.2:80")).await.unwrap_err();
    saved.set(&route("b.example", "10.0.0.2:80")).await.unwrap_err();
    assert_eq!(after_a_restart(dir.path()).await, std::slice::from_ref(&kept));
    // Only the answer was lost: what holds is what is saved.
    let made = route("c.example", "10.0.0.2:80");
    saved.set(&made).await.unwrap_err();
    assert_eq!(after_a_restart(dir.path()).await, [kept.clone(), made.clone()]);
    saved.remove(&kept.host).await.unwrap_err();
    assert_eq!(after_a_restart(dir.path()).await, [kept, made]);
    assert_eq!(after_a_restart(dir.path()).await, table.list().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_racing_changes_the_last_is_both_set_and_saved() {
    let dir = tempfile::tempdir().unwrap();
    let table = table();
    let saved = Arc::new(Saved::open(dir.path(), Arc::clone(&table)).await.unwrap());
    for _ in 0..20 {
        let racers = (1..=16_u32).map(|i| {
            let saved = Arc::clone(&saved);
            tokio::spawn(async move {
                let host = format!("h{}.example", i % 2);
                if i % 5 == 0 {
                    saved.remove(&Hostname::new(host).unwrap()).await
                } else {
                    saved.set(&route(&host, &format!("10.0.0.{i}:80"))).await
                }
            })
        });
        for racer in racers.collect::<Vec<_>>() {
            racer.await.unwrap().unwrap();
        }
        assert_eq!(after_a_restart(dir.path()).await, table.list().await.unwrap());
    }
}

/// A client that goes away while its change is made leaves the route old or new, on disk as in the table.
#[tokio::test]
async fn a_change_that_nobody_waits_for_is_made_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (table, plan) = (table(), FaultPlan::new());
    let saved =
        Arc::new(Saved::open(dir.path(), Arc::new(Faulty::new(Arc::clone(&table), plan.clone()))).await.unwrap());
    plan.on("set", 1, Fault::Delay(std::time::Duration::from_millis(50)));
    let setting = tokio::spawn({
        let saved = Arc::clone(&saved);
        async move { saved.set(&route("a.example", "10.0.0.1:80")).await }
    });
    plan.reached("set", 1).await;
    setting.abort();
    assert!(setting.await.unwrap_err().is_cancelled());
    // The next change of the same host waits for it.
    saved.set(&route("a.example", "10.0.0.2:80")).await.unwrap();
    let expected = [route("a.example", "10.0.0.2:80")];
    assert_eq!(table.list().await.unwrap(), expected);
    assert_eq!(plan.calls().iter().filter(|call| call.method == "set").count(), 2);
    assert_eq!(after_a_restart(dir.path()).await, expected);
}

/// What a process that was killed while it wrote left behind is no route, and goes.
#[tokio::test]
async fn a_file_that_was_being_written_is_no_route() {
    let dir = tempfile::tempdir().unwrap();
    let half = dir.path().join(".a.example.7.tmp");
    fs::write(&half, r#"{"host":"a.ex"#).unwrap();
    assert_eq!(after_a_restart(dir.path()).await, []);
    assert!(!half.exists());
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for bad in [file.clone(), file.join("routes"), dir.path().join("a/b")] {
        let error = Saved::open(&bad, table()).await.unwrap_err();
        assert!(error.to_string().contains(&bad.display().to_string()), "{error}");
    }
}
