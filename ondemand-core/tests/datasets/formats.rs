//! Everything that can be imported.

use std::sync::{Arc, Mutex};

use ondemand_core::progress::{Event, Phase};
use ondemand_core::{ImportOptions, Source};

use crate::{Setup, dataset, stream};

const SHOP: &str = "--
-- PostgreSQL database dump
--

SET client_encoding = 'UTF8';
CREATE TABLE public.item (id bigint PRIMARY KEY, name text NOT NULL);
ALTER TABLE public.item OWNER TO postgres;
COPY public.item (id, name) FROM stdin;
1\tcoffee
2\tthé
\\.
CREATE INDEX ON public.item (name);

--
-- PostgreSQL database dump complete
--
";

#[tokio::test]
async fn plain_sql() {
    let setup = Setup::new().await;
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = events.clone();
    let reporter = Arc::new(move |event: Event| seen.lock().unwrap().push(event));
    let name = dataset("shop");
    let snapshot = setup.datasets.import(&name, stream(SHOP), ImportOptions::default(), reporter).await.unwrap();
    setup.assert_clean().await;
    assert_eq!((snapshot.dataset.as_str(), snapshot.dbname.as_str(), snapshot.postgres), ("shop", "postgres", 15));
    assert_eq!(snapshot.dump_bytes, SHOP.len() as u64);
    assert!(snapshot.data_bytes > 1 << 20 && snapshot.data_bytes < 64 << 20, "{}", snapshot.data_bytes);
    assert_eq!(setup.datasets.resolve(None).await.unwrap(), snapshot);

    let phases: Vec<Phase> = events.lock().unwrap().iter().map(|event| event.phase).collect();
    assert!(phases.is_sorted(), "{phases:?}");
    for phase in
        [Phase::Preparing, Phase::Restoring, Phase::Neutralising, Phase::Analysing, Phase::Publishing, Phase::Done]
    {
        assert!(phases.contains(&phase), "{phase} in {phases:?}");
    }
    let last = events.lock().unwrap().last().cloned().unwrap();
    assert_eq!((last.bytes, last.total), (SHOP.len() as u64, Some(SHOP.len() as u64)));

    let server = setup.look(&snapshot).await;
    assert_eq!(server.sql("postgres", "SELECT name FROM item ORDER BY id"), "coffee\nthé");
    assert_eq!(server.sql("postgres", "SELECT reltuples FROM pg_class WHERE relname = 'item'"), "2", "it is analysed");
    assert_eq!(
        server.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolsuper ORDER BY 1"),
        "ondemand_admin\npostgres"
    );
}
