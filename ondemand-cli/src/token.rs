//! The token that is sent: whose it is, where it was found, and what to do about it when a server does not take it.

use ondemand_core::Secret;
use ondemand_http::wire::Problem;

/// Where a GitHub token is given.
const GITHUB: Given = Given { variable: "GITHUB_TOKEN", option: "--github-token" };
/// Where the server's own is given.
const OWN: Given = Given { variable: "ONDEMAND_TOKEN", option: "--token" };
/// Where GitHub makes tokens.
const SETTINGS: &str = "https://github.com/settings/tokens";

/// A token on its way to a server.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) text: Secret,
    whose: Whose,
    /// The variable or the option that it was found in.
    found: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Users,
    Servers,
}

/// A variable, and the option that goes before it.
#[derive(Debug)]
struct Given {
    variable: &'static str,
    option: &'static str,
}

impl Given {
    /// Returns which of both a text was found in.
    fn found(&self, text: &str) -> &'static str {
        if std::env::var(self.variable).is_ok_and(|value| value.trim() == text.trim()) {
            self.variable
        } else {
            self.option
        }
    }
}

impl Token {
    /// Takes a GitHub token, without what was copied with it; none if nothing is left.
    pub(crate) fn github(text: &str) -> Option<Self> {
        let text = text.trim();
        let token = Self { text: Secret::new(text), whose: Whose::Users, found: GITHUB.found(text) };
        (!text.is_empty()).then_some(token)
    }

    /// Takes the server's own; none if it is empty.
    pub(crate) fn own(text: &str) -> Option<Self> {
        let token = Self { text: Secret::new(text), whose: Whose::Servers, found: OWN.found(text) };
        (!text.is_empty()).then_some(token)
    }
}

/// Says what to do when a server wants another token than the one that was sent. The hint of the server is for those who ask it without this
/// program. `takes_own` tells whether the program can be given the server's own.
pub(crate) fn hint(problem: &Problem, sent: Option<&Token>, takes_own: bool) -> String {
    let wanted = if wants_github(problem) { Whose::Users } else { Whose::Servers };
    let give = || {
        let Given { variable, option } = if wanted == Whose::Users { GITHUB } else { OWN };
        match wanted {
            Whose::Users => format!("give a GitHub token with {variable} or {option}; {SETTINGS} makes one"),
            Whose::Servers => format!("give the token with {variable} or {option}"),
        }
    };
    let sent = sent.map(|token| (token.whose, token.found));
    match (wanted, sent) {
        (Whose::Servers, _) if !takes_own => {
            format!("only `ondemand env` sends the server's own token: give it that with {}", OWN.variable)
        }
        (_, None) => give(),
        (Whose::Users, Some((Whose::Users, found))) => {
            format!("that of {found} was sent; {SETTINGS} makes a new one")
        }
        (Whose::Users, Some((Whose::Servers, found))) => format!("that of {found} was sent; {}", give()),
        (Whose::Servers, Some((Whose::Servers, found))) => {
            format!("that of {found} was sent; see that it is the one of the server's configuration")
        }
        (Whose::Servers, Some((Whose::Users, found))) => {
            let Given { variable, option } = OWN;
            let order = "which goes before the server's own; leave it out, and give that";
            format!("that of {found} was sent, {order} with {variable} or {option}")
        }
    }
}

/// Tells whether it is a token of GitHub's that is wanted: a Git server of any name may say so.
fn wants_github(problem: &Problem) -> bool {
    let hinted = problem.hint.as_ref().is_some_and(|hint| hint.contains(SETTINGS));
    hinted || problem.detail.contains("GitHub")
}
