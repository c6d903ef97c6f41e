//! Shows how far an environment is: a line that moves on a terminal, a line for each phase elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ondemand_core::environments::{Phase, Step};
use ondemand_http::wire::EnvironmentDone;
use reqwest::{RequestBuilder, header};

use crate::client::Client;
use crate::failure::Failure;
use crate::{events, output, when};

/// How often what moves on a terminal moves.
const TICK: Duration = Duration::from_millis(120);

/// Sends a request whose answer takes its time, shows how far that is, and returns it.
pub(super) async fn follow(client: &Client, request: RequestBuilder) -> Result<EnvironmentDone, Failure> {
    let mut progress = Progress::new();
    let outcome = async {
        let response = client.send(request.header(header::ACCEPT, "text/event-stream")).await?;
        events::follow(client, response, |step: &Step| progress.show(step)).await
    };
    let outcome = outcome.await;
    progress.end();
    outcome
}

/// Shows steps.
enum Progress {
    /// To a person who watches.
    Bar(ProgressBar),
    /// To a file or a pipe.
    Lines(Option<Phase>),
}

impl Progress {
    /// Makes one that writes to standard error.
    fn new() -> Self {
        if !output::is_watched() {
            return Self::Lines(None);
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style =
            ProgressStyle::with_template("{spinner} {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        // Without colours, and of characters that every terminal has.
        bar.set_style(style.tick_chars("-\\|/ "));
        bar.enable_steady_tick(TICK);
        Self::Bar(bar)
    }

    /// Shows a step.
    fn show(&mut self, step: &Step) {
        match self {
            Self::Bar(bar) => bar.set_message(describe(step)),
            Self::Lines(last) if *last != Some(step.phase) => {
                *last = Some(step.phase);
                output::note(describe(step));
            }
            Self::Lines(_) => (),
        }
    }

    /// Takes the line that moves away.
    fn end(self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Describes a step in a line. What a service wrote may hold anything: only what can be seen is shown.
fn describe(step: &Step) -> String {
    let text = format!("{}, {}", step.phase, when::span(Duration::from_millis(step.elapsed_ms)));
    let Some(detail) = &step.detail else { return text };
    let detail: String = detail.chars().filter(|c| !c.is_control()).take(200).collect();
    match &step.service {
        Some(service) => format!("{text}: {service}: {detail}"),
        None => format!("{text}: {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_line() {
        let mut step = Step {
            phase: Phase::Building,
            service: Some("back".into()),
            detail: Some("compiling\u{1b}[2J 3 of 9".into()),
            elapsed_ms: 75_000,
        };
        assert_eq!(describe(&step), "building, 1m 15s: back: compiling[2J 3 of 9");
        step = Step { phase: Phase::CloningData, service: None, detail: Some("production".into()), elapsed_ms: 10 };
        assert_eq!(describe(&step), "cloning data, 0s: production");
        step.detail = None;
        assert_eq!(describe(&step), "cloning data, 0s");
    }
}
