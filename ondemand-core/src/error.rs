//! The one error type of the library: meanings, not transports.

use std::fmt;
use std::time::Duration;

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error, as the cause of an [`Error::Backend`].
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What kind of thing an error speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A running Postgres on a volume of its own.
    Database,
    /// A named lineage of data.
    Dataset,
    /// One published version of a dataset.
    Snapshot,
    /// A writable data directory.
    Volume,
    /// What an orchestrator runs as one unit.
    Stack,
    /// One program of a stack.
    Service,
    /// A container image.
    Image,
    /// A host name that the router knows.
    Route,
    /// A label's key or value.
    Label,
    /// A host name.
    Host,
    /// A file or directory named by the user.
    File,
    /// A running copy of the product.
    Environment,
    /// One try at making something.
    Attempt,
    /// A lease.
    Lease,
    /// A compose file with placeholders, that environments are rendered from.
    Template,
    /// A Git repository.
    Repository,
    /// A branch of a Git repository.
    Branch,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Database => "database",
            Self::Dataset => "dataset",
            Self::Snapshot => "snapshot",
            Self::Volume => "volume",
            Self::Stack => "stack",
            Self::Service => "service",
            Self::Image => "image",
            Self::Route => "route",
            Self::Label => "label",
            Self::Host => "host",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Attempt => "attempt",
            Self::Lease => "lease",
            Self::Template => "template",
            Self::Repository => "repository",
            Self::Branch => "branch",
        })
    }
}

/// What went wrong.
///
/// Match on the variant, or on [`Error::code`] where the variant's fields do not matter. `Display` never repeats the
/// source: print the chain of [`std::error::Error::source`] for the causes, and [`Error::hint`] for what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The thing named does not exist.
    #[error("{}", missing(*kind, name))]
    NotFound {
        /// What kind of thing.
        kind: Kind,
        /// The name or id that was asked for; empty if any would have done.
        name: String,
    },
    /// The name is taken.
    #[error("{kind} {name:?} already exists")]
    AlreadyExists {
        /// What kind of thing.
        kind: Kind,
        /// The name that is taken.
        name: String,
    },
    /// The request is valid, but not now: something else uses, holds or changes the thing.
    #[error("{message}")]
    Conflict {
        /// What is in the way.
        message: String,
        /// What to do about it.
        hint: String,
    },
    /// A name or an id that could not be one.
    #[error("{name:?} is not {} {kind} name: {reason}", article(*kind))]
    InvalidName {
        /// What it was to name.
        kind: Kind,
        /// What was given, shortened.
        name: String,
        /// The rule it breaks.
        reason: String,
    },
    /// Any other value that does not parse or is out of range.
    #[error("invalid {what}: {reason}")]
    InvalidInput {
        /// Which value: `ttl`, `request body`, `configuration`, …
        what: String,
        /// The rule it breaks, or where parsing stopped.
        reason: String,
    },
    /// A dump that Postgres would not restore.
    #[error("the dump could not be restored: {message}")]
    InvalidDump {
        /// The restoring program's own first error.
        message: String,
        /// The end of its output.
        log: Vec<String>,
        /// What to do about it.
        hint: String,
    },
    /// A template, or what was rendered from it, that cannot be deployed.
    #[error("{}: {reason}", place(file, *line))]
    InvalidTemplate {
        /// The file.
        file: String,
        /// The line, the first being 1; 0 where none is to blame.
        line: usize,
        /// What is wrong there, and which key it is about.
        reason: String,
    },
    /// A service of an environment did not do its work: it could not be built, or ended by itself.
    #[error("service {service:?} failed: {reason}")]
    ServiceFailed {
        /// Which one.
        service: String,
        /// What happened to it.
        reason: String,
        /// The end of its log.
        log: Vec<String>,
    },
    /// The caller is known, and may not do this.
    #[error("{message}")]
    Forbidden {
        /// What is not allowed.
        message: String,
    },
    /// The caller has not said who it is, or not proved it.
    #[error("{message}")]
    Unauthenticated {
        /// What is missing.
        message: String,
        /// What to do about it.
        hint: String,
    },
    /// A configured limit is reached: databases, ports, body size.
    #[error("{message}")]
    QuotaExceeded {
        /// Which limit, and its value.
        message: String,
        /// What to do about it.
        hint: String,
    },
    /// The pool or the disk is full.
    #[error("out of space: {message}")]
    OutOfSpace {
        /// Where, and how much is left.
        message: String,
    },
    /// What keeps the data cannot be written: BTRFS stops writing when the disk beneath fails, such as by being full.
    #[error("{message}")]
    ReadOnly {
        /// What is read-only, and why, as far as that is known.
        message: String,
    },
    /// Something was started and did not answer.
    #[error("not ready after {:.1} s: {last}", waited.as_secs_f64())]
    NotReady {
        /// How long it was waited for.
        waited: Duration,
        /// The last state that was seen.
        last: String,
        /// The end of its log.
        log: Vec<String>,
    },
    /// This implementation, version or machine cannot do it.
    #[error("{message}")]
    Unsupported {
        /// What it cannot do.
        message: String,
        /// What to do instead.
        hint: String,
    },
    /// The operation was given up before its end, and undone.
    #[error("the operation was cancelled and undone")]
    Cancelled,
    /// An engine, a file system or a program failed.
    #[error("{backend}: {operation} failed")]
    Backend {
        /// Which part: `docker`, `btrfs`, `process`, `postgres`, …
        backend: &'static str,
        /// What it was doing.
        operation: String,
        /// Whether the same call may succeed later.
        transient: bool,
        /// Why it failed.
        #[source]
        source: BoxError,
    },
}

