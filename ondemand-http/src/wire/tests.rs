use ondemand_core::{DatabaseId, Secret};
use serde_json::json;

use super::*;

fn server() -> Server {
    Server {
        id: "30c8e143ee0c24aa322d1918ee5dd37f00590ea63bed9c032046ccfaf111f332".into(),
        name: "/pgondemand_5433".into(),
        expires_at: "1464266476".into(),
        host: "pg.dev.internal".into(),
        port: "5433".into(),
        status: DatabaseState::Running,
        user: "postgres".into(),
        password: Some("secret".into()),
        dbname: "shop".into(),
        url: Some("postgresql://postgres:secret@pg.dev.internal:5433/shop".into()),
        dataset: "production".into(),
        snapshot: "production@20261122-192300".into(),
        created_at: "1464180076".into(),
        durable: false,
        settings: BTreeMap::new(),
        leased: false,
    }
}

/// The contract that clients rely on: these fields, so named, of these types, in this order.
#[test]
fn a_server_is_written_as_the_contract_has_it() {
    let text = serde_json::to_string(&server()).expect("JSON");
    let contract = concat!(
        r#"{"Id":"30c8e143ee0c24aa322d1918ee5dd37f00590ea63bed9c032046ccfaf111f332","#,
        r#""Name":"/pgondemand_5433","Expires_at":"1464266476","#,
        r#""Host":"pg.dev.internal","Port":"5433","Status":"Running","#,
    );
    assert!(text.starts_with(contract), "{text}");
    let rest = concat!(
        r#""User":"postgres","Password":"secret","Dbname":"shop","#,
        r#""Url":"postgresql://postgres:secret@pg.dev.internal:5433/shop","Dataset":"production","#,
        r#""Snapshot":"production@20261122-192300","Created_at":"1464180076","Durable":false,"Settings":{},"Leased":false}"#,
    );
    assert_eq!(&text[contract.len()..], rest);
    assert_eq!(serde_json::from_str::<Server>(&text).expect("a server"), server());
}

#[test]
fn a_database_becomes_a_server() {
    let created = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_464_180_076);
    let database = Database {
        id: DatabaseId::new("30c8e143ee0c24aa322d1918ee5dd37f00590ea63bed9c032046ccfaf111f332").expect("an id"),
        name: "pgondemand_5433".parse().expect("a name"),
        dataset: "production".parse().expect("a dataset"),
        version: "20261122-192300".parse().expect("a version"),
        host: "pg.dev.internal".into(),
        port: 5433,
        user: "postgres".into(),
        password: Secret::new("secret"),
        dbname: "shop".into(),
        created: created.into(),
        expires: (created + Duration::from_secs(86_400)).into(),
        durable: false,
        settings: BTreeMap::new(),
        environment: None,
        lease: None,
        state: DatabaseState::Running,
    };
    let listed = Server::without_password(&database);
    assert_eq!(listed, Server { password: None, url: None, ..server() });
    assert!(!serde_json::to_string(&listed).expect("JSON").contains("secret"));
}

