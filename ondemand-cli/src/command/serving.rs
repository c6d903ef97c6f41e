//! What the commands that serve have in common: their log, and what they tell people and the service manager.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use ondemand_core::Config;
use ondemand_http::Moment;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use self::flood::FloodGate;
use super::notify;
use crate::failure::Failure;
use crate::output;

mod flood;

/// How the log is written.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Log {
    /// How the log is written to standard error; RUST_LOG says what of it [default: text]
    #[arg(
        long,
        env = "ONDEMAND_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text",
        hide_default_value = true,
        // Not the heading of whatever came before.
        help_heading = clap::builder::Resettable::Reset
    )]
    log_format: LogFormat,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people
    Text,
    /// A JSON object a line, for machines
    Json,
}

impl Log {
    /// Starts the log.
    pub(super) fn start(self) -> Result<(), Failure> {
        let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into()).from_env();
        let filter = filter.map_err(|e| Failure::caused("RUST_LOG is not understood", &e).with_exit(2))?;
        let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let layer = match self.log_format {
            LogFormat::Text => {
                let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                layer.with_ansi(std::io::stderr().is_terminal() && !no_colour).boxed()
            }
            LogFormat::Json => layer.json().flatten_event(true).boxed(),
        };
        let gate = FloodGate::default();
        tracing_subscriber::registry().with(layer.with_filter(gate.clone())).with(filter).init();
        gate.tell().map_err(|e| Failure::caused("a thread cannot be started", &e))
    }

    /// Tells people. With a log for machines, what people are told goes into it.
    fn say(self, text: impl std::fmt::Display) {
        match self.log_format {
            LogFormat::Text => output::note(text),
            LogFormat::Json => tracing::info!("{text}"),
        }
    }

    /// Tells what has been reached.
    pub(super) fn tell(self, config: &Config, moment: &Moment<'_>, last_words: &str) {
        match moment {
            Moment::Opened { notices, .. } => {
                self.say(format_args!("data directory: {}", config.data_dir.display()));
                for notice in *notices {
                    self.say(notice);
                }
            }
            Moment::Ready { address } => {
                self.say(format_args!("ready at http://{address}"));
                notify::ready();
            }
            Moment::Ending => {
                notify::stopping();
                self.say(last_words);
            }
            _ => (),
        }
    }
}
