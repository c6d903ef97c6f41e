//! Environments over fakes, between things that are not theirs.

use std::collections::BTreeSet;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::databases::tests::World as Data;
use crate::fakes::{FakeOrchestrator, Faulty};
use crate::git::GitOptions;
use crate::router::{Route, Table};

/// Two services, each with a route, on a database.
const SHOP: &str = r#"x-ondemand:
  routes:
    - { suffix: "", service: front, port: 8080, path: /, status: 200 }
    - { suffix: api, service: back, port: 3000, path: /health, status: 200 }
  back: { services: [back], repository: shop/back, branch: main }
  database: { dump: production }
services:
  back: { image: back, entrypoint: [back], environment: { COMMIT: "{{ back.commit }}", PASSWORD: "{{ secrets.database_password }}" } }
  front: { image: front, entrypoint: [front] }
"#;
/// One service without a database.
const PAGE: &str = r#"x-ondemand:
  routes: [ { suffix: "-page", service: page, port: 80, path: /, status: 200 } ]
services:
  page: { image: page, entrypoint: [page] }
"#;
/// What the proxy is called.
const PROXY: &str = "proxy.test";
/// A route that somebody has set by hand.
const MANUAL: &str = "manual.env.dev.internal";
/// An environment that nothing is done to.
pub(super) const BYSTANDER: &str = "bystander";

/// A data directory whose store, orchestrators and router are in memory.
pub(super) struct World {
    pub(super) data: Data,
    pub(super) orchestrator: FakeOrchestrator,
    pub(super) table: Arc<Table>,
    pub(super) options: EnvironmentsOptions,
    pub(super) environments: Environments,
    files: tempfile::TempDir,
    web: String,
    _serving: AbortOnDropHandle<()>,
}

impl World {
    /// Makes one with an environment, a database and a route that nothing is done to.
    pub(super) async fn new() -> Self {
        let files = tempfile::tempdir().unwrap();
        let templates = files.path().join("templates");
        std::fs::create_dir(&templates).unwrap();
        for (name, text) in [("shop", SHOP), ("page", PAGE)] {
            std::fs::write(templates.join(format!("{name}.yml")), text).unwrap();
        }
        push(files.path(), "Sell what there is");
        let (data, orchestrator, table) = (Data::new().await, FakeOrchestrator::new(), Arc::new(Table::new()));
        let (web, serving) = serve(orchestrator.clone(), Arc::clone(&table)).await;
        let options = EnvironmentsOptions {
            templates,
            template: Some("shop".into()),
            domain: "env.dev.internal".parse().unwrap(),
            proxy: format!("http://{PROXY}"),
            public_url: "https://{host}".into(),
            max: 20,
            max_per_user: 10,
            default_keep_days: 1,
            max_keep_days: 7,
            reserved_names: vec!["admin".into(), "wwwapi".into()],
            ready_timeout: Duration::from_secs(10),
            variables: BTreeMap::new(),
            follow_interval: Duration::from_millis(10),
            revive: true,
            run_as: None,
            runner: None,
        };
        let environments = open(&data, &orchestrator, &table, &options, files.path(), &web);
        let world = Self { data, orchestrator, table, options, environments, files, web, _serving: serving };
        let route = Route::new(MANUAL.parse().unwrap(), ["10.0.0.1:80".parse().unwrap()]);
        world.table.set(&route).await.unwrap();
        world.data.databases.create(crate::databases::CreateOptions::default()).await.unwrap();
        world.create(BYSTANDER).await.unwrap();
        world
    }

    /// Ends the process, whatever it was doing, and starts the next one.
    pub(super) fn crash(&mut self) {
        self.data.crash();
        self.reopen();
    }

    /// Puts the environments together anew, such as with other options.
    pub(super) fn reopen(&mut self) {
        let Self { data, orchestrator, table, options, files, web, .. } = &*self;
        self.environments = open(data, orchestrator, table, options, files.path(), web);
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.environments.inner
    }

    pub(super) async fn create(&self, name: &str) -> Result<Environment> {
        self.environments.create(None, wanted(name), silent()).await
    }

    pub(super) async fn redeploy(&self, name: &str) -> Result<Environment> {
        self.environments.redeploy(&name.parse().unwrap(), &Caller::admin(), None, silent()).await
    }

    pub(super) async fn delete(&self, name: &str) -> Result<()> {
        self.environments.delete(&name.parse().unwrap(), &Caller::admin()).await
    }

    pub(super) async fn get(&self, name: &str) -> Result<Environment> {
        self.environments.get(&name.parse().unwrap()).await
    }

    /// Puts a new commit on the branch that environments are made from, and returns it.
    pub(super) fn push(&self, message: &str) -> String {
        push(self.files.path(), message)
    }

    /// Does what the janitor does in a round.
    pub(super) async fn reconcile(&self) -> Report {
        let mut report = Report::default();
        self.data.databases.reconcile(&mut report).await.unwrap();
        self.environments.reconcile(&mut report).await.unwrap();
        report
    }

