//! What is done to stacks, one thing at a time.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::auth::DockerCredentials;
use futures_util::future::{join_all, try_join_all};
use tokio_util::sync::CancellationToken;

use super::claim::Claim;
use super::clean::{self, Place, Trouble};
use super::engine::{failed, update};
use super::names::{IMAGE, Names};
use super::registry::Told;
use super::start::{self, Watch};
use super::tasks::Doing;
pub(super) use super::whole::Whole;
use super::{registry, resources, sleeping, translate};
use crate::error::{Error, Kind, Result};
use crate::label::Labels;
use crate::listing::Listing;
use crate::name::{ServiceName, StackName};
use crate::orchestrator::docker::engine::{Engine, has_status};
use crate::orchestrator::docker::translate::{SERVICE, image};
use crate::orchestrator::spec::being_removed;
use crate::orchestrator::turns::{Turns, locked};
use crate::orchestrator::{ServiceSpec, Stack, StackId, StackSpec};

/// What all handles on one `Swarm`, and the tasks it started, have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) instance: String,
    pub(super) registry_auth: Option<PathBuf>,
    pub(super) ingress: bool,
    /// How long services may take to be started.
    pub(super) patience: Duration,
    pub(super) turns: Turns,
    /// What is being deployed here, and what cuts that off.
    pub(super) deploying: Mutex<HashMap<StackId, CancellationToken>>,
    /// The image of what removes volumes from other nodes.
    pub(super) volume_cleaner: Option<String>,
    /// Held while that runs.
    pub(super) cleaning: tokio::sync::Mutex<()>,
    /// Where it failed.
    pub(super) troubles: Mutex<HashMap<Place, Trouble>>,
}

/// Forgets that a stack is being deployed.
struct Deploying<'a>(&'a Shared, StackId);

impl Drop for Deploying<'_> {
    fn drop(&mut self) {
        locked(&self.0.deploying).remove(&self.1);
    }
}

impl Shared {
    fn names(&self, spec: &StackSpec) -> Names {
        Names { instance: self.instance.clone(), stack: spec.name.clone(), attempt: spec.attempt.clone() }
    }

    async fn claim(&self, name: &StackName) -> Result<Option<Claim>> {
        Claim::of(self.engine.client().await?, &self.instance, name).await
    }