#[test]
fn nothing_asks_for_the_defaults() {
    let wanted: CreateServer = serde_json::from_str("{}").expect("a request");
    assert_eq!(
        ondemand_core::CreateOptions::try_from(wanted).expect("options"),
        ondemand_core::CreateOptions::default()
    );
    assert_eq!(serde_json::to_string(&CreateServer::default()).expect("JSON"), r#"{"Durable":false}"#);
}

#[test]
fn everything_can_be_asked_for() {
    let wanted: CreateServer = serde_json::from_value(json!({
        "Dataset": "production@20261122-192300", "Ttl": "2h", "Name": "mine", "Durable": true,
        "Settings": {"work_mem": "64MB", "max_connections": 200, "jit": false},
    }))
    .expect("a request");
    let options = ondemand_core::CreateOptions::try_from(wanted).expect("options");
    assert_eq!(options.dataset.map(|d| d.to_string()).as_deref(), Some("production@20261122-192300"));
    assert_eq!(options.ttl.map(|ttl| ttl.duration().as_secs()), Some(7200));
    assert_eq!(options.name.map(|n| n.to_string()).as_deref(), Some("mine"));
    assert!(options.durable);
    let settings: Vec<_> = options.settings.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(settings, ["jit=off", "max_connections=200", "work_mem=64MB"]);
}

#[test]
fn what_is_unknown_or_wrong_is_named() {
    let wrong = |body: serde_json::Value| serde_json::from_value::<CreateServer>(body).expect_err("wrong").to_string();
    assert!(wrong(json!({"Datset": "x"})).contains("`Datset`"));
    assert!(wrong(json!({"dataset": "x"})).contains("`dataset`"));
    assert!(wrong(json!({"Settings": {"a": []}})).contains("\"a\""));
    assert!(wrong(json!({"Ttl": "soon"})).contains("ttl"));
    let named = CreateServer { name: Some("No Good".into()), ..CreateServer::default() };
    let error = ondemand_core::CreateOptions::try_from(named).expect_err("a bad name");
    assert_eq!(error.code(), Code::InvalidName);
}

#[test]
fn an_expiry_is_a_moment_or_a_time_to_live() {
    let now = UNIX_EPOCH + Duration::from_secs(1000);
    let ttl = |body: serde_json::Value| {
        serde_json::from_value::<PatchServer>(body).map_err(|e| e.to_string()).and_then(|patch| {
            patch.ttl(now).map(|ttl| ttl.map_or(0, |ttl| ttl.duration().as_secs())).map_err(|e| e.to_string())
        })
    };
    assert_eq!(ttl(json!({"Ttl": "2d"})), Ok(172_800));
    assert_eq!(ttl(json!({"Ttl": 60})), Ok(60));
    assert_eq!(ttl(json!({"Expires_at": "1060"})), Ok(60));
    assert_eq!(ttl(json!({"Expires_at": 1060})), Ok(60));
    assert_eq!(ttl(json!({"Lease": null})), Ok(0), "the time stays");
    assert_eq!(ttl(json!({"Lease": null, "Ttl": 60})), Ok(60));
    for bad in
        [json!({}), json!({"Ttl": 1, "Expires_at": 2000}), json!({"Expires_at": 1000}), json!({"Expires_at": "x"})]
    {
        assert!(ttl(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn every_status_is_in_the_description() {
    let described = serde_json::to_value(status_schema()).expect("JSON");
    // Adding a state makes this match incomplete only within its crate, so the list here names each by hand.
    for state in [DatabaseState::Running, DatabaseState::Resetting, DatabaseState::Starting, DatabaseState::Stopped] {
        let name = serde_json::to_value(state).expect("JSON");
        assert!(described["enum"].as_array().expect("values").contains(&name), "{name}");
    }
}

#[test]
fn a_route_is_written_with_what_is_known_of_it() {
    let host: ondemand_core::Hostname = "a.example".parse().expect("a host");
    let route = ondemand_core::router::Route::new(host, ["10.0.0.5:80".parse().expect("an upstream")]);
    let mut activity = ondemand_core::router::proxy::Activity::default();
    (activity.in_flight, activity.upgrades, activity.requests) = (1, 2, 3);
    let plain = r#"{"host":"a.example","upstreams":["10.0.0.5:80"],"protocol":"http1","pending":false"#;
    for (activity, rest) in [
        (None, String::new()),
        (Some(activity.clone()), r#","in-flight":1,"upgrades":2,"requests":3,"last-active":null"#.into()),
        (
            {
                activity.last_active = Some(UNIX_EPOCH + Duration::from_millis(1_464_266_476_500));
                Some(activity)
            },
            r#","in-flight":1,"upgrades":2,"requests":3,"last-active":"2016-05-26T12:41:16.500Z""#.into(),
        ),
    ] {
        let written = Route::new(route.clone(), activity);
        let text = serde_json::to_string(&written).expect("JSON");
        assert_eq!(text, format!("{plain}{rest}}}"));
        assert_eq!(serde_json::from_str::<Route>(&text).expect("a route"), written);
    }
}

#[test]
fn an_unset_field_of_a_route_is_not_written() {
    let put = PutRoute { upstream: Some("10.0.0.5:80".into()), ..PutRoute::default() };
    let text = serde_json::to_string(&put).expect("JSON");
    assert_eq!(text, r#"{"upstream":"10.0.0.5:80","protocol":"http1","pending":false}"#);
    assert_eq!(serde_json::from_str::<PutRoute>(&text).expect("what was written"), put);
}
