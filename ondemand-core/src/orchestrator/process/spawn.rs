//! Starting programs so that none runs unrecorded.

use std::fs::OpenOptions;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};

use super::BACKEND;
use super::identity::{Identity, Stat};
use crate::error::{Error, Kind, Result};
use crate::mark::Mark;
use crate::orchestrator::{RunAs, ServiceSpec};

/// What a new process does when it has marked itself: it waits for a line, and becomes the program. If the process that started it dies before the
/// line is sent, the pipe is closed and it ends.
const SHIM: &str = r#"; read -r _ || exit 125; exec "$@" </dev/null"#;

/// Where programs are looked for when this process has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variable that carries the stack's id into all its processes.
pub(super) const VARIABLE: &str = "ONDEMAND_STACK";

/// Checks that a plain process can do what is asked.
pub(super) fn check(service: &ServiceSpec) -> Result<PathBuf> {
    let name = &service.name;
    let unsupported = |message: String, hint: &str| Err(Error::Unsupported { message, hint: hint.into() });
    if service.command.is_empty() {
        return unsupported(
            format!("service {name} has no command, and a plain process has no image to take one from"),
            "give the service a command, or use the Docker orchestrator",
        );
    }
    if let Some(port) = service.ports.iter().find(|port| port.published.port() != port.target) {
        return unsupported(
            format!(
                "service {name}: a plain process opens its ports itself, so port {} cannot be published as {}",
                port.target,
                port.published.port()
            ),
            "let the program listen on the published port, or use the Docker orchestrator",
        );
    }
    for mount in &service.mounts {
        if mount.source != mount.target {
            return unsupported(
                format!(
                    "service {name}: a plain process sees the host as it is, so {} cannot be at {}",
                    mount.source.display(),
                    mount.target.display()
                ),
                "use the same path inside and outside, or use the Docker orchestrator",
            );
        }
        if !mount.source.exists() {
            return Err(Error::not_found(Kind::File, mount.source.display()));
        }
    }
    if let Some(key) = service.env.keys().find(|key| !is_variable(key)) {
        let reason = format!("{key:?} is not a name of letters, digits and '_' that starts with no digit");
        return Err(Error::invalid(format!("environment of service {name}"), reason));
    }
    let texts = service.command.iter().chain(service.env.values());
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err(Error::invalid(format!("command of service {name}"), "it holds a NUL character"));
    }
    if service.user.is_some_and(|user| other_user(user).is_some()) && !rustix::process::geteuid().is_root() {
        return unsupported(
            format!("service {name} is to run as another user, and only root may do that"),
            "run as root, or leave the user out",
        );
    }
    if let Some(dir) = service.working_dir.as_ref().filter(|dir| !dir.is_dir()) {
        return Err(Error::not_found(Kind::File, dir.display()));
    }
    find_program(service)
}

/// Returns the user a process must be switched to; `None` if it is this process's own.
fn other_user(user: RunAs) -> Option<RunAs> {
    let own = RunAs { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
    (user != own).then_some(user)
}

fn is_variable(key: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    key.bytes().all(inner) && key.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

fn path_variable(service: &ServiceSpec) -> std::ffi::OsString {
    let given = service.env.get("PATH").map(Into::into);
    given.or_else(|| std::env::var_os("PATH")).unwrap_or_else(|| DEFAULT_PATH.into())
}

fn find_program(service: &ServiceSpec) -> Result<PathBuf> {
    let given = service.command[0].as_str();
    let dir = service.working_dir.as_deref().unwrap_or(Path::new("/"));
    if given.contains('/') {
        let path = dir.join(given);
        if !path.exists() {
            return Err(Error::not_found(Kind::File, given));
        }
        if !is_executable(&path) {
            return Err(Error::invalid(format!("program {given}"), "it is not an executable file"));
        }
        return Ok(path);
    }
    let path = path_variable(service);
    let mut found = std::env::split_paths(&path).map(|entry| dir.join(entry).join(given));
    found
        .find(|path| is_executable(path))
        .filter(|_| !given.is_empty())
        .ok_or_else(|| Error::not_found(Kind::File, given))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// A process that has not become its program yet. Dropped, it ends without having done anything.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) identity: Identity,
    child: Child,
}

impl Held {
    /// Starts the process of a service; what it writes is appended to `log`.
    pub(super) fn spawn(
        service: &ServiceSpec,
        program: &Path,
        log: &Path,
        boot: &str,
        variable: &str,
        mark: Mark,
    ) -> Result<Self> {
        let failed = |what: &str| {
            let operation = format!("{what} service {}", service.name);
            move |e| Error::io(BACKEND, operation, e)
        };
        let out = OpenOptions::new().append(true).create(true).mode(0o600).open(log);
        let out = out.map_err(failed("opening the log of"))?;
        let err = out.try_clone().map_err(failed("opening the log of"))?;
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &(mark.words() + SHIM), "ondemand-shim"])
            .arg(program)
            .args(&service.command[1..])
            .env_clear()
            .env("PATH", path_variable(service))
            .envs(std::env::var_os("LANG").map(|lang| ("LANG", lang)))
            .envs(&service.env)
            .env(VARIABLE, variable)
            .current_dir(service.working_dir.as_deref().unwrap_or(Path::new("/")))
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(err)
            // A Ctrl-C on the terminal of this process is not meant for it.
            .process_group(0);
        if let Some(user) = service.user.and_then(other_user) {
            command.uid(user.uid).gid(user.gid);
        }
        let child = command.spawn().map_err(failed("starting"))?;
        // It is not waited for before this, so the number is still its own.
        let identity = child
            .id()
            .and_then(|pid| Stat::read(pid).map(|stat| Identity { pid, start: stat.start, boot: boot.to_owned() }))
            .ok_or_else(|| failed("identifying")(std::io::Error::other("it has no entry in /proc")))?;
        Ok(Self { identity, child })
    }

    /// Returns the end of the pipe that [`release`] writes to. Dropped, it ends the process.
    pub(super) fn take_pipe(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Ends a process that was not released.
    pub(super) async fn discard(mut self) {
        drop(self.take_pipe());
        self.wait().await;
    }

    /// Waits until it has ended. Returns its exit status, 128 + n for signal n.
    pub(super) async fn wait(&mut self) -> Option<i32> {
        // The library closes the pipe here if it was not taken.
        self.child.wait().await.ok().and_then(exit_status)
    }
}

/// Lets the process at the other end become its program.
pub(super) async fn release(pipe: Option<ChildStdin>) -> Result<()> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    match pipe.write_all(b"\n").await {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io(BACKEND, "starting a process", e)),
        // If it was killed meanwhile, waiting for it tells.
        _ => Ok(()),
    }
}

