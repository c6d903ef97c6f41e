//! Moments and times as people read them.

use std::cmp::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ondemand_core::Ttl;

/// Says when a moment is, seen from now: `in 23h 59m`, `2d 3h ago`.
pub(crate) fn relative(unix_seconds: &str, now: SystemTime) -> String {
    let Ok(then) = unix_seconds.parse::<u64>() else {
        return unix_seconds.to_owned();
    };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match then.cmp(&now) {
        Ordering::Equal => "now".into(),
        Ordering::Greater => format!("in {}", span(Duration::from_secs(then - now))),
        Ordering::Less => format!("{} ago", span(Duration::from_secs(now - then))),
    }
}

/// Says when a moment is, seen from now: `in 23h 59m`, `2d 3h ago`.
pub(crate) fn until(then: SystemTime, now: SystemTime) -> String {
    match then.duration_since(now) {
        Ok(left) => format!("in {}", span(left)),
        Err(_) => ago(then, now),
    }
}

/// Says how long ago a moment was.
pub(crate) fn ago(then: SystemTime, now: SystemTime) -> String {
    format!("{} ago", span(now.duration_since(then).unwrap_or_default()))
}

/// Writes a time with its two largest units.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

/// Reads how long something lives. A bare number is refused: elsewhere it is days, and a database that is given three seconds is gone.
pub(crate) fn lifetime(text: &str) -> Result<Ttl, String> {
    if text.trim().bytes().all(|b| b.is_ascii_digit()) {
        return Err("it has no unit; write it as 90s, 15m, 12h, 2d or 1w".into());
    }
    text.parse().map_err(|error: ondemand_core::Error| error.to_string())
}

/// Reads a number of days: a bare number, or a time that is whole days.
pub(crate) fn days(text: &str) -> Result<u32, String> {
    const DAY: u64 = 86_400;
    let wrong = || "it is a number of days: 3, 3d or 1w".to_owned();
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map_err(|_| wrong());
    }
    let seconds = humantime::parse_duration(text).map_err(|_| wrong())?.as_secs();
    if seconds % DAY > 0 { Err(wrong()) } else { u32::try_from(seconds / DAY).map_err(|_| wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_days_need_none() {
        assert_eq!(lifetime("2d").map(Ttl::duration), Ok(Duration::from_secs(172_800)));
        for wrong in ["", "2", "0", " 3 ", "soon", "2 parsecs"] {
            assert!(lifetime(wrong).is_err(), "{wrong:?}");
        }
        for (text, expected) in [("3", 3), ("3d", 3), ("1w", 7), ("48h", 2), ("1w 1d", 8)] {
            assert_eq!(days(text), Ok(expected), "{text}");
        }
        for wrong in ["", "1.5", "36h", "soon", "-1", "99999999999"] {
            assert!(days(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn moments_are_seen_from_now() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (then, text) in [
            (1_000_000, "now"),
            (1_000_059, "in 59s"),
            (1_000_090, "in 1m 30s"),
            (1_086_399, "in 23h 59m"),
            (1_086_400, "in 1d 0h"),
            (999_999, "1s ago"),
            (0, "11d 13h ago"),
        ] {
            assert_eq!(relative(&then.to_string(), now), text);
        }
        assert_eq!(relative("never", now), "never");
    }
}