    /// Looks at a stack.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub(super) async fn whole(&self, name: &StackName) -> Result<Whole> {
        let client = self.engine.client().await?;
        if let Some(claim) = self.claim(name).await? {
            return Whole::see(client, claim.names.clone(), Some(claim)).await;
        }
        match Whole::orphan(client, &self.instance, name).await? {
            Some(names) => Whole::see(client, names, None).await,
            None => Err(Error::not_found(Kind::Stack, name)),
        }
    }

    pub(super) fn stack(&self, whole: &Whole) -> Stack {
        whole.stack(self.turns.is_starting(&whole.id()))
    }

    /// Returns all stacks as they are now, in the order of their names.
    pub(super) async fn list(&self) -> Result<Listing<Stack>> {
        let wholes = Whole::all(self.engine.client().await?, &self.instance).await?;
        let mut stacks = wholes.map(|whole| self.stack(&whole));
        stacks.found.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(stacks)
    }

    /// Claims the name, and makes and starts all. Undoes all if that fails, or is cut off.
    pub(super) async fn deploy(self: Arc<Self>, spec: StackSpec, cancelled: CancellationToken) -> Result<Stack> {
        let client = self.engine.client().await?;
        let (names, id) = (self.names(&spec), spec.id());
        let starting = self.turns.starting(&id);
        locked(&self.deploying).insert(id.clone(), cancelled.clone());
        let _deploying = Deploying(&self, id.clone());
        let claimed = Claim::make(client, &names, &spec).await;
        if let Err(error @ (Error::AlreadyExists { .. } | Error::Unsupported { .. })) = claimed {
            return Err(error);
        }
        let _turn = self.turns.take(&spec.name).await;
        let result = match claimed {
            Ok(_) => self.make_and_start(client, &spec, &names, &cancelled).await,
            Err(error) => Err(error),
        };
        drop(starting);
        let result = match result {
            Ok(()) => self.whole(&spec.name).await,
            Err(error) => Err(error),
        };
        match result {
            // Somebody else may have removed it, who did not see all of it yet.
            Ok(whole) if whole.id() == id && whole.claim.as_ref().is_some_and(|claim| !claim.removing) => {
                Ok(self.stack(&whole))
            }
            other => {
                if let Err(undo) = self.end(&names).await {
                    tracing::warn!(stack = %spec.name, error = %undo, "what a failed deployment left could not be removed");
                }
                Err(other.err().unwrap_or(Error::Cancelled))
            }
        }
    }

    async fn make_and_start(
        &self,
        client: &bollard::Docker,
        spec: &StackSpec,
        names: &Names,
        cancelled: &CancellationToken,
    ) -> Result<()> {
        if cancelled.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let images: BTreeSet<&str> = spec.services.iter().map(image).collect::<Result<_>>()?;
        let pin = async |image: &str| {
            Ok::<_, Error>((image.to_owned(), registry::pin(client, image, self.credentials(image)?).await))
        };
        let (known, pinned) =
            tokio::try_join!(resources::make(client, spec, names), try_join_all(images.into_iter().map(pin)))?;
        let pinned: HashMap<_, _> = pinned.into_iter().collect();
        let create = |service: ServiceSpec| {
            let (known, pinned) = (&known, &pinned);
            async move {
                let asked = image(&service)?;
                let image = pinned.get(asked).map_or(asked, |(image, _)| image.as_str());
                let body = translate::service(spec, &service, names, known, image, self.ingress)?;
                let made = client.create_service(body, self.credentials(asked)?).await;
                made.map(drop).map_err(|e| creation(&service, e))
            }
        };
        let told = |service: &ServiceSpec| {
            let told = service.image.as_deref().and_then(|image| pinned.get(image));
            told.map_or(Told::Unasked, |(_, told)| told.clone())
        };
        start::start(self, spec, names, cancelled, told, create).await
    }

    /// Returns the credentials for an image's registry.
    pub(super) fn credentials(&self, image: &str) -> Result<Option<DockerCredentials>> {
        self.registry_auth.as_ref().map_or(Ok(None), |file| registry::credentials(file, image))
    }

    /// Replaces a stack's labels: in its claim, where they change at once, and then where people look for them.
    pub(super) async fn set_labels(&self, name: &StackName, labels: &Labels) -> Result<()> {
        let client = self.engine.client().await?;
        let mut claim = self.claim(name).await?.ok_or_else(|| Error::not_found(Kind::Stack, name))?;
        let before = claim.labels.clone();
        claim.change(client, |claim| claim.labels.clone_from(labels)).await?;
        let whole = Whole::see(client, claim.names.clone(), Some(claim)).await?;
        let ours = whole.names.labels();
        let copies = join_all(whole.ids().map(|id| {
            update(client, id, |spec| {
                let copy = spec.labels.get_or_insert_default();
                let kept = |key: &str| ours.contains_key(key) || key == SERVICE || key == IMAGE;
                for (key, _) in before.iter().filter(|(key, _)| !kept(key)) {
                    copy.remove(key);
                }
                for (key, value) in labels.iter().filter(|(key, _)| !kept(key)) {
                    copy.insert(key.to_owned(), value.to_owned());
                }
                true
            })
        }))
        .await;
        for error in copies.into_iter().filter_map(Result::err) {
            tracing::warn!(stack = %name, %error, "a service did not get its copy of the stack's labels");
        }
        Ok(())
    }

    /// Ends a stack's tasks and keeps its services.
    pub(super) async fn sleep(&self, name: &StackName) -> Result<()> {
        let _turn = self.turns.take(name).await;
        let client = self.engine.client().await?;
        let mut claim = self.claim(name).await?.ok_or_else(|| Error::not_found(Kind::Stack, name))?;
        if claim.removing {
            return Err(being_removed(name));
        }
        let (names, claim_services) = (claim.names.clone(), claim.services.clone());
        // The manager forgets where the tasks were of what sleeps.
        let places: Vec<_> = Whole::see(client, names.clone(), None).await?.places().collect();
        let change = |claim: &mut Claim| {
            claim.asleep = true;
            claim.volumes.iter_mut().for_each(|nodes| nodes.extend(places.iter().cloned()));
        };
        claim.change(client, change).await?;
        let whole = Whole::see(client, names.clone(), Some(claim)).await?;
        // What has done its work has nothing to end, and is to stay done.
        let undone = claim_services.iter().filter(|service| !whole.is_done(service));
        let ids = undone.filter_map(|service| whole.found(service)?.id.as_deref());
        try_join_all(ids.map(|id| update(client, id, sleeping::lay))).await?;
        let mut watch = Watch::new();
        loop {
            let whole = watch.see(self, &names).await?;
            if !whole.has_processes() && !whole.is_shrinking() {
                break;
            }
            watch.rest(self, &names).await;
        }
        self.turns.changed.notify_waiters();
        Ok(())
    }

    /// Starts whatever of a stack does not run.
    pub(super) async fn wake(&self, name: &StackName) -> Result<()> {
        let _turn = self.turns.take(name).await;
        let client = self.engine.client().await?;
        let mut claim = self.claim(name).await?.ok_or_else(|| Error::not_found(Kind::Stack, name))?;
        if claim.removing {
            return Err(being_removed(name));
        }
        let _starting = self.turns.starting(&claim.id());
        let names = claim.names.clone();
        let mut watch = Watch::new();
        let mut whole = watch.see(self, &names).await?;
        while whole.is_shrinking() {
            watch.rest(self, &names).await;
            whole = watch.see(self, &names).await?;
        }
        let mut old = BTreeSet::new();
        let mut woken: Vec<ServiceName> = Vec::new();
        for service in claim.services.clone() {
            let Some(id) = whole.found(&service).and_then(|found| found.id.as_deref()) else { continue };
            let tasks = whole.tasks_of(&service);
            let last = super::tasks::newest(&tasks);
            let over = !whole.is_done(&service)
                && !last.is_empty()
                && last.iter().all(|t| matches!(super::tasks::doing(t), Doing::Ended(_)));
            old.extend(tasks.iter().filter_map(|task| task.id.clone()));
            if update(client, id, |spec| sleeping::rouse(spec, over)).await? {
                woken.push(service);
            }
        }
        start::restarted(self, &names, &woken, &old).await?;
        if claim.asleep {
            claim.change(client, |claim| claim.asleep = false).await?;
        }
        Ok(())
    }

    /// Ends a stack and forgets it.
    pub(super) async fn remove(&self, id: &StackId) -> Result<()> {
        let Some((stack, attempt)) = id.parts() else { return Ok(()) };
        // Whoever still deploys it need not go on.
        if let Some(deploying) = locked(&self.deploying).get(id) {
            deploying.cancel();
        }
        let _turn = self.turns.take(&stack).await;
        self.end(&Names { instance: self.instance.clone(), stack, attempt }).await
    }

    /// Removes all that carries the labels of a deployment, its claim last: until then, its name is taken, and it is found by it.
    async fn end(&self, names: &Names) -> Result<()> {
        let client = self.engine.client().await?;
        // One that cannot be read may be of another deployment: nothing is removed.
        let claim = Claim::of(client, &names.instance, &names.stack).await?;
        let mut claim = claim.filter(|claim| claim.id() == names.id());
        let mut watch = Watch::new();
        let mut whole = watch.see(self, names).await?;
        // The services tell it too, where somebody removed the claim, or a version that did not write it down made it.
        let known = claim.as_ref().and_then(|claim| claim.volumes.clone());
        let known = known.or_else(|| whole.has_volumes().then(BTreeSet::new));
        // Once its services are gone, nothing tells any more where their tasks were.
        let volumes: Option<BTreeSet<_>> = known.map(|nodes| nodes.into_iter().chain(whole.places()).collect());
        if let Some(claim) = claim.as_mut().filter(|claim| !claim.removing || claim.volumes != volumes) {
            let change = |claim: &mut Claim| {
                claim.removing = true;
                claim.volumes.clone_from(&volumes);
            };
            match claim.change(client, change).await {
                // Somebody else is at it, and further.
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.turns.changed.notify_waiters();
        loop {
            // Again and again: one may be made by a request that was on its way.
            try_join_all(whole.ids().map(async |id| match client.delete_service(id).await {
                Err(e) if !has_status(&e, 404) => Err(failed(format!("removing service {id}"), e)),
                _ => Ok(()),
            }))
            .await?;
            whole = watch.see(self, names).await?;
            if whole.ids().next().is_none() && !whole.has_tasks() {
                break;
            }
            watch.rest(self, names).await;
        }
        resources::remove(client, names).await?;
        if let Some(nodes) = &volumes {
            clean::note(self, client, names, nodes).await?;
        }
        if let Some(claim) = claim {
            claim.drop(client).await?;
        }
        self.turns.changed.notify_waiters();
        Ok(())
    }
}

/// Makes the error for a service that the manager does not take.
fn creation(service: &ServiceSpec, error: bollard::errors::Error) -> Error {
    use bollard::errors::Error::DockerResponseServerError as Answer;
    let Answer { status_code, message } = &error else {
        return failed(format!("creating service {}", service.name), error);
    };
    match status_code {
        400 if message.contains("port") && message.contains("in use") => Error::Conflict {
            message: format!("a port is taken: {}", message.trim()),
            hint: "choose another port, or remove the service that publishes it".into(),
        },
        400 => Error::invalid(format!("service {}", service.name), message.trim()),
        409 => Error::Conflict {
            message: format!("a service that is not this stack's has the name of service {}", service.name),
            hint: "remove it with `docker service rm` if nobody needs it".into(),
        },
        _ => failed(format!("creating service {}", service.name), error),
    }
}
