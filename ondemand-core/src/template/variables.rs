//! What placeholders can name.

use std::collections::BTreeMap;
use std::fmt;

/// What the placeholders of a template can name. None of it is secret: secrets are named by the files that hold them.
#[derive(Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Variables {
    /// The environment's name.
    pub name: String,
    /// The domain that environments are reached under.
    pub domain: String,
    /// The host of each route, by its suffix.
    pub hosts: BTreeMap<String, String>,
    /// The URL of each route, by its suffix.
    pub urls: BTreeMap<String, String>,
    /// What the back end is built from.
    pub back: PartVariables,
    /// What the front end is built from.
    pub front: PartVariables,
    /// Where the environment's database is.
    pub database: DatabaseVariables,
    /// Whose environment it is.
    pub owner: OwnerVariables,
    /// Whether its database has fixtures rather than the dump.
    pub fixtures: bool,
    /// For how many days it is kept.
    pub keep_days: u32,
    /// When it expires, RFC 3339.
    pub expires: String,
    /// Where containers find each secret, by its name.
    pub secrets: BTreeMap<String, String>,
    /// The try that makes it.
    pub attempt: String,
    /// What `${…}` stands for once the placeholders are filled in. Placeholders cannot name these.
    #[serde(skip)]
    pub interpolation: BTreeMap<String, String>,
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What `${…}` stands for may be secret.
        f.debug_struct("Variables")
            .field("name", &self.name)
            .field("domain", &self.domain)
            .field("back", &self.back)
            .field("front", &self.front)
            .field("database", &self.database)
            .field("owner", &self.owner)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// What a part of an environment is built from.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct PartVariables {
    /// Whether the environment has it; if not, the rest is empty.
    pub enabled: bool,
    /// The repository.
    pub repository: String,
    /// The branch.
    pub branch: String,
    /// The commit that the branch was at.
    pub commit: String,
    /// The URL that the repository is cloned from, without the token.
    pub url: String,
}

/// Where an environment's database is.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct DatabaseVariables {
    /// Whether it has one; if not, the rest is empty.
    pub enabled: bool,
    /// The host, as containers reach it.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The user.
    pub user: String,
    /// The name of the database within the server.
    pub name: String,
}

/// Whose an environment is.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct OwnerVariables {
    /// The name they go by.
    pub login: String,
    /// The number that stays theirs.
    pub id: u64,
}
