//! What things of a stack are called in a swarm, and the labels they carry.

use std::collections::HashMap;
use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::label::keys;
use crate::name::{AttemptId, ServiceName, StackName};
use crate::orchestrator::StackId;
use crate::orchestrator::docker::translate::{STACK, label_filter};

/// The label that makes a stack of things, for `docker stack` too.
pub(super) const NAMESPACE: &str = "com.docker.stack.namespace";
/// The label that says which image was asked for, for `docker stack` too.
pub(super) const IMAGE: &str = "com.docker.stack.image";

/// The longest name of a service or a network.
const LONGEST: usize = 63;
/// How much of a longer one is kept, before the hash of it all.
const KEPT: usize = 46;

/// The names and labels of what one deployment has in a swarm.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) instance: String,
    pub(super) stack: StackName,
    pub(super) attempt: AttemptId,
}

impl Names {
    /// Returns what `docker stack` calls the stack. A name of ours holds no underscore, so no two are the same.
    pub(super) fn namespace(&self) -> String {
        namespace(&self.instance, &self.stack)
    }

    /// Returns the name of what claims the stack's name.
    pub(super) fn claim(&self) -> String {
        claim(&self.instance, &self.stack)
    }

    /// Returns the name of a service's.
    pub(super) fn service(&self, service: &ServiceName) -> String {
        self.of(service.as_str())
    }

    /// Returns the name of a volume. Unlike what there is one of in a swarm, it may be on a node long after its deployment has gone: the next one of the
    /// same name is not to find what that left.
    pub(super) fn volume(&self, volume: &str) -> String {
        self.of(&format!("{volume}_{}", self.attempt))
    }

    /// Returns the name of the note that nodes have the deployment's volumes when it is gone.
    pub(super) fn leftover(&self) -> String {
        fit(&format!("{}_{}_volumes", self.instance, self.attempt))
    }

    /// Returns the name of a network, secret or configuration file of the stack.
    pub(super) fn of(&self, what: &str) -> String {
        fit(&format!("{}_{what}", self.namespace()))
    }

    pub(super) fn id(&self) -> StackId {
        StackId::of(&self.stack, &self.attempt)
    }

    /// Returns the labels that tell whose a thing is.
    pub(super) fn labels(&self) -> HashMap<String, String> {
        let labels = [
            (keys::INSTANCE, self.instance.clone()),
            (STACK, self.stack.to_string()),
            (keys::ATTEMPT, self.attempt.to_string()),
            (NAMESPACE, self.namespace()),
        ];
        labels.map(|(key, value)| (key.to_owned(), value)).into()
    }

    /// Returns these labels with a thing's own beside them, which do not replace them.
    pub(super) fn labels_and<'a>(&self, own: impl IntoIterator<Item = (&'a str, &'a str)>) -> HashMap<String, String> {
        let mut labels: HashMap<_, _> =
            own.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        labels.extend(self.labels());
        labels
    }

    /// Returns the filter that chooses all that belongs to the deployment.
    pub(super) fn filter(&self) -> HashMap<String, Vec<String>> {
        label_filter(self.labels())
    }
}

/// Returns the name of what claims a stack's name.
pub(super) fn claim(instance: &str, stack: &StackName) -> String {
    fit(&namespace(instance, stack))
}

fn namespace(instance: &str, stack: &StackName) -> String {
    format!("{instance}_{stack}")
}

/// Cuts a name that is too long, or holds what no name may, so that different ones stay different.
pub(super) fn fit(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.len() <= LONGEST && name.chars().all(allowed) && name.ends_with(|c: char| c.is_ascii_alphanumeric()) {
        return name.to_owned();
    }
    let mut short: String = name.chars().map(|c| if allowed(c) { c } else { '-' }).take(KEPT).collect();
    short.push('-');
    for byte in Sha256::digest(name).iter().take(8) {
        // Writing to text does not fail.
        let _ = write!(short, "{byte:02x}");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ() {
        let attempt = AttemptId::random().expect("randomness");
        let stack = StackName::new("s".repeat(63)).expect("a name");
        let long = Names { instance: "i".into(), stack, attempt: attempt.clone() };
        let (one, two) = (long.of("one"), long.of("two"));
        assert_ne!(one, two);
        let short = Names { instance: "i".into(), stack: StackName::new("s").expect("a name"), attempt };
        assert_eq!(short.of("db"), "i_s_db");
        assert_ne!(short.of("a.b"), short.of("a-b"));
        let again = Names { attempt: AttemptId::random().expect("randomness"), ..short.clone() };
        assert_ne!(short.volume("db"), again.volume("db"));
        assert_ne!(short.leftover(), again.leftover());
        for name in [one, two, long.claim(), long.volume("db"), short.volume("db"), short.of("a.b"), short.of("_")] {
            assert!(name.len() <= LONGEST && name.ends_with(|c: char| c.is_ascii_alphanumeric()), "{name}");
        }
    }
}
