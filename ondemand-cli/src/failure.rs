//! What went wrong, as people and scripts are told: words on standard error, and an exit status for each meaning.

use ondemand_core::{Code, Error};
use ondemand_http::wire::Problem;

use crate::output;

/// The exit status where no code has one.
pub(crate) const OTHER: u8 = 1;
/// The exit status where the command line is wrong.
pub(crate) const USAGE: u8 = 2;
/// The exit status where something is not there.
pub(crate) const NOT_FOUND: u8 = 3;
/// The exit status where no server answers.
pub(crate) const UNREACHABLE: u8 = 17;

/// What `--help` says about exit statuses.
pub(crate) const STATUSES: &str = "\
Exit status:
   0  done                      9  forbidden
   1  anything else            10  unauthenticated
   2  wrong usage              11  quota_exceeded
   3  not_found                12  out_of_space
   4  already_exists           13  not_ready
   5  conflict                 14  unsupported
   6  invalid_name             15  cancelled
   7  invalid_input            16  backend
   8  invalid_dump             17  no server answers
  18  invalid_template         19  service_failed";

/// Why the program ends without having done what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) causes: Vec<String>,
    pub(crate) log: Vec<String>,
    pub(crate) hint: Option<String>,
    pub(crate) exit: u8,
}

impl Failure {
    /// Makes a failure of which there is nothing more to say.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), causes: Vec::new(), log: Vec::new(), hint: None, exit: OTHER }
    }

    /// Makes a failure with its causes.
    pub(crate) fn caused(message: impl Into<String>, cause: &dyn std::error::Error) -> Self {
        let mut failure = Self::new(message);
        for cause in std::iter::successors(Some(cause), |cause| cause.source()) {
            let cause = cause.to_string();
            // Many errors repeat their source in their own words.
            if failure.causes.last().is_none_or(|last| !last.ends_with(&cause)) {
                failure.causes.push(cause);
            }
        }
        failure
    }

    /// Makes the failure of a program that has nobody left to write to.
    pub(crate) fn silent() -> Self {
        Self { exit: 0, ..Self::new("") }
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn with_exit(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }

    /// Tells people, or scripts.
    pub(crate) fn report(&self, json: bool) {
        if self.message.is_empty() {
            return;
        }
        if json {
            output::note(self.json());
        } else {
            output::note(self);
        }
    }

    /// Says the same for scripts: as the server's problems do, with the exit status.
    fn json(&self) -> serde_json::Value {
        let code = Code::ALL.into_iter().find(|code| exit(*code) == self.exit);
        let code = code.map_or(if self.exit == USAGE { "usage" } else { "error" }, Code::as_str);
        let code = if self.exit == UNREACHABLE { "unreachable" } else { code };
        let mut json = serde_json::json!({ "code": code, "exit": self.exit, "detail": self.message });
        if let Some(hint) = &self.hint {
            json["hint"] = hint.as_str().into();
        }
        for (name, lines) in [("causes", &self.causes), ("log", &self.log)] {
            if !lines.is_empty() {
                json[name] = lines.clone().into();
            }
        }
        json
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error: {}", self.message)?;
        for cause in &self.causes {
            write!(f, "\n  caused by: {cause}")?;
        }
        if !self.log.is_empty() {
            write!(f, "\n  the end of the log:")?;
            for line in &self.log {
                write!(f, "\n    {line}")?;
            }
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let causes = std::iter::successors(std::error::Error::source(&error), |e| e.source());
        Self {
            causes: causes.map(ToString::to_string).collect(),
            log: error.log().to_vec(),
            hint: error.hint(),
            exit: exit(error.code()),
            message: error.to_string(),
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let Problem { detail, causes, log, hint, code, .. } = problem;
        Self { message: detail, causes, log, hint, exit: exit(code) }
    }
}

/// Returns the exit status of a code. Scripts rely on them: none may change.
fn exit(code: Code) -> u8 {
    match code {
        Code::NotFound => NOT_FOUND,
        Code::AlreadyExists => 4,
        Code::Conflict => 5,
        Code::InvalidName => 6,
        Code::InvalidInput => 7,
        Code::InvalidDump => 8,
        Code::Forbidden => 9,
        Code::Unauthenticated => 10,
        Code::QuotaExceeded => 11,
        Code::OutOfSpace => 12,
        Code::NotReady => 13,
        Code::Unsupported => 14,
        Code::Cancelled => 15,
        Code::Backend => 16,
        Code::InvalidTemplate => 18,
        Code::ServiceFailed => 19,
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_status_of_its_own_and_help_names_it() {
        let mut statuses = std::collections::BTreeSet::from([0, OTHER, 2, UNREACHABLE]);
        for code in Code::ALL {
            let status = exit(code);
            assert!(statuses.insert(status), "{code} has the status {status} of another");
            let help: String = STATUSES.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(help.contains(&format!("{status} {code}")), "{status} {code} is not in the help");
        }
    }

    #[test]
    fn a_failure_says_what_why_and_what_to_do() {
        let error = Error::io("docker", "asking", std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer"));
        let text = Failure::from(error).to_string();
        let expected = "error: docker: asking failed\n  caused by: no answer\n\
                        hint: check that the Docker Engine runs and that its socket can be reached";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_log_is_shown() {
        let error = Error::NotReady {
            waited: std::time::Duration::from_secs(1),
            last: "starting".into(),
            log: vec!["x".into()],
        };
        let text = Failure::from(error).to_string();
        assert!(text.contains("\n  the end of the log:\n    x\nhint: "), "{text}");
    }
}
