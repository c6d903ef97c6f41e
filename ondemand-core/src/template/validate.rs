//! What the `x-ondemand` section says against the services that there are.

use super::settings::{self, KEY};
use super::{Template, Variables};
use crate::compose::Document;
use crate::compose::field::Field;
use crate::compose::problem::Problems;
use crate::error::Result;

/// Checks a document that was rendered.
pub(super) fn validate(template: &Template, document: &Document, variables: &Variables) -> Result<()> {
    let before = settings::alone(&template.path.display().to_string(), &template.text)?;
    let section = match document.section(KEY) {
        Some(node) if Some(node) == before.section(KEY) => Field::new(KEY, node),
        _ => {
            let reason =
                format!("the section {KEY} is not the same once the file is rendered; put it outside of all blocks");
            return Err(template.invalid(0, reason));
        }
    };
    check(template, document, variables, &section).map_err(|problem| document.error(problem))
}

fn check(
    template: &Template,
    document: &Document,
    variables: &Variables,
    section: &Field<'_>,
) -> crate::compose::problem::Read<()> {
    let settings = template.settings();
    let services = document.services();
    let enabled = |part: &str| match part {
        "back" => variables.back.enabled,
        _ => variables.front.enabled,
    };
    let left_out: Vec<_> =
        settings.parts().filter(|(part, _)| !enabled(part)).flat_map(|(_, part)| &part.services).collect();
    let mut problems = Problems::default();
    for field in section.entries()? {
        let named = match field.name() {
            "routes" => field.items()?.iter().map(Field::entries).collect::<Result<Vec<_>, _>>()?.concat(),
            part @ ("back" | "front") if enabled(part) => field.entries()?,
            _ => continue,
        };
        for field in named {
            let fields = match field.name() {
                "service" => vec![field],
                "services" => field.items()?,
                _ => continue,
            };
            for field in fields {
                let name = field.text()?;
                if !services.contains(&name.as_str()) && !left_out.iter().any(|service| service.as_str() == name) {
                    problems.push(field.problem(format!("there is no service {name:?}")));
                }
            }
        }
    }
    let most = settings.limits.max_services;
    let count = services.iter().filter(|service| !left_out.iter().any(|left| left.as_str() == **service)).count();
    if let Some(most) = most.filter(|most| count > *most) {
        problems.push(section.problem(format!("there are {count} services, and max-services is {most}")));
    }
    problems.finish()
}