/// The stable name of an error's meaning; see [`Error::code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is the variant of `Error` with its name, and documented there")]
pub enum Code {
    NotFound,
    AlreadyExists,
    Conflict,
    InvalidName,
    InvalidInput,
    InvalidDump,
    InvalidTemplate,
    ServiceFailed,
    Forbidden,
    Unauthenticated,
    QuotaExceeded,
    OutOfSpace,
    NotReady,
    Unsupported,
    Cancelled,
    Backend,
}

impl Code {
    /// Every code, for front ends that translate each.
    pub const ALL: [Self; 16] = [
        Self::NotFound,
        Self::AlreadyExists,
        Self::Conflict,
        Self::InvalidName,
        Self::InvalidInput,
        Self::InvalidDump,
        Self::InvalidTemplate,
        Self::ServiceFailed,
        Self::Forbidden,
        Self::Unauthenticated,
        Self::QuotaExceeded,
        Self::OutOfSpace,
        Self::NotReady,
        Self::Unsupported,
        Self::Cancelled,
        Self::Backend,
    ];

    /// Returns the code as it stands in JSON, in snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Conflict => "conflict",
            Self::InvalidName => "invalid_name",
            Self::InvalidInput => "invalid_input",
            Self::InvalidDump => "invalid_dump",
            Self::InvalidTemplate => "invalid_template",
            Self::ServiceFailed => "service_failed",
            Self::Forbidden => "forbidden",
            Self::Unauthenticated => "unauthenticated",
            Self::QuotaExceeded => "quota_exceeded",
            Self::OutOfSpace => "out_of_space",
            Self::NotReady => "not_ready",
            Self::Unsupported => "unsupported",
            Self::Cancelled => "cancelled",
            Self::Backend => "backend",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Error {
    /// Returns what it says, with its causes.
    pub(crate) fn with_causes(&self) -> String {
        let first: &dyn std::error::Error = self;
        let causes = std::iter::successors(Some(first), |error| error.source()).map(ToString::to_string);
        causes.collect::<Vec<_>>().join(": ")
    }

    /// Returns the stable name of the error's meaning.
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::NotFound,
            Self::AlreadyExists { .. } => Code::AlreadyExists,
            Self::Conflict { .. } => Code::Conflict,
            Self::InvalidName { .. } => Code::InvalidName,
            Self::InvalidInput { .. } => Code::InvalidInput,
            Self::InvalidDump { .. } => Code::InvalidDump,
            Self::InvalidTemplate { .. } => Code::InvalidTemplate,
            Self::ServiceFailed { .. } => Code::ServiceFailed,
            Self::Forbidden { .. } => Code::Forbidden,
            Self::Unauthenticated { .. } => Code::Unauthenticated,
            Self::QuotaExceeded { .. } => Code::QuotaExceeded,
            Self::OutOfSpace { .. } => Code::OutOfSpace,
            Self::NotReady { .. } => Code::NotReady,
            Self::Unsupported { .. } => Code::Unsupported,
            Self::Cancelled => Code::Cancelled,
            Self::ReadOnly { .. } | Self::Backend { .. } => Code::Backend,
        }
    }

    /// Tells whether the same call may succeed later with nothing changed by the caller.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotReady { .. } | Self::ReadOnly { .. } | Self::Cancelled => true,
            Self::Backend { transient, .. } => *transient,
            _ => false,
        }
    }

    /// Returns what the caller can do about it, as one sentence.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotFound { kind, name } => match kind {
                Kind::Image => {
                    "build or pull the image on the host of the engine, or name another in the configuration".into()
                }
                Kind::File => "check the path".into(),
                Kind::Dataset if name.is_empty() => "import one: `ondemand dataset import NAME --dump FILE`".into(),
                Kind::Dataset => {
                    "list those that exist with `ondemand dataset list`, or import one: `ondemand dataset import NAME --dump FILE`".into()
                }
                Kind::Environment => "list those that exist with `ondemand env list`".into(),
                Kind::Repository => "check its name, and that the token may read it".into(),
                Kind::Branch => "check its name, and that it was pushed".into(),
                Kind::Route => "list those that exist with `ondemand route list`".into(),
                kind => format!("list the {kind}s that exist"),
            },
            Self::AlreadyExists { .. } => "choose another name, or delete the existing one first".into(),
            Self::Conflict { hint, .. }
            | Self::InvalidDump { hint, .. }
            | Self::QuotaExceeded { hint, .. }
            | Self::Unauthenticated { hint, .. }
            | Self::Unsupported { hint, .. } => hint.clone(),
            Self::OutOfSpace { .. } => {
                "delete databases or old snapshots, enlarge the pool with `ondemand pool grow`, or free space on the disk beneath it; where it is a node's disk, remove images and containers there"
                    .into()
            }
            Self::ReadOnly { .. } => {
                "free space on the disk beneath the pool; `ondemand reap`, or the server within moments, then mounts it again and starts its databases"
                    .into()
            }
            Self::InvalidTemplate { .. } => "mend the template, and check it with `ondemand template check`".into(),
            Self::ServiceFailed { .. } => "read the end of its log; mend the code, push, and try again".into(),
            Self::NotReady { .. } => "read the log; if it was only slow, try again".into(),
            Self::Backend { backend: "docker", transient: true, .. } => {
                "check that the Docker Engine runs and that its socket can be reached".into()
            }
            Self::Backend { backend: "remote proxy", transient: true, .. } => {
                "check that the proxy runs, and that its API can be reached at this URL".into()
            }
            Self::Backend { backend: "git", transient: true, .. } => {
                "check that the Git server can be reached from here, or try again later".into()
            }
            Self::Backend { backend: "github", transient: true, .. } => {
                "check that the GitHub API can be reached from here, or try again later".into()
            }
            Self::InvalidName { .. }
            | Self::InvalidInput { .. }
            | Self::Forbidden { .. }
            | Self::Cancelled
            | Self::Backend { .. } => return None,
        })
    }

    /// Returns the end of the log that explains the error, where there is one.
    pub fn log(&self) -> &[String] {
        match self {
            Self::InvalidDump { log, .. } | Self::ServiceFailed { log, .. } | Self::NotReady { log, .. } => log,
            _ => &[],
        }
    }

    /// Makes a [`Error::NotFound`].
    pub fn not_found(kind: Kind, name: impl fmt::Display) -> Self {
        Self::NotFound { kind, name: shorten(&name.to_string()) }
    }

    /// Makes an [`Error::AlreadyExists`].
    pub fn already_exists(kind: Kind, name: impl fmt::Display) -> Self {
        Self::AlreadyExists { kind, name: shorten(&name.to_string()) }
    }

    /// Makes an [`Error::InvalidInput`].
    pub fn invalid(what: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::InvalidInput { what: what.into(), reason: reason.to_string() }
    }

    /// Makes the [`Error::Unauthenticated`] of a caller of this server's own API.
    pub fn unauthenticated(message: impl Into<String>) -> Self {
        Self::Unauthenticated {
            message: message.into(),
            hint: "send the token as `Authorization: Bearer TOKEN`".into(),
        }
    }

    /// Makes an [`Error::Backend`] that another try will not mend.
    pub fn backend(backend: &'static str, operation: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self::Backend { backend, operation: operation.into(), transient: false, source: source.into() }
    }

    /// Makes the error for a failed system call: [`Error::OutOfSpace`] where that is the reason, else a backend's.
    pub fn io(backend: &'static str, operation: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind;
        let operation = operation.into();
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::OutOfSpace { message: operation },
            ErrorKind::Interrupted | ErrorKind::TimedOut | ErrorKind::WouldBlock => {
                Self::Backend { backend, operation, transient: true, source: source.into() }
            }
            _ => Self::Backend { backend, operation, transient: false, source: source.into() },
        }
    }
}

