//! Environments.

use ondemand_core::environments::{self, Choice, CreateEnvironment};
use ondemand_core::orchestrator::{Service, ServiceState};
use ondemand_core::{Error, Result, Secret};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::Object;

use super::Moment;

/// An environment that is asked for. Every field is optional.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PostEnvironment {
    /// Its name; a readable one is made where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "demo")]
    pub name: Option<String>,
    /// Whose it is to be, and what its code is cloned with; `Authorization: Bearer TOKEN` is as good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub github_token: Option<String>,
    /// Whether it gets fixtures instead of the dump.
    #[serde(skip_serializing_if = "std::ops::Not::not", deserialize_with = "switch")]
    pub with_fixtures: bool,
    /// How many days it lives; a number, or text.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "days")]
    #[schema(example = 5)]
    pub keep_days: Option<u32>,
    /// The repository of its back end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "nclavaud/back-web")]
    pub github_back: Option<String>,
    /// The branch of its back end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "master")]
    pub github_back_branch: Option<String>,
    /// The repository of its front end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub github_front: Option<String>,
    /// The branch of its front end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub github_front_branch: Option<String>,
    /// The template it is rendered from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
}

impl PostEnvironment {
    /// Takes the token out.
    pub fn take_token(&mut self) -> Option<Secret> {
        self.github_token.take().filter(|token| !token.is_empty()).map(Secret::new)
    }
}

impl TryFrom<PostEnvironment> for CreateEnvironment {
    type Error = Error;
    fn try_from(wanted: PostEnvironment) -> Result<Self> {
        let choice = |repository: Option<String>, branch: Option<String>| {
            let repository = repository.filter(|text| !text.is_empty()).map(|text| text.parse()).transpose()?;
            let branch = branch.filter(|text| !text.is_empty()).map(|text| text.parse()).transpose()?;
            Ok::<_, Error>(Choice { repository, branch })
        };
        Ok(Self {
            name: wanted.name.filter(|name| !name.is_empty()).map(|name| name.parse()).transpose()?,
            template: wanted.template.filter(|template| !template.is_empty()),
            fixtures: wanted.with_fixtures,
            keep_days: wanted.keep_days,
            back: choice(wanted.github_back, wanted.github_back_branch)?,
            front: choice(wanted.github_front, wanted.github_front_branch)?,
        })
    }
}

/// What is to change about an environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PatchEnvironment {
    /// How many days it lives from now on; a number, or text.
    #[serde(deserialize_with = "required_days")]
    #[schema(example = 5)]
    pub keep_days: u32,
}

/// An environment that is there, or being made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct EnvironmentDone {
    /// `done`; `creating` where nobody waits for it.
    #[schema(example = "done")]
    pub status: String,
    /// The host names it is reached by.
    #[schema(example = json!(["demoapi.env.dev.internal", "demoadmin.env.dev.internal"]))]
    pub urls: Vec<String>,
    /// Its name, where the request gave it none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// An environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Environment {
    /// Its name.
    #[schema(example = "demo")]
    pub name: String,
    /// What it does.
    #[schema(schema_with = status_schema)]
    pub status: String,
    /// The host names it is reached by.
    pub urls: Vec<String>,
    /// What people type to reach it, in the order of `urls`.
    #[schema(example = json!(["http://demo.localhost:8000"]))]
    pub links: Vec<String>,
    /// What people type to reach its main route, by its plain name; none where it was made without the services of that route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "http://demo.localhost:8000")]
    pub main: Option<String>,
    /// Whose it is.
    pub owner: Owner,
    /// The template it was rendered from.
    pub template: String,
    /// When it was created.
    #[schema(value_type = String, format = "date-time")]
    pub created: Moment,
    /// When it is reaped.
    #[schema(value_type = String, format = "date-time")]
    pub expires: Moment,
    /// What its back end was built from.
    pub back: Option<Source>,
    /// What its front end was built from.
    pub front: Option<Source>,
    /// Whether its data are fixtures.
    pub with_fixtures: bool,
    /// Its database, by the id that `/servers` knows it by.
    pub database: Option<String>,
    /// Its services.
    pub services: Vec<EnvironmentService>,
    /// Why it could not be made, where it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Environment {
    /// Returns what to type to see it: what reaches the main route, else the first link there is.
    pub fn entrance(&self) -> Option<&str> {
        self.main.as_ref().or_else(|| self.links.first()).map(String::as_str)
    }
}

