//! How long to wait between two looks at something that tells no event.

use std::time::Duration;

/// Below this, looking is all that is done.
const SHORTEST: Duration = Duration::from_millis(20);
/// Above this, a person notices.
const LONGEST: Duration = Duration::from_millis(250);

/// Returns the pause after `waited`: a fortieth of that, so that what happens is seen at most 2.5 % late, and what takes long is looked at seldom.
pub(crate) fn after(waited: Duration) -> Duration {
    (waited / 40).clamp(SHORTEST, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_a_second_is_seen_within_a_fortieth_of_it() {
        for (waited, pause) in [(0, 20), (500, 20), (1000, 25), (1200, 30), (10_000, 250), (60_000, 250)] {
            assert_eq!(after(Duration::from_millis(waited)), Duration::from_millis(pause), "after {waited} ms");
        }
        // As seen by somebody who looks at all of them from the beginning.
        let (mut now, mut looks) = (Duration::ZERO, 0);
        while now < Duration::from_millis(1200) {
            now += after(now);
            looks += 1;
        }
        assert!(now <= Duration::from_millis(1230), "{now:?}");
        assert!(looks < 60, "{looks} looks");
    }
}
