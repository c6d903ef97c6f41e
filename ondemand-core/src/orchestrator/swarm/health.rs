//! Whether the health of services is checked: their tasks are told to be starting until they are healthy.

use std::collections::HashMap;

use bollard::models::{HealthConfig, Service as Found};

use super::tasks::{Doing, doing, newest};
use super::whole::Whole;
use crate::name::ServiceName;
use crate::orchestrator::docker::engine::has_status;

/// Which images have health checks of their own, as far as the manager's engine has told.
#[derive(Debug, Default)]
pub(super) struct Images(HashMap<String, bool>);

impl Images {
    /// Returns whether the health of services is checked, of those with a task that is starting. Of what has no check of its own and an image that the
    /// manager's engine does not have, it is not known.
    pub(super) async fn checked(&mut self, client: &bollard::Docker, whole: &Whole) -> HashMap<ServiceName, bool> {
        let mut checked = HashMap::new();
        for service in whole.services() {
            let starts = newest(&whole.tasks_of(&service)).into_iter().any(|task| doing(task) == Doing::Starting);
            let Some(found) = whole.found(&service).filter(|_| starts) else { continue };
            let known = match own(found) {
                Some(own) => Some(own),
                None => self.of_image(client, found).await,
            };
            checked.extend(known.map(|known| (service, known)));
        }
        checked
    }

    async fn of_image(&mut self, client: &bollard::Docker, found: &Found) -> Option<bool> {
        let image = container(found)?.image.as_deref()?;
        if let Some(known) = self.0.get(image) {
            return Some(*known);
        }
        match client.inspect_image(image).await {
            Ok(told) => {
                let check = told.config.and_then(|config| config.healthcheck);
                let known = check.as_ref().and_then(is_check).unwrap_or(false);
                self.0.insert(image.to_owned(), known);
                Some(known)
            }
            Err(error) => {
                if !has_status(&error, 404) {
                    tracing::debug!(image, %error, "it is not known whether the image has a health check");
                }
                None
            }
        }
    }
}

fn container(found: &Found) -> Option<&bollard::models::TaskSpecContainerSpec> {
    found.spec.as_ref()?.task_template.as_ref()?.container_spec.as_ref()
}

/// Returns what the service itself says; `None` if its image decides.
fn own(found: &Found) -> Option<bool> {
    is_check(container(found)?.health_check.as_ref()?)
}

/// Tells whether something is checked; `None` if that is inherited.
fn is_check(check: &HealthConfig) -> Option<bool> {
    let kind = check.test.as_ref()?.first()?;
    Some(kind != "NONE")
}

#[cfg(test)]
mod tests {
    use bollard::models::{ServiceSpec, TaskSpec, TaskSpecContainerSpec};

    use super::*;

    #[test]
    fn a_service_has_a_check_of_its_own_none_or_its_images() {
        let says = |test: Option<&[&str]>| {
            let test = test.map(|test| test.iter().map(|&word| word.to_owned()).collect());
            let container_spec = TaskSpecContainerSpec {
                health_check: Some(HealthConfig { test, ..HealthConfig::default() }),
                ..TaskSpecContainerSpec::default()
            };
            let task_template = Some(TaskSpec { container_spec: Some(container_spec), ..TaskSpec::default() });
            own(&Found { spec: Some(ServiceSpec { task_template, ..ServiceSpec::default() }), ..Found::default() })
        };
        assert_eq!(says(Some(&["CMD", "true"])), Some(true));
        assert_eq!(says(Some(&["NONE"])), Some(false));
        // An engine calls both of these inherited.
        assert_eq!(says(Some(&[])), None);
        assert_eq!(says(None), None);
        assert_eq!(own(&Found::default()), None);
    }
}
