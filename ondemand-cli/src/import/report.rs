//! Shows how far an import is: a bar on a terminal, a line for each phase elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ondemand_core::Size;
use ondemand_core::progress::{Event, Phase};

use crate::{output, when};

/// How often what moves on a terminal moves.
const TICK: Duration = Duration::from_millis(120);

/// Shows events.
pub(crate) enum Report {
    /// To a person who watches.
    Bar(ProgressBar),
    /// To a file or a pipe.
    Lines(Option<Phase>),
}

impl Report {
    /// Makes a report to standard error.
    pub(crate) fn new() -> Self {
        if !output::is_watched() {
            return Self::Lines(None);
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.enable_steady_tick(TICK);
        Self::Bar(bar)
    }

    /// Shows an event.
    pub(crate) fn show(&mut self, event: &Event) {
        match self {
            Self::Bar(bar) => {
                bar.set_style(style(event));
                match event.total {
                    Some(total) => bar.set_length(total),
                    None => bar.unset_length(),
                }
                bar.set_position(event.bytes);
                bar.set_message(describe(event));
            }
            Self::Lines(last) if *last != Some(event.phase) => {
                *last = Some(event.phase);
                output::note(describe(event));
            }
            Self::Lines(_) => (),
        }
    }

    /// Takes the bar away.
    pub(crate) fn end(self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn style(event: &Event) -> ProgressStyle {
    let reads = matches!(event.phase, Phase::Receiving | Phase::Restoring);
    let template = match event.total {
        Some(_) if reads => "{spinner} {bar:30} {msg}",
        _ => "{spinner} {msg}",
    };
    // Without colours, and of characters that every terminal has.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("=> ").tick_chars("-\\|/ ")
}

/// Describes an event in a line.
fn describe(event: &Event) -> String {
    let mut text = vec![format!("{}, {}", event.phase, when::span(event.elapsed))];
    if event.bytes > 0 {
        text.push(format!(": {}", Size(event.bytes)));
        let total = event.total.filter(|&total| total > event.bytes);
        text.extend(total.map(|total| format!(" of {}", Size(total))));
    }
    if let Some(rate) = event.rate.filter(|rate| rate.is_finite() && *rate >= 1.0) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is rounded for people")]
        let rate = Size(rate as u64);
        text.push(format!(" ({rate}/s)"));
    }
    text.extend(event.detail.as_ref().map(|detail| format!(", {detail}")));
    text.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let mut event = Event {
            phase: Phase::Restoring,
            bytes: 3 << 20,
            total: Some(1 << 30),
            rate: Some(2_097_152.5),
            elapsed: Duration::from_secs(75),
            detail: Some("public.orders".into()),
        };
        assert_eq!(describe(&event), "restoring, 1m 15s: 3.0 MiB of 1.0 GiB (2.0 MiB/s), public.orders");
        event = Event { phase: Phase::Analysing, bytes: 0, total: None, rate: None, detail: None, ..event };
        assert_eq!(describe(&event), "analysing, 1m 15s");
    }
}
