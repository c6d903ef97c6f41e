//! What GitHub answers, and what it means.

use std::fmt::Write as _;
use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{BACKEND, GitHubOptions, Identity, TOKEN_HINT};
use crate::error::Error;

/// The longest that a limit is believed in: GitHub's own are counted by the hour.
const LONGEST_LIMIT: Duration = Duration::from_secs(60 * 60);

/// Whose the token is.
#[derive(serde::Deserialize)]
pub(super) struct User {
    id: u64,
    login: String,
}

/// What the token's owner is to an organisation.
#[derive(serde::Deserialize)]
pub(super) struct Membership {
    state: String,
}

impl User {
    pub(super) fn identity(self) -> Result<Identity, Failure> {
        let Self { id, login } = self;
        // Bots have brackets in theirs.
        let name = |b: u8| b.is_ascii_alphanumeric() || b"-_[]".contains(&b);
        if id == 0 || login.is_empty() || login.len() > 100 || !login.bytes().all(name) {
            return Err(Failure::garbage("the answer names no account"));
        }
        Ok(Identity { id, login })
    }
}

impl Membership {
    /// Tells an invitation from a membership.
    pub(super) fn is_active(&self) -> bool {
        self.state == "active"
    }
}

/// Why there is no identity. Unlike an error it can be told to all who wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The token is not taken.
    Token,
    /// The token is taken, and may not ask this.
    Refused,
    /// Its owner is in none of the organisations.
    NoMember { login: String },
    /// No answer, or none for now.
    Down { why: String, wait: Option<Duration> },
    /// Not an answer of GitHub.
    Garbage { why: String },
}

impl Failure {
    pub(super) fn down(why: impl Into<String>) -> Self {
        Self::Down { why: why.into(), wait: None }
    }

    pub(super) fn garbage(why: &str) -> Self {
        Self::Garbage { why: format!("{why}; check the URL of the GitHub API") }
    }

    pub(super) fn unreachable(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let mut why = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            let _ = write!(why, ": {cause}");
            source = cause.source();
        }
        Self::down(why)
    }

    pub(super) fn limited(wait: Duration) -> Self {
        let until = OffsetDateTime::now_utc() + wait;
        let until = until.replace_nanosecond(0).unwrap_or(until).format(&Rfc3339).unwrap_or_default();
        Self::Down { why: format!("GitHub takes no more requests with this token until {until}"), wait: Some(wait) }
    }

    pub(super) fn into_error(self, options: &GitHubOptions) -> Error {
        let failed = |transient, why: String| Error::Backend {
            backend: BACKEND,
            operation: format!("asking {} whose the token is", options.api.trim_end_matches('/')),
            transient,
            source: why.into(),
        };
        match self {
            Self::Token => Error::Unauthenticated {
                message: "the GitHub token is not valid (any more)".into(),
                hint: TOKEN_HINT.into(),
            },
            Self::Refused => Error::Forbidden { message: "GitHub does not let this token tell whose it is".into() },
            Self::NoMember { login } => Error::Forbidden {
                message: format!(
                    "{login} is no member of {} on GitHub, or the token may not tell: a classic one needs the scope \
                     read:org, a fine-grained one must be the organisation's and may read its members",
                    options.organisations.join(" or ")
                ),
            },
            Self::Down { why, .. } => failed(true, why),
            Self::Garbage { why } => failed(false, why),
        }
    }
}

/// Returns how long to wait, if this is about asking too often.
pub(super) fn limit(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    if let Some(seconds) = number(RETRY_AFTER.as_str()) {
        return Some(Duration::from_secs(seconds).min(LONGEST_LIMIT));
    }
    if number("x-ratelimit-remaining") != Some(0) {
        return None;
    }
    let now = u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or(0);
    let wait = number("x-ratelimit-reset").map_or(60, |reset| reset.saturating_sub(now).max(1));
    Some(Duration::from_secs(wait).min(LONGEST_LIMIT))
}
