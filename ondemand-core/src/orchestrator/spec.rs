//! What every implementation makes of a specification.

use std::collections::BTreeSet;
use std::future::Future;

use tokio::sync::oneshot;

use super::{Service, ServiceState, Stack, StackId, StackSpec};
use crate::error::{Error, Result};
use crate::name::{AttemptId, StackName};

impl StackId {
    /// Returns the id of the deployment of a name by an attempt, so that what an attempt left can be removed without knowing
    /// whether it got far enough to be listed.
    pub fn of(name: &StackName, attempt: &AttemptId) -> Self {
        // A name holds no dot.
        Self(format!("{name}.{attempt}"))
    }

    /// Returns the name and the attempt; `None` if no orchestrator of ours gave this id.
    pub(crate) fn parts(&self) -> Option<(StackName, AttemptId)> {
        let (name, attempt) = self.0.split_once('.')?;
        Some((StackName::new(name).ok()?, AttemptId::new(attempt).ok()?))
    }
}

impl StackSpec {
    /// Returns the id that its deployment has.
    pub fn id(&self) -> StackId {
        StackId::of(&self.name, &self.attempt)
    }

    /// Checks what no orchestrator could run.
    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |reason: String| Err(Error::invalid(format!("stack {}", self.name), reason));
        if self.services.is_empty() {
            return invalid("it has no service".into());
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = self.services.iter().find(|service| !names.insert(&service.name)) {
            return invalid(format!("it has two services named {}", twice.name));
        }
        let mut mounts = self.services.iter().flat_map(|service| &service.mounts);
        if let Some(mount) = mounts.find(|mount| !mount.source.is_absolute() || !mount.target.is_absolute()) {
            return invalid(format!("its mount {} is not an absolute path", mount.source.display()));
        }
        Ok(())
    }
}

impl Service {
    /// Tells whether it runs or is about to.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, ServiceState::Running | ServiceState::Starting)
    }
}

/// Makes the error for a stack that is on its way out.
pub(super) fn being_removed(name: &StackName) -> Error {
    Error::Conflict {
        message: format!("stack {name} is being removed"),
        hint: "wait until it is gone, or remove it again if the removal was interrupted".into(),
    }
}

/// Deploys in a task of its own, and undoes it there if the returned future is dropped before it is ready.
pub(crate) async fn deploy_or_undo<D, U, F>(backend: &'static str, deploy: D, undo: U) -> Result<Stack>
where
    D: Future<Output = Result<Stack>> + Send + 'static,
    U: FnOnce(StackId) -> F + Send + 'static,
    F: Future<Output = Result<()>> + Send,
{
    let (answer, answered) = oneshot::channel();
    let (taken, was_taken) = oneshot::channel();
    tokio::spawn(async move {
        let result = deploy.await;
        let deployed = result.as_ref().ok().map(|stack| stack.id.clone());
        // If nobody listens any more, neither does anybody take the answer.
        let _ = answer.send(result);
        if let (Some(id), Err(_)) = (deployed, was_taken.await) {
            tracing::info!(%id, "undoing a deployment that nobody waits for any more");
            if let Err(error) = undo(id.clone()).await {
                tracing::warn!(%id, %error, "a deployment that nobody waits for any more could not be undone");
            }
        }
    });
    let result = answered.await.map_err(|e| Error::backend(backend, "deploying", e))?;
    let _ = taken.send(());
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::ServiceName;
    use crate::orchestrator::{Mount, ServiceSpec};

    #[test]
    fn an_id_has_two_parts() {
        let name = StackName::new("pg-1").expect("a name");
        let attempt = AttemptId::random().expect("randomness");
        assert_eq!(StackId::of(&name, &attempt).parts(), Some((name, attempt)));
        for foreign in ["", "pg", "pg.", ".0123456789abcdef", "../pg.0123456789abcdef", "pg.x", "pg.0123456789abcdef.1"]
        {
            assert_eq!(StackId(foreign.into()).parts(), None, "{foreign}");
        }
    }

    #[test]
    fn what_no_orchestrator_could_run_is_refused() {
        let service = ServiceSpec::new(ServiceName::new("main").expect("a name"), vec!["true".into()]);
        let mut spec =
            StackSpec::new(StackName::new("a").expect("a name"), AttemptId::random().expect("randomness"), vec![]);
        assert!(spec.check().is_err(), "no service");
        spec.services = vec![service.clone()];
        assert!(spec.check().is_ok());
        spec.services.push(service);
        assert!(spec.check().is_err(), "two of one name");
        spec.services.pop();
        spec.services[0].mounts = vec![Mount::same("data", false)];
        assert!(spec.check().is_err(), "a relative mount");
    }
}
