//! The fake orchestrator: it keeps the contract, and is strict.

#![expect(clippy::expect_used, reason = "these are tests")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use ondemand_core::conformance::orchestrator::{Harness, Program};
use ondemand_core::fakes::{FakeOrchestrator, FakeProgram};
use ondemand_core::orchestrator::{PublishedPort, ServiceSpec, ServiceState, StackSpec};
use ondemand_core::{AttemptId, Error, Orchestrator, ServiceName, StackName};

struct Fake(FakeOrchestrator);

impl Fake {
    fn start() -> Self {
        let fake = FakeOrchestrator::new();
        fake.program("exits", FakeProgram::Exits(3));
        fake.program("prints", FakeProgram::Prints(["one", "two", "three"].map(str::to_owned).to_vec()));
        fake.program("ticks", FakeProgram::Ticks(Duration::from_millis(10)));
        fake.program("missing", FakeProgram::Missing);
        fake.program("completes", FakeProgram::PrintsAndExits(vec!["done".into()], 0));
        fake.program("fails", FakeProgram::PrintsAndExits(vec!["no such table".into()], 3));
        fake.program("finds", FakeProgram::Finds("ONDEMAND_SERVICE_WEB_SERVER".into()));
        fake.program("reads", FakeProgram::PrintsSecret("token".into()));
        fake.program("litters", FakeProgram::Prints(vec!["clean".into()]));
        fake.program("unhealthy", FakeProgram::Unhealthy);
        Self(fake)
    }
}

impl Harness for Fake {
    fn open(&self) -> Arc<dyn Orchestrator> {
        Arc::new(self.0.clone())
    }

    fn service(&self, name: &str, program: Program) -> ServiceSpec {
        let command = match program {
            Program::Sleeps | Program::Stubborn => "sleeps",
            Program::Exits => "exits",
            Program::Prints => "prints",
            Program::Ticks => "ticks",
            Program::Missing => "missing",
            Program::Completes => "completes",
            Program::Fails => "fails",
            Program::Listens => "listens",
            Program::Finds | Program::FindsAtOnce => "finds",
            Program::ReadsSecret => "reads",
            Program::Litters => "litters",
        };
        // It has no shell to try a health check with.
        service(name, if name == "bad" && command == "sleeps" { "unhealthy" } else { command })
    }

    fn ask<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Option<String>> {
        Box::pin(async move { self.0.is_reached(address).then(|| "hello".to_owned()) })
    }

    fn inspect<'a>(&'a self, stack: &'a StackName) -> BoxFuture<'a, String> {
        Box::pin(async move { format!("{:?} {:?}", self.0, self.0.spec(stack)) })
    }

    fn is_alive(&self, pid: u32) -> bool {
        self.0.is_alive(pid)
    }
}

ondemand_core::orchestrator_conformance!(Fake::start());

fn service(name: &str, command: &str) -> ServiceSpec {
    ServiceSpec::new(ServiceName::new(name).expect("a service name"), vec![command.to_owned()])
}

fn stack(name: &str, service: ServiceSpec) -> StackSpec {
    StackSpec::new(StackName::new(name).expect("a stack name"), AttemptId::random().expect("randomness"), vec![service])
}

#[tokio::test]
async fn a_stack_exits_when_it_is_told_to() {
    let fake = FakeOrchestrator::new();
    let spec = stack("a", service("main", "any"));
    fake.deploy(&spec).await.expect("deployed");
    assert_eq!(fake.spec(&spec.name), Some(spec.clone()));
    let waiting = tokio::spawn({
        let (fake, name) = (fake.clone(), spec.name.clone());
        async move { fake.wait_stopped(&name).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(fake.exit(&spec.name, 7), 1);
    let stopped = waiting.await.expect("no panic").expect("a stack");
    assert_eq!(stopped.services[0].state, ServiceState::Exited { status: Some(7) });
    assert_eq!(fake.exit(&spec.name, 7), 0);
}

#[tokio::test]
async fn ports_are_checked() {
    let fake = FakeOrchestrator::new();
    let mut main = service("main", "any");
    main.ports = vec![PublishedPort { published: ([127, 0, 0, 1], 5433).into(), target: 5433 }];
    let first = fake.deploy(&stack("a", main.clone())).await.expect("deployed");
    let conflict = fake.deploy(&stack("b", main.clone())).await.expect_err("the port is taken");
    assert!(matches!(conflict, Error::Conflict { .. }), "{conflict:?}");
    fake.remove(&first.id).await.expect("removed");
    fake.deploy(&stack("b", main)).await.expect("the port is free");
}

#[tokio::test]
async fn one_id_is_deployed_once() {
    let fake = FakeOrchestrator::new();
    let spec = stack("a", service("main", "any"));
    let first = fake.deploy(&spec).await.expect("deployed");
    fake.remove(&first.id).await.expect("removed");
    let again = tokio::spawn(async move { fake.deploy(&spec).await }).await;
    assert!(again.expect_err("an attempt is one try").is_panic());
}
