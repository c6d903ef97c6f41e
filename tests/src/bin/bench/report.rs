//! Samples, and the table of what they say.

use std::time::Duration;

/// Times of one thing.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    /// Adds a sample, if it is to be kept.
    pub(crate) fn add(&mut self, kept: bool, sample: Duration) {
        if kept {
            self.0.push(sample);
        }
    }

    /// Returns the median: what a slow neighbour on the machine moves least.
    pub(crate) fn median(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }
}

/// Writes a time for people.
pub(crate) fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// What was measured, a line each.
#[derive(Debug, Default)]
pub(crate) struct Report {
    lines: Vec<String>,
}

impl Report {
    /// Adds a ratio, and whether it is within its limit.
    pub(crate) fn ratio(&mut self, what: &str, measured: Duration, floor: Duration, limit: f64) {
        let ratio = measured.as_secs_f64() / floor.as_secs_f64();
        let verdict = if ratio <= limit { "ok" } else { "ABOVE" };
        self.add(format!(
            "{what:<62} {:>10} / {:>10} = {ratio:.3}  (limit {limit:.2}) {verdict}",
            milliseconds(measured),
            milliseconds(floor)
        ));
    }

    /// Adds a ratio that has no limit.
    pub(crate) fn compare(&mut self, what: &str, measured: Duration, floor: Duration) {
        let ratio = measured.as_secs_f64() / floor.as_secs_f64();
        self.add(format!("{what:<62} {:>10} / {:>10} = {ratio:.3}", milliseconds(measured), milliseconds(floor)));
    }

    /// Adds a number of bytes, and whether it is within its limit.
    pub(crate) fn bytes(&mut self, what: &str, measured: u64, limit: u64) {
        let verdict = if measured < limit { "ok" } else { "ABOVE" };
        let (measured, limit) = (measured / 100_000, limit / 1_000_000);
        self.add(format!(
            "{what:<62} {:>10} MB  (limit {limit} MB) {verdict}",
            format!("{}.{}", measured / 10, measured % 10)
        ));
    }

    /// Adds a remark.
    pub(crate) fn note(&mut self, text: &str) {
        self.add(text.to_owned());
    }

    fn add(&mut self, line: String) {
        eprintln!("{line}");
        self.lines.push(line);
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        println!("\nmedian / median of the floor, measured in turn in this run");
        for line in &self.lines {
            println!("{line}");
        }
    }
}
