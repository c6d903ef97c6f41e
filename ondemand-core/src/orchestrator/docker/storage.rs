//! The volumes of a stack, and the files that its containers see as secrets and configuration.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bollard::models::VolumeCreateRequest;
use bollard::query_parameters::{ListVolumesOptions, RemoveVolumeOptions};

use super::BACKEND;
use super::engine::{failed, has_status};
use super::translate::Names;
use crate::error::{Error, Kind, Result};
use crate::name::StackName;
use crate::orchestrator::files::{self, own_user};
use crate::orchestrator::record::make_private_dir;
use crate::orchestrator::{ConfigSpec, FileMount, SecretSpec, ServiceSpec, StackSpec, VolumeSpec};

/// The mode of a file that is given none, as in a Swarm: whoever is in the container may read it, and nobody else comes near it.
const MODE: u32 = 0o444;

/// The directory of the files of all stacks, which only this user may enter. The engine shows single files to containers.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
}

/// A file that a container sees.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// Where it is on this host.
    pub(super) source: PathBuf,
    /// Where the container sees it.
    pub(super) target: PathBuf,
}

impl Files {
    /// Returns those that belong to a directory of records. Makes nothing yet.
    pub(super) fn beside(state_dir: &Path) -> Result<Self> {
        Ok(Self { root: files::beside(state_dir, BACKEND)? })
    }

    /// Returns the files that a service of a stack sees.
    pub(super) fn shown(&self, stack: &StackName, service: &ServiceSpec) -> Vec<Shown> {
        let dir = self.root.join(stack.as_str());
        let show = |kind: &str, usual: &str, at: usize, mount: &FileMount| Shown {
            // Numbers, as a name may be anything.
            source: dir.join(format!("{}.{kind}.{at}", service.name)),
            target: Path::new(usual).join(mount.target.as_ref().unwrap_or(&mount.source)),
        };
        let secrets = service.secrets.iter().enumerate().map(|(at, mount)| show("secret", "/run/secrets", at, mount));
        let configs = service.configs.iter().enumerate().map(|(at, mount)| show("config", "/", at, mount));
        secrets.chain(configs).collect()
    }

    /// Writes the files of a stack, in place of what another of its name may have left.
    pub(super) fn write(&self, stack: &StackSpec) -> Result<()> {
        self.remove(&stack.name)?;
        for service in &stack.services {
            let secrets = service.secrets.iter().map(|mount| match stack.secrets.get(&mount.source) {
                Some(SecretSpec::Content(secret)) => (mount, secret.expose()),
                _ => (mount, ""),
            });
            let configs = service.configs.iter().map(|mount| match stack.configs.get(&mount.source) {
                Some(ConfigSpec::Content(text)) => (mount, text.as_str()),
                _ => (mount, ""),
            });
            for ((mount, content), shown) in secrets.chain(configs).zip(self.shown(&stack.name, service)) {
                make_private_dir(&self.root.join(stack.name.as_str()), BACKEND)?;
                let mode = mount.mode.unwrap_or(MODE) & 0o777;
                files::write(&shown.source, content, files::owner(mount, own_user())?, mode)
                    .map_err(|e| Error::io(BACKEND, format!("writing {}", shown.source.display()), e))?;
            }
        }
        Ok(())
    }

    /// Removes the files of a stack. Succeeds if there are none.
    pub(super) fn remove(&self, stack: &StackName) -> Result<()> {
        let dir = self.root.join(stack.as_str());
        files::remove_tree(&dir).map_err(|e| Error::io(BACKEND, format!("deleting {}", dir.display()), e))
    }
}

/// Makes the volumes that services of a stack use and that are not there yet.
///
/// # Errors
/// [`Error::NotFound`] if one is to exist already, and doesn't.
pub(super) async fn create_volumes(client: &bollard::Docker, stack: &StackSpec, names: Names<'_>) -> Result<()> {
    for (key, spec) in &stack.volumes {
        let mut mounts = stack.services.iter().flat_map(|service| &service.volumes);
        if !mounts.any(|mount| mount.volume.as_ref() == Some(key)) {
            continue;
        }
        let name = names.volume(key, spec);
        let operation = format!("creating volume {name}");
        if let Some(external) = &spec.external {
            match client.inspect_volume(external).await {
                Ok(_) => continue,
                Err(e) if has_status(&e, 404) => return Err(Error::not_found(Kind::Volume, external)),
                Err(e) => return Err(failed(format!("inspecting volume {external}"), e)),
            }
        }
        let mut labels: HashMap<String, String> = spec.labels.clone().into_iter().collect();
        // One that has a name is shared, and so is not this stack's to remove.
        if spec.name.is_none() {
            labels.extend(names.labels());
        }
        let request = VolumeCreateRequest {
            name: Some(name.clone()),
            driver: spec.driver.clone(),
            driver_opts: Some(spec.driver_opts.clone().into_iter().collect()),
            labels: Some(labels.clone()),
            ..VolumeCreateRequest::default()
        };
        let volume = client.create_volume(request).await.map_err(|e| failed(operation, e))?;
        // The engine answers with one of this name that was there before.
        if spec.name.is_none() && names.labels().iter().any(|(key, value)| volume.labels.get(key) != Some(value)) {
            return Err(Error::Conflict {
                message: format!("there is a volume {name} that is not this stack's"),
                hint: "remove it if nothing needs it".into(),
            });
        }
    }
    Ok(())
}

/// Removes the volumes that are a stack's own.
pub(super) async fn remove_volumes(client: &bollard::Docker, names: Names<'_>) -> Result<()> {
    let options = ListVolumesOptions { filters: Some(names.filter()) };
    let volumes = client.list_volumes(Some(options)).await.map_err(|e| failed("listing volumes", e))?;
    for volume in volumes.volumes.unwrap_or_default() {
        match client.remove_volume(&volume.name, None::<RemoveVolumeOptions>).await {
            Ok(()) => {}
            Err(e) if has_status(&e, 404) => {}
            Err(e) => return Err(failed(format!("removing volume {}", volume.name), e)),
        }
    }
    Ok(())
}

impl Names<'_> {
    /// Returns the name of a volume of the stack.
    pub(super) fn volume(&self, key: &str, spec: &VolumeSpec) -> String {
        let given = spec.external.as_ref().or(spec.name.as_ref());
        given.cloned().unwrap_or_else(|| format!("ondemand-{}-{}.{key}", self.instance, self.stack))
    }
}
