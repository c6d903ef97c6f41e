//! What it means that no node takes a task, or that the one that got it refuses it.

use bollard::errors::Error as EngineError;
use bollard::models::{Task, TaskState};

use super::registry::{Told, registry};
use super::tasks::{complaint, state};
use crate::error::{Error, Kind};
use crate::orchestrator::ServiceSpec;
use crate::orchestrator::docker::engine::refused;

/// A node's refusal of a task.
#[derive(Debug)]
pub(super) struct Refusal {
    /// What its engine says.
    pub(super) why: String,
    /// Which node.
    pub(super) node: String,
}

impl Refusal {
    /// Makes the error: what the service needs is missing or taken, or it failed. `told` is what the registry of its image says about that.
    pub(super) fn error(self, service: &ServiceSpec, told: Told) -> Error {
        let Self { why, node } = self;
        let image = service.image.as_deref().unwrap_or_default();
        let program = service.command.first().map_or("", String::as_str);
        let answer = EngineError::DockerResponseServerError { status_code: 404, message: why.clone() };
        match refused(format!("starting service {}", service.name), image, program, answer) {
            Error::NotFound { kind: Kind::Image, .. } => no_image(image, &node, &why, told),
            Error::OutOfSpace { .. } => {
                Error::OutOfSpace { message: format!("node {node}, starting service {}: {why}", service.name) }
            }
            Error::Backend { .. } => {
                Error::ServiceFailed { service: service.name.to_string(), reason: why, log: Vec::new() }
            }
            error => error,
        }
    }
}

/// Makes the error for an image that a node does not have and did not get. The engine says no more than that there is none: why it was not pulled is in the
/// log of the node only.
fn no_image(image: &str, node: &str, why: &str, told: Told) -> Error {
    let (message, hint) = match told {
        Told::Has => (
            format!("node {node} did not get image {image}, though its registry has it: {why}"),
            "look at the log of that node's engine: its disk may be full, or the registry out of its reach".to_owned(),
        ),
        Told::Denies { said, credentials } => {
            let registry = registry(image);
            let (wants, hint) = if credentials {
                ("does not take the credentials", format!("mend the entry for {registry} in the file"))
            } else {
                ("wants a login", format!("have an entry for {registry} in a config.json of Docker's client"))
            };
            (
                format!("node {node} has no image {image}, and its registry {wants}: {said}"),
                format!("{hint} that swarm.registry-auth names"),
            )
        }
        Told::Nothing { said } => (
            format!("node {node} has no image {image}, and its registry does not tell of it: {said}"),
            "push it to a registry that every node reaches, or load it on every node".to_owned(),
        ),
        Told::HasNot | Told::Unasked => return Error::not_found(Kind::Image, image),
    };
    Error::Conflict { message, hint }
}

/// Tells whether a task was refused by its node, or its container could not be started.
pub(super) fn never_ran(task: &Task) -> bool {
    let status = task.status.as_ref();
    let exit = status.and_then(|status| status.container_status.as_ref()?.exit_code).unwrap_or_default();
    match state(task) {
        TaskState::REJECTED => true,
        TaskState::FAILED => {
            complaint(task).is_some_and(|why| why.starts_with("starting container failed"))
                || exit == 0 && {
                    // An unhealthy one has run.
                    !complaint(task).is_some_and(|why| why.contains("unhealthy"))
                }
        }
        _ => false,
    }
}

/// Makes the error for a task that has no node to run on.
pub(super) fn no_place(service: &ServiceSpec, why: &str) -> Error {
    let hint = if why.contains("port") {
        "choose another port, or end what publishes it"
    } else {
        "look at the service's constraints and reservations, and at `docker node ls`"
    };
    Error::Conflict { message: format!("no node can run service {}: {why}", service.name), hint: hint.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    const IMAGE: &str = "r.internal:5000/shop/runner:1";

    fn service() -> ServiceSpec {
        let command = vec!["/bin/nosuch".to_owned()];
        ServiceSpec { image: Some(IMAGE.into()), ..ServiceSpec::new("back".parse().unwrap(), command) }
    }

    fn refusal(why: &str, told: Told) -> Error {
        Refusal { why: why.into(), node: "node-3".into() }.error(&service(), told)
    }

    #[test]
    fn an_image_that_a_node_lacks_is_named_with_the_node_and_the_reason() {
        let none = format!("No such image: {IMAGE}@sha256:0123");
        let missing = |told: Told| refusal(&none, told);
        for (told, says, hints) in [
            (Told::Has, "registry has it", "disk may be full"),
            (Told::Denies { said: "no auth".into(), credentials: false }, "wants a login: no auth", "registry-auth"),
            (Told::Denies { said: "no".into(), credentials: true }, "the credentials: no", "entry for r.internal:5000"),
            (Told::Nothing { said: "refused".into() }, "does not tell of it: refused", "on every node"),
        ] {
            let error = missing(told);
            let (message, hint) = (error.to_string(), error.hint().unwrap_or_default());
            assert_eq!(error.code(), Code::Conflict, "{error:?}");
            assert!(message.contains("node-3") && message.contains(IMAGE) && message.contains(says), "{message}");
            assert!(hint.contains(hints), "{hint}");
        }
        for told in [Told::HasNot, Told::Unasked] {
            assert_eq!(missing(told).code(), Code::NotFound);
        }
    }

    #[test]
    fn a_full_disk_is_said_with_the_node_and_its_words() {
        let why = "mkdir /var/lib/docker/overlay2/x: no space left on device";
        let error = refusal(why, Told::Has);
        assert_eq!(error.code(), Code::OutOfSpace, "{error:?}");
        let message = error.to_string();
        assert!(message.contains("node-3") && message.contains("back") && message.contains(why), "{message}");
        assert!(error.hint().is_some_and(|hint| hint.contains("node")), "{error:?}");
    }

    #[test]
    fn what_else_a_node_says_is_why_its_service_failed() {
        match refusal("starting container failed: no luck", Told::Has) {
            Error::ServiceFailed { service, reason, .. } => {
                assert_eq!((service.as_str(), reason.as_str()), ("back", "starting container failed: no luck"));
            }
            error => panic!("{error:?}"),
        }
        assert_eq!(refusal("exec: \"/bin/nosuch\": no such file or directory", Told::Has).code(), Code::NotFound);
    }
}