fn exit_status(status: ExitStatus) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::ServiceName;

    fn service(command: &[&str]) -> ServiceSpec {
        ServiceSpec::new(
            ServiceName::new("main").expect("a name"),
            command.iter().map(|&word| word.to_owned()).collect(),
        )
    }

    #[tokio::test]
    async fn what_is_not_released_never_runs() {
        let dir = tempfile::tempdir().expect("a directory");
        let ran = dir.path().join("ran");
        let spec = service(&["touch", ran.to_str().expect("UTF-8")]);
        let program = check(&spec).expect("touch exists");
        let mut held = Held::spawn(&spec, &program, &dir.path().join("log"), "boot", "variable", Mark::of("test"))
            .expect("a process");
        drop(held.take_pipe());
        assert_eq!(held.wait().await, Some(125));
        assert!(!ran.exists());

        let mut held = Held::spawn(&spec, &program, &dir.path().join("log"), "boot", "variable", Mark::of("test"))
            .expect("a process");
        release(held.take_pipe()).await.expect("it waits");
        assert_eq!(held.wait().await, Some(0));
        assert!(ran.exists());
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_a_hint() {
        let mut image_only = service(&[]);
        image_only.image = Some("postgres".into());
        let mut port = service(&["true"]);
        port.ports = vec![crate::orchestrator::PublishedPort { published: ([127, 0, 0, 1], 80).into(), target: 81 }];
        let mut mount = service(&["true"]);
        mount.mounts =
            vec![crate::orchestrator::Mount { source: "/tmp".into(), target: "/data".into(), read_only: false }];
        for spec in [image_only, port, mount] {
            let error = check(&spec).expect_err("not for plain processes");
            assert!(matches!(error, Error::Unsupported { .. }) && error.hint().is_some(), "{error:?}");
        }
    }

    #[test]
    fn what_does_not_exist_is_named() {
        let mut dir = service(&["true"]);
        dir.working_dir = Some("/no/such/dir".into());
        let mut mount = service(&["true"]);
        mount.mounts = vec![crate::orchestrator::Mount::same("/no/such/dir", false)];
        for (spec, missing) in [
            (service(&["/no/such/program"]), "/no/such/program"),
            (service(&["no-such-program"]), "no-such-program"),
            (service(&[""]), ""),
            (dir, "/no/such/dir"),
            (mount, "/no/such/dir"),
        ] {
            match check(&spec).expect_err("something is missing") {
                Error::NotFound { kind: Kind::File, name } => assert_eq!(name, missing),
                other => panic!("{other:?}"),
            }
        }
        for not_a_program in ["/etc/passwd", "/etc"] {
            let error = check(&service(&[not_a_program])).expect_err("it cannot be run");
            assert!(matches!(error, Error::InvalidInput { .. }), "{error:?}");
        }
        let mut bad = service(&["true"]);
        bad.env.insert("A=B".into(), String::new());
        assert!(matches!(check(&bad), Err(Error::InvalidInput { .. })));
    }
}
