//! What a service of a swarm sees of its node's disks and memory.

use bollard::models::{Mount, MountTmpfsOptions, MountType, MountVolumeOptions, MountVolumeOptionsDriverConfig};

use super::names::Names;
use crate::error::{Error, Result};
use crate::orchestrator::{ServiceSpec, StackSpec, VolumeMount};

/// Translates the mounts, volumes and directories in memory of a service.
pub(super) fn mounts(stack: &StackSpec, asked: &ServiceSpec, names: &Names) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for bind in &asked.mounts {
        mounts.push(Mount {
            typ: Some(MountType::BIND),
            source: Some(bind.source.display().to_string()),
            target: Some(bind.target.display().to_string()),
            read_only: Some(bind.read_only),
            ..Mount::default()
        });
    }
    for mount in &asked.volumes {
        mounts.push(volume(stack, names, mount));
    }
    let too_large = |_| Error::invalid(format!("service {}", asked.name), "a size is too large");
    for tmpfs in &asked.tmpfs {
        let size_bytes = tmpfs.size.map(i64::try_from).transpose().map_err(too_large)?;
        mounts.push(Mount {
            typ: Some(MountType::TMPFS),
            target: Some(tmpfs.target.display().to_string()),
            tmpfs_options: Some(MountTmpfsOptions { size_bytes, mode: tmpfs.mode.map(Into::into), options: None }),
            ..Mount::default()
        });
    }
    // A swarm knows no other way to set its size.
    if let Some(size) = asked.shm_size {
        let size_bytes = Some(i64::try_from(size).map_err(too_large)?);
        mounts.push(Mount {
            typ: Some(MountType::TMPFS),
            target: Some("/dev/shm".into()),
            tmpfs_options: Some(MountTmpfsOptions { size_bytes, mode: Some(0o1777), options: None }),
            ..Mount::default()
        });
    }
    Ok(mounts)
}

/// A node makes a volume when the first task there needs it, with the labels by which it is found again.
fn volume(stack: &StackSpec, names: &Names, mount: &VolumeMount) -> Mount {
    let spec = mount.volume.as_ref().and_then(|volume| Some((volume, stack.volumes.get(volume)?)));
    let source = spec.map(|(volume, spec)| {
        spec.external.clone().or_else(|| spec.name.clone()).unwrap_or_else(|| names.volume(volume))
    });
    let own = spec.filter(|(_, spec)| spec.external.is_none()).map(|(_, spec)| spec);
    let labels = own.map(|spec| {
        let labels = spec.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        // One that has a name of its own outlives the stack.
        if spec.goes_with_its_stack() { names.labels_and(labels) } else { spec.labels.clone().into_iter().collect() }
    });
    let driver_config = own.filter(|spec| spec.driver.is_some() || !spec.driver_opts.is_empty()).map(|spec| {
        let options = (!spec.driver_opts.is_empty()).then(|| spec.driver_opts.clone().into_iter().collect());
        MountVolumeOptionsDriverConfig { name: spec.driver.clone(), options }
    });
    Mount {
        typ: Some(MountType::VOLUME),
        source,
        target: Some(mount.target.display().to_string()),
        read_only: Some(mount.read_only),
        volume_options: Some(MountVolumeOptions {
            no_copy: mount.nocopy.then_some(true),
            labels,
            driver_config,
            subpath: None,
        }),
        ..Mount::default()
    }
}
