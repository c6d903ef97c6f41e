//! What is remembered of tokens, by their hashes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::answer::Failure;
use super::{GitHubOptions, Identity};

/// How many tokens are remembered.
const MOST: usize = 4096;

/// The hashes of tokens, and what is known of each.
#[derive(Debug, Default)]
pub(super) struct Cache {
    slots: Mutex<HashMap<[u8; 32], Entry>>,
}

#[derive(Debug)]
struct Entry {
    slot: Arc<Slot>,
    used: Instant,
}

/// What is known of one token; whoever holds it asks, the others wait.
pub(super) type Slot = tokio::sync::Mutex<Known>;

/// What is known of a token.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Whose it is, and when GitHub said so.
    good: Option<(Identity, Instant)>,
    /// The last failure since, when it came, and until when it stands.
    failed: Option<(Failure, Instant, Instant)>,
}

impl Cache {
    /// Returns the slot of a token, made if it is not there.
    pub(super) fn slot(&self, digest: [u8; 32], now: Instant) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MOST && !slots.contains_key(&digest) {
            make_room(&mut slots);
        }
        let entry = slots.entry(digest).or_insert_with(|| Entry { slot: Arc::default(), used: now });
        entry.used = now;
        entry.slot.clone()
    }
}

/// Forgets a quarter: first the tokens that are no good, so that a flood of those displaces no others, then the longest unused.
fn make_room(slots: &mut HashMap<[u8; 32], Entry>) {
    let good = |entry: &Entry| entry.slot.try_lock().map_or(true, |known| known.good.is_some());
    let mut order: Vec<_> = slots.iter().map(|(digest, entry)| (good(entry), entry.used, *digest)).collect();
    order.sort_unstable();
    for (_, _, digest) in order.into_iter().take(MOST / 4) {
        slots.remove(&digest);
    }
}

impl Known {
    /// Returns what is known, if it need not be asked for: it is fresh, or it came after this caller had asked.
    pub(super) fn answer(
        &self,
        asked: Instant,
        now: Instant,
        options: &GitHubOptions,
    ) -> Option<Result<Identity, Failure>> {
        match (&self.failed, &self.good) {
            (Some((failure, came, until)), _) if *came >= asked || now < *until => {
                Some(self.despite(failure.clone(), now, options))
            }
            (None, Some((identity, said))) if now.duration_since(*said) < options.keep => Some(Ok(identity.clone())),
            _ => None,
        }
    }

    /// Remembers an answer, and returns what it means.
    pub(super) fn learn(
        &mut self,
        answer: Result<Identity, Failure>,
        now: Instant,
        options: &GitHubOptions,
    ) -> Result<Identity, Failure> {
        let failure = match answer {
            Ok(identity) => {
                *self = Self { good: Some((identity.clone(), now)), failed: None };
                return Ok(identity);
            }
            Err(failure) => failure,
        };
        let stands = match &failure {
            Failure::Token | Failure::Refused | Failure::NoMember { .. } => {
                self.good = None;
                options.keep_refusal
            }
            Failure::Down { wait: Some(wait), .. } => *wait,
            // Where there is an old answer, nobody need wait for GitHub again and again; where there is none, the next may try.
            Failure::Down { .. } | Failure::Garbage { .. } => match self.good {
                Some(_) => options.keep_refusal,
                None => std::time::Duration::ZERO,
            },
        };
        self.failed = Some((failure.clone(), now, now + stands));
        self.despite(failure, now, options)
    }

    /// Returns an old answer in place of a failure that is not about the token.
    fn despite(&self, failure: Failure, now: Instant, options: &GitHubOptions) -> Result<Identity, Failure> {
        match (&failure, &self.good) {
            (Failure::Down { .. }, Some((identity, said))) if now.duration_since(*said) < options.keep_while_down => {
                Ok(identity.clone())
            }
            _ => Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::secret::Secret;

    fn options() -> GitHubOptions {
        GitHubOptions::new(Secret::new("key"))
    }

    fn somebody() -> Identity {
        Identity { id: 1, login: "somebody".into() }
    }

    #[test]
    fn an_old_answer_stands_in_for_an_hour_and_not_longer() {
        let (start, options) = (Instant::now(), options());
        let mut known = Known::default();
        known.learn(Ok(somebody()), start, &options).expect("it is good");
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(known.answer(at(299), at(299), &options), Some(Ok(somebody())));
        assert_eq!(known.answer(at(300), at(300), &options), None);
        assert_eq!(known.learn(Err(Failure::down("x")), at(301), &options), Ok(somebody()));
        // For a while GitHub is left alone, then it is asked again.
        assert_eq!(known.answer(at(305), at(305), &options), Some(Ok(somebody())));
        assert_eq!(known.answer(at(311), at(311), &options), None);
        assert_eq!(known.learn(Err(Failure::down("x")), at(3600), &options), Err(Failure::down("x")));
    }

    #[test]
    fn a_refusal_ends_what_was_known() {
        let (start, options) = (Instant::now(), options());
        let mut known = Known::default();
        known.learn(Ok(somebody()), start, &options).expect("it is good");
        known.learn(Err(Failure::Token), start, &options).expect_err("it is revoked");
        assert_eq!(known.learn(Err(Failure::down("x")), start, &options), Err(Failure::down("x")));
    }

    #[test]
    fn a_limit_stands_until_it_ends() {
        let (start, options) = (Instant::now(), options());
        let mut known = Known::default();
        let limited = Failure::limited(Duration::from_secs(60));
        known.learn(Err(limited.clone()), start, &options).expect_err("it is limited");
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(known.answer(at(59), at(59), &options), Some(Err(limited)));
        assert_eq!(known.answer(at(60), at(60), &options), None);
    }

    #[test]
    fn a_flood_of_bad_tokens_displaces_no_good_one() {
        let (start, options, cache) = (Instant::now(), options(), Cache::default());
        let digest = |n: usize| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&n.to_be_bytes());
            digest
        };
        let good = cache.slot(digest(usize::MAX), start);
        good.try_lock().expect("it is free").learn(Ok(somebody()), start, &options).expect("it is good");
        for n in 0..3 * MOST {
            cache.slot(digest(n), start + Duration::from_millis(1));
        }
        assert!(cache.slots.lock().expect("it is free").len() <= MOST);
        assert!(Arc::ptr_eq(&good, &cache.slot(digest(usize::MAX), start)));
    }
}
