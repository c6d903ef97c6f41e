//! Who may do what.

use crate::error::{Error, Result};
use crate::github::Identity;

/// Who asks for something to be done to an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller(Who);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    User(Identity),
    Admin,
}

impl Caller {
    /// Makes a user: who may change his own environments.
    pub fn user(identity: Identity) -> Self {
        Self(Who::User(identity))
    }

    /// Makes whoever runs the server: who may change all.
    pub fn admin() -> Self {
        Self(Who::Admin)
    }

    /// Checks that the caller may change, and read the logs of, what is `owner`'s.
    pub(super) fn check(&self, owner: &Identity) -> Result<()> {
        match &self.0 {
            Who::Admin => Ok(()),
            // By number: a name can be given up, and taken by somebody else.
            Who::User(identity) if identity.id == owner.id => Ok(()),
            Who::User(identity) => Err(Error::Forbidden {
                message: format!(
                    "this environment is {}'s, not {}'s: only its owner may change it or read its logs",
                    owner.login, identity.login
                ),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_and_an_admin_may() {
        let user = |id, login: &str| Identity { id, login: login.into() };
        let owner = user(1, "anna");
        assert!(Caller::admin().check(&owner).is_ok());
        assert!(Caller::user(user(1, "renamed")).check(&owner).is_ok());
        let refused = Caller::user(user(2, "anna")).check(&owner);
        assert!(matches!(refused, Err(Error::Forbidden { .. })), "{refused:?}");
    }
}
