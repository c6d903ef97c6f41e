//! Samples, and the table of what they say.

use std::time::Duration;

/// Times of one thing.
#[derive(Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Makes none yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a sample, if it is to be kept.
    pub fn add(&mut self, kept: bool, sample: Duration) {
        if kept {
            self.0.push(sample);
        }
    }

    /// Returns the median: what a slow neighbour on the machine moves least.
    pub fn median(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }
}

/// Returns the median of figures that are no times.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Writes a time for people.
pub fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// Where a figure is to stay.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// Wherever it is, it is only shown.
    None,
    /// Not above.
    AtMost(f64),
    /// Not below.
    AtLeast(f64),
}

impl Limit {
    /// Says whether a figure is within the limit, in the words of the table.
    fn verdict(self, figure: f64, decimals: usize, unit: &str) -> String {
        match self {
            Self::None => String::new(),
            Self::AtMost(most) if figure <= most => format!("  (limit {most:.decimals$}{unit}) ok"),
            Self::AtMost(most) => format!("  (limit {most:.decimals$}{unit}) ABOVE"),
            Self::AtLeast(least) if figure >= least => format!("  (at least {least:.decimals$}{unit}) ok"),
            Self::AtLeast(least) => format!("  (at least {least:.decimals$}{unit}) BELOW"),
        }
    }
}

/// What was measured, a line each.
#[derive(Debug, Default)]
pub struct Report {
    lines: Vec<String>,
}

impl Report {
    /// Adds a ratio of two times, and whether it is within its limit.
    pub fn ratio(&mut self, what: &str, measured: Duration, floor: Duration, limit: f64) {
        self.times(what, measured, floor, Limit::AtMost(limit));
    }

    /// Adds a ratio of two times that has no limit.
    pub fn compare(&mut self, what: &str, measured: Duration, floor: Duration) {
        self.times(what, measured, floor, Limit::None);
    }

    fn times(&mut self, what: &str, measured: Duration, floor: Duration, limit: Limit) {
        let ratio = measured.as_secs_f64() / floor.as_secs_f64();
        self.quotient(what, [&milliseconds(measured), &milliseconds(floor)], ratio, limit);
    }

    /// Adds a ratio of two things that are told in words of their own.
    pub fn quotient(&mut self, what: &str, [measured, floor]: [&str; 2], ratio: f64, limit: Limit) {
        let verdict = limit.verdict(ratio, 2, "");
        self.add(format!("{what:<62} {measured:>10} / {floor:>10} = {ratio:.3}{verdict}"));
    }

    /// Adds one figure.
    pub fn figure(&mut self, what: &str, figure: f64, unit: &str, limit: Limit) {
        let verdict = limit.verdict(figure, 0, &format!(" {unit}"));
        self.add(format!("{what:<62} {:>10}{verdict}", format!("{figure:.1} {unit}")));
    }

    /// Adds a number of bytes, and whether it is within its limit.
    pub fn bytes(&mut self, what: &str, measured: u64, limit: u64) {
        #[expect(clippy::cast_precision_loss, reason = "it is shown with one decimal")]
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        self.figure(what, megabytes(measured), "MB", Limit::AtMost(megabytes(limit)));
    }

    /// Adds a remark.
    pub fn note(&mut self, text: &str) {
        self.add(text.to_owned());
    }

    fn add(&mut self, line: String) {
        eprintln!("{line}");
        self.lines.push(line);
    }

    /// Prints the table.
    pub fn print(&self, title: &str) {
        println!("\n{title}");
        for line in &self.lines {
            println!("{line}");
        }
    }
}
