//! Which answers of a readiness path are good ones.

use std::fmt;

/// Which HTTP statuses say that a service is ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExpectedStatus(Vec<(u16, u16)>);

impl ExpectedStatus {
    /// Tells whether a status is one of them. Where nothing else was said, all below 400 are.
    pub fn accepts(&self, status: u16) -> bool {
        if self.0.is_empty() {
            return status < 400;
        }
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }

    /// Adds a status or a class of them: `200`, `2xx`. Tells whether it is one.
    pub(super) fn add(&mut self, text: &str) -> bool {
        let class = text.strip_suffix("xx").and_then(|class| class.parse::<u16>().ok()).filter(|c| (1..=5).contains(c));
        let range = match class {
            Some(class) => Some((class * 100, class * 100 + 99)),
            None => {
                text.parse::<u16>().ok().filter(|status| (100..=599).contains(status)).map(|status| (status, status))
            }
        };
        self.0.extend(range);
        range.is_some()
    }
}

impl fmt::Display for ExpectedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("any status below 400");
        }
        for (i, (first, last)) in self.0.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { " or " })?;
            if first == last { write!(f, "{first}")? } else { write!(f, "{}xx", first / 100)? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_numbers_and_classes() {
        let mut status = ExpectedStatus::default();
        assert!(status.accepts(302) && !status.accepts(404));
        assert!(status.add("2xx") && status.add("401"));
        assert!(status.accepts(200) && status.accepts(299) && status.accepts(401));
        assert!(!status.accepts(302) && !status.accepts(404));
        assert_eq!(status.to_string(), "2xx or 401");
        for bad in ["", "xx", "0xx", "6xx", "99", "600", "2x", "-200", "2xxx", "ok"] {
            assert!(!status.add(bad), "{bad}");
        }
    }
}