/// Returns what stands before the name of a kind.
fn article(kind: Kind) -> &'static str {
    match kind {
        Kind::Attempt | Kind::Environment | Kind::Image => "an",
        _ => "a",
    }
}

fn missing(kind: Kind, name: &str) -> String {
    if name.is_empty() { format!("there is no {kind} yet") } else { format!("{kind} {name:?} does not exist") }
}

fn place(file: &str, line: usize) -> String {
    if line == 0 { file.to_owned() } else { format!("{file}:{line}") }
}

/// Cuts what a stranger sent to a length that fits a message.
pub(crate) fn shorten(text: &str) -> String {
    const LIMIT: usize = 80;
    if text.chars().count() <= LIMIT {
        return text.to_owned();
    }
    text.chars().take(LIMIT).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_does_not_repeat_the_source() {
        let error = Error::backend("btrfs", "deleting a volume", "device gone");
        assert_eq!(error.to_string(), "btrfs: deleting a volume failed");
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(source.as_deref(), Some("device gone"));
    }

    #[test]
    fn what_has_no_name_is_not_quoted() {
        let error = Error::not_found(Kind::Dataset, "");
        assert_eq!(error.to_string(), "there is no dataset yet");
        assert_eq!(error.hint().as_deref(), Some("import one: `ondemand dataset import NAME --dump FILE`"));
        assert_eq!(Error::not_found(Kind::Dataset, "a").to_string(), "dataset \"a\" does not exist");
    }

    #[test]
    fn what_is_no_name_is_said_in_good_english() {
        for (kind, expected) in [(Kind::Dataset, "not a dataset name"), (Kind::Environment, "not an environment name")]
        {
            let error = Error::InvalidName { kind, name: "_".into(), reason: "no".into() };
            assert_eq!(error.to_string(), format!("\"_\" is {expected}: no"));
        }
    }

    #[test]
    fn a_full_disk_is_out_of_space() {
        let error = Error::io("copy", "copying", std::io::Error::from(std::io::ErrorKind::StorageFull));
        assert_eq!(error.code(), Code::OutOfSpace);
    }

    #[test]
    fn codes_serialise_as_their_names() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).expect("a string"), serde_json::json!(code.as_str()));
        }
    }

    #[test]
    fn long_names_are_cut() {
        let error = Error::not_found(Kind::Dataset, "x".repeat(10_000));
        assert!(error.to_string().len() < 200, "{error}");
    }
}
