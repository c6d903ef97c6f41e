//! Names that nobody has chosen.

use petname::Petnames;

use crate::error::{Error, Result};
use crate::name::{EnvironmentName, random};

/// How many are tried, where some are taken.
const TRIES: usize = 100;

/// Makes a readable name that is not taken, such as `brave-otter`.
pub(super) fn readable(is_taken: impl Fn(&EnvironmentName) -> bool) -> Result<EnvironmentName> {
    let words = Petnames::default();
    for _ in 0..TRIES {
        let (Some(adjective), Some(noun)) = (pick(&words.adjectives)?, pick(&words.nouns)?) else { break };
        if let Ok(name) = EnvironmentName::new(format!("{adjective}-{noun}"))
            && !is_taken(&name)
        {
            return Ok(name);
        }
    }
    Err(Error::Conflict { message: "no free name was found".into(), hint: "give the environment a name".into() })
}

fn pick<'a>(words: &'a [&'a str]) -> Result<Option<&'a str>> {
    let mut bytes = [0; 8];
    random(&mut bytes)?;
    let at = u64::from_ne_bytes(bytes) % words.len().max(1) as u64;
    Ok(usize::try_from(at).ok().and_then(|at| words.get(at).copied()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_two_words_that_nobody_has() {
        let name = readable(|_| false).expect("a name");
        assert_eq!(name.as_str().split('-').count(), 2, "{name}");
        assert!(matches!(readable(|_| true), Err(Error::Conflict { .. })));
        let other = readable(|taken| *taken == name).expect("another name");
        assert_ne!(other, name);
    }
}
