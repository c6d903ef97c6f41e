//! What a stack has on disk beside its record and logs: directories of its services, secrets and configuration files.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use super::BACKEND;
use super::check::run_as;
use crate::error::{Error, Result};
use crate::listing::usable;
use crate::name::{ServiceName, StackName};
use crate::orchestrator::files::{self, other_user, own_user};
use crate::orchestrator::{ConfigSpec, FileMount, Mount, RunAs, SecretSpec, ServiceSpec, StackSpec, discovery};
use crate::own;

/// The mode of a secret or configuration file that is given none: only its owner reads it.
const MODE: u32 = 0o400;

/// The directory of all that stacks have on disk, one directory a stack. Its users can pass through, and list nothing.
#[derive(Debug, Clone)]
pub(super) struct Files {
    root: PathBuf,
}

/// A file as it is to be.
#[derive(Debug, PartialEq, Eq)]
struct File<'a> {
    content: &'a str,
    owner: RunAs,
    mode: u32,
}

impl Files {
    /// Returns those that belong to a directory of records: beside it, as other users may not enter that one. Makes nothing yet.
    pub(super) fn beside(state_dir: &Path) -> Result<Self> {
        Ok(Self { root: files::beside(state_dir, BACKEND)? })
    }

    /// Returns the directory that it is in, as the records are.
    pub(super) fn place(&self) -> &Path {
        self.root.parent().unwrap_or(&self.root)
    }

    fn stack(&self, name: &StackName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// Returns the directory of a stack's secrets.
    pub(super) fn secrets(&self, name: &StackName) -> PathBuf {
        self.stack(name).join("secrets")
    }

    /// Returns the directory of a stack's configuration files.
    pub(super) fn configs(&self, name: &StackName) -> PathBuf {
        self.stack(name).join("configs")
    }

    /// Returns the directory of a service's own.
    fn own(&self, name: &StackName, service: &ServiceName) -> PathBuf {
        self.stack(name).join("work").join(service.as_str())
    }

    /// Returns where a service starts.
    pub(super) fn start(&self, name: &StackName, service: &ServiceSpec) -> PathBuf {
        match (&service.working_dir, service.own_directory) {
            (None, false) => "/".into(),
            (Some(dir), false) => dir.clone(),
            (None, true) => self.own(name, &service.name),
            // An absolute path replaces all of it.
            (Some(dir), true) => self.own(name, &service.name).join(dir),
        }
    }

    /// Returns what a sandboxed service sees of its files.
    pub(super) fn mounts(&self, name: &StackName, service: &ServiceSpec) -> Vec<Mount> {
        let (secrets, configs) = (self.secrets(name), self.configs(name));
        let secrets = service.secrets.iter().filter_map(|mount| target(service, mount, &secrets, "secret").ok());
        let configs = service.configs.iter().filter_map(|mount| target(service, mount, &configs, "config").ok());
        // Each by itself, as the directories hold those of the stack's other services, too. One that is not made here is not there.
        let files = secrets.chain(configs).filter(|path| usable(path)).map(|path| Mount::same(path, true));
        let own = service.own_directory.then(|| Mount::same(self.own(name, &service.name), false));
        files.chain(own).collect()
    }

    /// Returns the variables that tell a service where its files are.
    pub(super) fn variables(&self, name: &StackName, service: &ServiceSpec) -> BTreeMap<String, String> {
        let (secrets, configs) = (self.secrets(name), self.configs(name));
        discovery::dirs(service, &secrets.display().to_string(), &configs.display().to_string())
    }

    /// Checks that everything can be made that a stack asks for.
    pub(super) fn check(&self, stack: &StackSpec) -> Result<()> {
        self.wanted(stack)?;
        let relative = stack.services.iter().filter(|service| service.own_directory);
        for service in relative {
            let dir = service.working_dir.as_ref().filter(|dir| !dir.is_absolute());
            if let Some(dir) = dir.filter(|dir| !is_below(dir)) {
                let reason = format!("{} leads out of the directory of its own", dir.display());
                return Err(Error::invalid(format!("working directory of service {}", service.name), reason));
            }
        }
        Ok(())
    }

    /// Makes everything that a stack asks for, in place of what another of its name may have left.
    pub(super) fn make(&self, stack: &StackSpec) -> Result<()> {
        self.remove(&stack.name)?;
        for (path, file) in self.wanted(stack)? {
            self.make_passable(path.parent().unwrap_or(&self.root))?;
            let written = files::write(&path, file.content, file.owner, file.mode);
            written.map_err(|e| Error::io(BACKEND, format!("writing {}", path.display()), e))?;
        }
        for service in stack.services.iter().filter(|service| service.own_directory) {
            let own = self.own(&stack.name, &service.name);
            self.make_passable(own.parent().unwrap_or(&self.root))?;
            let inner = service.working_dir.iter().filter(|dir| !dir.is_absolute()).flat_map(|dir| dir.components());
            let mut dir = own;
            let owner = run_as(service)?.unwrap_or_else(own_user);
            make_own(&dir, owner)?;
            for component in inner.filter(|component| matches!(component, Component::Normal(_))) {
                dir.push(component);
                make_own(&dir, owner)?;
            }
        }
        Ok(())
    }

    /// Removes everything that a stack has on disk. Succeeds if it has nothing.
    pub(super) fn remove(&self, name: &StackName) -> Result<()> {
        let dir = self.stack(name);
        files::remove_tree(&dir).map_err(|e| Error::io(BACKEND, format!("deleting {}", dir.display()), e))
    }

    /// Returns the files of a stack by their paths.
    fn wanted<'a>(&self, stack: &'a StackSpec) -> Result<BTreeMap<PathBuf, File<'a>>> {
        let mut files = BTreeMap::new();
        for service in &stack.services {
            let secrets = service.secrets.iter().filter_map(|mount| match stack.secrets.get(&mount.source)? {
                SecretSpec::Content(secret) => Some((mount, self.secrets(&stack.name), "secret", secret.expose())),
                SecretSpec::External(_) => None,
            });
            let configs = service.configs.iter().filter_map(|mount| match stack.configs.get(&mount.source)? {
                ConfigSpec::Content(text) => Some((mount, self.configs(&stack.name), "config", text.as_str())),
                ConfigSpec::External(_) => None,
            });
            let usual = run_as(service)?.unwrap_or_else(own_user);
            for (mount, dir, kind, content) in secrets.chain(configs) {
                let path = target(service, mount, &dir, kind)?;
                let file =
                    File { content, owner: files::owner(mount, usual)?, mode: mount.mode.unwrap_or(MODE) & 0o777 };
                match files.get(&path) {
                    Some(there) if *there != file => {
                        return Err(Error::Unsupported {
                            message: format!(
                                "the services of a stack of plain processes share their files, and {} is to be two",
                                path.display()
                            ),
                            hint: "give one of them another target, or both the same user and mode".into(),
                        });
                    }
                    _ => files.insert(path, file),
                };
            }
        }
        Ok(files)
    }

    /// Makes a directory below this one, and all above it, that users can pass through.
    fn make_passable(&self, dir: &Path) -> Result<()> {
        let failed = |e| Error::io(BACKEND, format!("making the directory {}", dir.display()), e);
        let below = dir.strip_prefix(&self.root).unwrap_or(Path::new(""));
        let mut path = self.root.clone();
        let mut names = below.components();
        loop {
            match DirBuilder::new().mode(0o711).create(&path) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
                // The mask of this process may have taken bits away.
                Ok(()) => own::set_permissions(&path, Permissions::from_mode(0o711)).map_err(failed)?,
                Err(_) => {}
            }
            match names.next() {
                Some(name) => path.push(name),
                None => return Ok(()),
            }
        }
    }
}

