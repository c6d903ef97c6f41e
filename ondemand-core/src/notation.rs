//! How people write times and sizes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, Result, shorten};

/// How long something lives: `90s`, `15m`, `12h`, `2d`, `1w`, `1h 30m`; a bare number is seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttl(Duration);

/// The longest time that can be asked for; what is configured as the maximum is shorter.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

impl Ttl {
    /// Makes one from a duration, in whole seconds.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it is below a second or above ten years.
    pub fn new(duration: Duration) -> Result<Self> {
        if duration < Duration::from_secs(1) {
            return Err(Error::invalid("ttl", "it must be at least a second"));
        }
        if duration > LONGEST {
            return Err(Error::invalid("ttl", "it must be at most ten years"));
        }
        Ok(Self(Duration::from_secs(duration.as_secs())))
    }

    /// Returns it as a duration.
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Ttl {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let duration = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            text.parse().map(Duration::from_secs).map_err(|e| Error::invalid("ttl", e))?
        } else {
            humantime::parse_duration(text).map_err(|e| {
                Error::invalid("ttl", format!("{:?}: {e}; write it as 90s, 15m, 12h, 2d or 1w", shorten(text)))
            })?
        };
        Self::new(duration)
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
        let mut left = self.0.as_secs();
        let parts = UNITS.iter().filter_map(|(seconds, unit)| {
            let count = left / seconds;
            left %= seconds;
            (count > 0).then(|| format!("{count}{unit}"))
        });
        f.pad(&parts.collect::<Vec<_>>().join(" "))
    }
}

impl serde::Serialize for Ttl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Ttl {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number_or_text(deserializer)
    }
}

/// A number of bytes: `500M`, `20G`, `1.5T`, in powers of 1024, whatever the spelling; a bare number is bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        // The parser takes a cautious view of length: nobody writes a size of a hundred characters.
        if text.len() > 64 {
            return Err(Error::invalid("size", "it is too long; write it as 500M or 20G"));
        }
        // The largest number of bytes has twenty digits. Rounding what is longer, the parser overflows.
        if text.bytes().take_while(|b| !b.eq_ignore_ascii_case(&b'e')).filter(u8::is_ascii_digit).count() > 20 {
            return Err(Error::invalid("size", format!("{text:?} has too many digits; write it as 500M or 20G")));
        }
        parse_size::Config::new()
            .with_binary()
            .parse_size(text)
            .map(Self)
            .map_err(|e| Error::invalid("size", format!("{text:?}: {e}; write it as 500M or 20G")))
    }
}

impl fmt::Display for Size {
    #[expect(clippy::cast_precision_loss, reason = "it is rounded to one decimal for people")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1023.95 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        f.pad(&format!("{value:.1} {}", UNITS[unit]))
    }
}

impl serde::Serialize for Size {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number_or_text(deserializer)
    }
}

/// Reads what people write as a number or as text with a unit.
fn number_or_text<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err = Error>,
    D: serde::Deserializer<'de>,
{
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum NumberOrText {
        Number(u64),
        Text(String),
    }
    let text = match serde::Deserialize::deserialize(deserializer)? {
        NumberOrText::Number(number) => number.to_string(),
        NumberOrText::Text(text) => text,
    };
    text.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ttls() {
        let seconds = |text: &str| text.parse::<Ttl>().map(|t| t.duration().as_secs()).ok();
        assert_eq!(seconds("90"), Some(90));
        assert_eq!(seconds("90s"), Some(90));
        assert_eq!(seconds("1h 30m"), Some(5400));
        assert_eq!(seconds("2d"), Some(172_800));
        assert_eq!(seconds("1w"), Some(604_800));
        for bad in ["", "0", "0s", "500ms", "-1", "1.5", "soon", "11years", "99999999999999999999", "9999999999999y"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn ttls_are_written_as_people_write_them() {
        for text in ["90d", "1d", "1h 30m", "15m", "45s", "1d 1s"] {
            assert_eq!(text.parse::<Ttl>().expect("a time").to_string(), text);
        }
        assert_eq!("2w".parse::<Ttl>().expect("a time").to_string(), "14d");
    }

    #[test]
    fn ttls_in_json() {
        assert_eq!(serde_json::from_str::<Ttl>("60").ok(), serde_json::from_str::<Ttl>("\"1m\"").ok());
        assert!(serde_json::from_str::<Ttl>("-1").is_err());
        assert!(serde_json::from_str::<Ttl>("null").is_err());
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        let bytes = |text: &str| text.parse::<Size>().map(|s| s.0).ok();
        assert_eq!(bytes("20G"), Some(20 << 30));
        assert_eq!(bytes("20GiB"), Some(20 << 30));
        assert_eq!(bytes("1.5M"), Some(3 << 19));
        assert_eq!(bytes("4096"), Some(4096));
        assert_eq!(bytes("18446744073709551615"), Some(u64::MAX));
        for bad in [
            "",
            "G",
            "-1",
            "1X",
            "99999999999999999999",
            "184467440737095516158445",
            "1844674407370955161.59",
            "18446744073709551615.9e0",
        ] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(Size(1023).to_string(), "1023 B");
        assert_eq!(Size(1024).to_string(), "1.0 KiB");
        assert_eq!(Size((1 << 20) - 1).to_string(), "1.0 MiB");
        assert_eq!(Size(5 << 29).to_string(), "2.5 GiB");
    }

    proptest! {
        #[test]
        fn a_ttl_survives_printing(seconds in 1_u64..315_360_000) {
            let ttl = Ttl::new(Duration::from_secs(seconds)).unwrap();
            prop_assert_eq!(ttl.to_string().parse::<Ttl>().unwrap(), ttl);
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<Ttl>();
            let _ = text.parse::<Size>();
        }
    }
}
