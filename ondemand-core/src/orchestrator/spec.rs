//! What every implementation makes of a specification.

use std::collections::BTreeSet;
use std::future::Future;

use tokio::sync::oneshot;

use super::{Service, ServiceSpec, ServiceState, Stack, StackId, StackSpec, depends};
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
        self.services.iter().try_for_each(|service| self.check_names(service))?;
        depends::groups(self).map(drop)
    }

    /// Checks that a service names only what the stack has.
    fn check_names(&self, service: &ServiceSpec) -> Result<()> {
        let invalid = |reason: String| Err(Error::invalid(format!("service {}", service.name), reason));
        if !service.arguments.is_empty() && !service.command.is_empty() {
            return invalid("it has a command, and arguments for the image's own in place of it".into());
        }
        let volumes = service.volumes.iter().filter_map(|mount| mount.volume.as_ref());
        let missing = volumes.filter(|name| !self.volumes.contains_key(*name)).map(|name| ("volume", name));
        let networks = service.networks.iter().map(|attachment| &attachment.network);
        let missing =
            missing.chain(networks.filter(|name| !self.networks.contains_key(*name)).map(|name| ("network", name)));
        let secrets = service.secrets.iter().map(|mount| &mount.source);
        let missing =
            missing.chain(secrets.filter(|name| !self.secrets.contains_key(*name)).map(|name| ("secret", name)));
        let configs = service.configs.iter().map(|mount| &mount.source);
        let mut missing =
            missing.chain(configs.filter(|name| !self.configs.contains_key(*name)).map(|name| ("config", name)));
        if let Some((kind, name)) = missing.next() {
            return invalid(format!("it uses the {kind} {name:?}, which the stack does not have"));
        }
        let targets = service.volumes.iter().map(|mount| &mount.target);
        if let Some(target) =
            targets.chain(service.tmpfs.iter().map(|mount| &mount.target)).find(|target| !target.is_absolute())
        {
            return invalid(format!("its mount {} is not an absolute path", target.display()));
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
    use crate::orchestrator::{FileMount, Mount, NetworkAttachment, VolumeMount};

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
        spec.services[0].mounts.clear();
        assert!(spec.check().is_ok());
        let file = || FileMount { source: "no".into(), target: None, uid: None, gid: None, mode: None };
        let wrong: [fn(&mut ServiceSpec, FileMount); 5] = [
            |service, file| service.secrets = vec![file],
            |service, file| service.configs = vec![file],
            |service, _| service.networks = vec![NetworkAttachment { network: "no".into(), aliases: vec![] }],
            |service, _| {
                let volume = Some("no".into());
                service.volumes = vec![VolumeMount { volume, target: "/x".into(), read_only: false, nocopy: false }];
            },
            |service, _| service.arguments = vec!["-v".into()],
        ];
        for (n, wrong) in wrong.iter().enumerate() {
            let mut spec = spec.clone();
            wrong(&mut spec.services[0], file());
            assert!(matches!(spec.check(), Err(Error::InvalidInput { .. })), "{n}");
        }
    }
}