/// Tells whether a relative path stays below where it begins.
fn is_below(path: &Path) -> bool {
    path.components().all(|component| matches!(component, Component::Normal(_) | Component::CurDir))
}

/// Returns where a file of a service is to be.
fn target(service: &ServiceSpec, mount: &FileMount, dir: &Path, kind: &str) -> Result<PathBuf> {
    let given = Path::new(mount.target.as_ref().unwrap_or(&mount.source));
    let path = if given.is_absolute() {
        given.strip_prefix(dir).map_err(|_| Error::Unsupported {
            message: format!(
                "service {}: a plain process sees the host as it is, so the {kind} {:?} cannot be at {}",
                service.name,
                mount.source,
                given.display()
            ),
            hint: format!("give it a name without a path: it is then a file in {}", dir.display()),
        })?
    } else {
        given
    };
    if path.file_name().is_none() || !is_below(path) || path.as_os_str().as_encoded_bytes().contains(&0) {
        let reason = format!("{:?} is not the name of a file", given.display().to_string());
        return Err(Error::invalid(format!("target of the {kind} {:?}", mount.source), reason));
    }
    Ok(dir.join(path))
}

/// Makes an empty directory that only its owner may enter.
fn make_own(dir: &Path, owner: RunAs) -> Result<()> {
    let make = || {
        DirBuilder::new().mode(0o700).create(dir)?;
        let Some(owner) = other_user(owner) else { return Ok(()) };
        std::os::unix::fs::lchown(dir, Some(owner.uid), Some(owner.gid))
    };
    make().map_err(|e| Error::io(BACKEND, format!("making the directory {}", dir.display()), e))
}
