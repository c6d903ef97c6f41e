//! `ondemand serve`: the server.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use ondemand_http::Moment;
use tracing_subscriber::EnvFilter;

use crate::arguments::Global;
use crate::config::{self, Overrides};
use crate::failure::Failure;
use crate::output;

mod notify;

/// How to serve.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    overrides: Overrides,
    /// How the log is written to standard error; RUST_LOG says what of it [default: text]
    #[arg(long, env = "ONDEMAND_LOG_FORMAT", value_name = "FORMAT", default_value = "text", hide_default_value = true)]
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

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    start_log(arguments.log_format)?;
    let config = config::load(global, arguments.overrides)?;
    let shutdown = ondemand_http::signalled()?;
    // With a log for machines, what people are told goes into it.
    let say = |text: String| match arguments.log_format {
        LogFormat::Text => output::note(text),
        LogFormat::Json => tracing::info!("{text}"),
    };
    let tell = |moment: Moment<'_>| match moment {
        Moment::Opened { notices, .. } => {
            say(format!("data directory: {}", config.data_dir.display()));
            for notice in notices {
                say(notice.clone());
            }
        }
        Moment::Ready { address } => {
            say(format!("ready at http://{address}"));
            notify::ready();
        }
        Moment::Ending => {
            notify::stopping();
            say("ending; databases keep running".into());
        }
        _ => (),
    };
    ondemand_http::serve(&config, shutdown, tell).await?;
    Ok(())
}

fn start_log(format: LogFormat) -> Result<(), Failure> {
    let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into()).from_env();
    let filter = filter.map_err(|e| Failure::caused("RUST_LOG is not understood", &e).with_exit(2))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            log.with_ansi(std::io::stderr().is_terminal() && !no_colour).init();
        }
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}