    /// Checks that these environments, and the bystander, are there and whole, and that there is nothing else.
    pub(super) async fn check(&self, expected: &[&str]) {
        let expected: BTreeSet<_> = expected.iter().copied().chain([BYSTANDER]).collect();
        let names: Vec<_> = self.environments.list().await.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, expected.iter().copied().collect::<Vec<_>>());
        let mut routes = BTreeSet::from([MANUAL.to_owned()]);
        let mut stacks = BTreeSet::new();
        for name in &expected {
            let environment = self.get(name).await.unwrap();
            assert_eq!(environment.status, Status::Ready, "{environment:?}");
            let Deployed { record, stack } = self.inner().ready(&environment.name).await.unwrap();
            let id = environment.database.expect("a database");
            let database = self.data.databases.get(&id).await.expect("its database");
            assert_eq!(database.environment, Some(record::database_mark(&record.name, &record.origin)));
            assert_eq!(database.state, crate::databases::DatabaseState::Running);
            assert!(database.expires >= environment.expires, "{name} outlives its database");
            for host in &record.routes {
                let route = self.table.get(&host.host).await.expect("a route");
                assert_eq!(route.owner, Some(self.inner().route_mark(&record.name)));
                let upstreams = routes::upstreams(&stack, host).unwrap();
                assert!(!route.pending && route.upstreams == upstreams, "{route:?} does not lead to {upstreams:?}");
                assert!(upstreams.iter().all(|upstream| self.orchestrator.is_reached(upstream.as_str())));
                routes.insert(host.host.to_string());
            }
            stacks.insert(stack.name);
        }
        let there = self.table.list().await.unwrap();
        assert_eq!(there.iter().map(|route| route.host.to_string()).collect::<BTreeSet<_>>(), routes);
        let manual = there.iter().find(|route| route.host.as_str() == MANUAL).unwrap();
        assert_eq!((manual.owner.as_deref(), manual.upstreams[0].as_str()), (None, "10.0.0.1:80"));
        assert_eq!(self.orchestrator.names().into_iter().collect::<BTreeSet<_>>(), stacks);
        assert_eq!(self.data.databases.list().await.unwrap().len(), expected.len() + 1, "databases");
        assert_eq!(self.data.volumes().await, expected.len() + 1, "volumes");
        assert_eq!(self.data.orchestrator.names().len(), expected.len() + 1, "servers");
        assert!(self.inner().under_way.all().is_empty(), "{:?}", self.inner().under_way);
        assert_eq!(self.reconcile().await, Report::default(), "a round with nothing to do does nothing");
    }

    /// Waits until nothing is done to any environment, and no database is being made or deleted.
    pub(super) async fn rests(&self) {
        let rest = async {
            while let Some((_, work)) = self.inner().under_way.all().pop() {
                work.over.cancelled().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), rest).await.expect("something goes on and on");
    }
}

pub(super) fn wanted(name: &str) -> CreateEnvironment {
    CreateEnvironment { name: Some(name.parse().unwrap()), ..CreateEnvironment::default() }
}

pub(super) fn silent() -> StepReporter {
    Arc::new(|_| {})
}

fn open(
    data: &Data,
    orchestrator: &FakeOrchestrator,
    table: &Arc<Table>,
    options: &EnvironmentsOptions,
    files: &Path,
    web: &str,
) -> Environments {
    let orchestrator: Arc<dyn Orchestrator> = Arc::new(orchestrator.clone());
    let router: Arc<dyn Router> = Arc::<Table>::clone(table);
    let base = format!("file://{}", files.join("repositories").display());
    let mut inner = Inner::new(Parts {
        instance: data.instance.clone(),
        orchestrator: Arc::new(Faulty::new(orchestrator, data.plan.clone())),
        router: Arc::new(Faulty::new(router, data.plan.clone())),
        databases: data.databases.clone(),
        git: Git::new(&GitOptions { base, ..GitOptions::default() }).unwrap(),
        github: None,
        options: options.clone(),
    })
    .unwrap();
    // Whatever address is asked, the world answers.
    let http = reqwest::Client::builder().proxy(reqwest::Proxy::http(format!("http://{web}")).unwrap());
    inner.http = http.timeout(Duration::from_secs(5)).build().unwrap();
    Environments { inner: Arc::new(inner) }
}

/// Puts a new commit on the branch `main` of `shop/back`, and returns it.
fn push(files: &Path, message: &str) -> String {
    let repository = git2::Repository::init_bare(files.join("repositories/shop/back.git")).unwrap();
    let author = git2::Signature::now("test", "test@example.com").unwrap();
    let tree = repository.treebuilder(None).unwrap().write().unwrap();
    let tree = repository.find_tree(tree).unwrap();
    let parent = repository.find_reference("refs/heads/main").ok().map(|main| main.peel_to_commit().unwrap());
    let parents: Vec<_> = parent.iter().collect();
    repository.commit(Some("refs/heads/main"), &author, &author, message, &tree, &parents).unwrap().to_string()
}

/// Answers for every address: for the proxy's as its routes lead, for another where a service runs that has published it.
async fn serve(orchestrator: FakeOrchestrator, table: Arc<Table>) -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            tokio::spawn(answer(stream, orchestrator.clone(), Arc::clone(&table)));
        }
    });
    (address, AbortOnDropHandle::new(serving))
}

async fn answer(mut stream: TcpStream, orchestrator: FakeOrchestrator, table: Arc<Table>) -> Option<()> {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut asked).await.ok()? == 0 {
            return None;
        }
    }
    let asked = String::from_utf8(asked).ok()?.to_lowercase();
    let authority = asked.split("http://").nth(1)?.split('/').next()?;
    let host = asked.lines().find_map(|line| line.strip_prefix("host: "))?;
    let status = if authority == PROXY {
        match table.get(&host.parse().ok()?).await {
            Ok(route) if route.upstreams.iter().any(|upstream| orchestrator.is_reached(upstream.as_str())) => 200,
            Ok(_) => 502,
            Err(_) => 404,
        }
    } else if orchestrator.is_reached(authority) {
        200
    } else {
        502
    };
    let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).await.ok()
}