/// Whose an environment is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Owner {
    /// The number that GitHub knows the user by.
    pub id: u64,
    /// The user's name when the environment was created.
    pub login: String,
}

/// What a part of an environment was built from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Source {
    /// The repository.
    #[schema(example = "nclavaud/back-web")]
    pub repository: String,
    /// The branch.
    pub branch: String,
    /// What the branch was at.
    pub commit: String,
}

/// A service of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct EnvironmentService {
    /// Its name.
    pub name: String,
    /// What it does: `starting`, `running`, `exited`, `asleep`.
    pub state: String,
    /// How often it has ended by itself and was started again.
    pub restarts: u32,
    /// What the orchestrator last had to say about why it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl From<environments::Environment> for Environment {
    fn from(environment: environments::Environment) -> Self {
        Self {
            name: environment.name.to_string(),
            status: environment.status.to_string(),
            urls: environment.urls.iter().map(ToString::to_string).collect(),
            links: environment.links,
            main: environment.main,
            owner: Owner { id: environment.owner.id, login: environment.owner.login },
            template: environment.template,
            created: Moment(environment.created.into()),
            expires: Moment(environment.expires.into()),
            back: environment.back.map(Into::into),
            front: environment.front.map(Into::into),
            with_fixtures: environment.fixtures,
            database: environment.database.map(|id| id.to_string()),
            services: environment.services.into_iter().map(Into::into).collect(),
            failure: environment.failure,
        }
    }
}

impl From<environments::Source> for Source {
    fn from(source: environments::Source) -> Self {
        Self {
            repository: source.repository.to_string(),
            branch: source.branch.to_string(),
            commit: source.commit.to_string(),
        }
    }
}

impl From<Service> for EnvironmentService {
    fn from(service: Service) -> Self {
        let state = match service.state {
            ServiceState::Exited { .. } => "exited".to_owned(),
            state => state.to_string(),
        };
        Self { name: service.name.to_string(), state, restarts: service.restarts, error: service.error }
    }
}

/// What creating an environment would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct EnvironmentPlan {
    /// Its name.
    pub name: String,
    /// The host names it would be reached by.
    pub urls: Vec<String>,
    /// The template it would be rendered from.
    pub template: String,
    /// Whose it would be.
    pub owner: Owner,
    /// What its back end would be built from.
    pub back: Option<Source>,
    /// What its front end would be built from.
    pub front: Option<Source>,
    /// The dataset its database would be cloned from.
    pub dataset: Option<String>,
    /// When it would be reaped.
    #[schema(value_type = String, format = "date-time")]
    pub expires: Moment,
    /// The compose file, as it would be deployed.
    pub compose: String,
}

impl From<environments::Plan> for EnvironmentPlan {
    fn from(plan: environments::Plan) -> Self {
        Self {
            name: plan.name.to_string(),
            urls: plan.urls.iter().map(ToString::to_string).collect(),
            template: plan.template,
            owner: Owner { id: plan.owner.id, login: plan.owner.login },
            back: plan.back.map(Into::into),
            front: plan.front.map(Into::into),
            dataset: plan.dataset.map(|dataset| dataset.to_string()),
            expires: Moment(plan.expires.into()),
            compose: plan.compose,
        }
    }
}

fn status_schema() -> Object {
    let all = ["creating", "ready", "degraded", "redeploying", "deleting", "failed"];
    super::text("What it does.").enum_values(Some(all)).build()
}

/// Reads a switch, which old clients send as text, or with nothing in it.
fn switch<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    use serde_json::Value;
    match Value::deserialize(deserializer)? {
        Value::Bool(on) => Ok(on),
        Value::Null => Ok(false),
        Value::String(text) if ["", "true", "1"].contains(&text.as_str()) => Ok(true),
        Value::String(text) if ["false", "0"].contains(&text.as_str()) => Ok(false),
        _ => Err(serde::de::Error::custom("with-fixtures is neither true nor false")),
    }
}

/// Reads a number of days, which old clients send as text.
fn days<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    if value.is_null() {
        return Ok(None);
    }
    let days = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok()).and_then(|days| u32::try_from(days).ok());
    days.map(Some).ok_or_else(|| serde::de::Error::custom("keep-days is not a number of days"))
}

fn required_days<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    days(deserializer)?.ok_or_else(|| serde::de::Error::custom("keep-days is not a number of days"))
}
