//! The command lines of `ondemand` and `env-on-demand`: they translate between people and the server, and hold no logic of their own.

mod arguments;
mod client;
mod command;
mod config;
mod env_on_demand;
mod events;
mod failure;
mod import;
mod output;
mod table;
mod token;
mod when;

use std::process::ExitCode;

use clap::Parser;

use arguments::Arguments;
use failure::Failure;

/// Does what the command line of `ondemand` says.
pub fn ondemand() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return misused(&error),
    };
    let (threads, json) = (arguments.command.serves(), arguments.global.json);
    end(run(threads, command::run(arguments)), json)
}

/// Does what the command line of `env-on-demand` says.
pub fn env_on_demand() -> ExitCode {
    // It is not repeated: it may be a token with a slip of the hand in it.
    let no_text = |_| Failure::new("an argument is no text").with_exit(2);
    let words = std::env::args_os().skip(1).map(|word| word.into_string().map_err(no_text)).collect::<Result<_, _>>();
    end(words.and_then(|words| run(false, env_on_demand::run(words))), false)
}

/// Tells what is wrong with the command line, or what was asked about it.
fn misused(error: &clap::Error) -> ExitCode {
    let asked_for_json = std::env::args_os().take_while(|word| word != "--").any(|word| word == "--json");
    if !error.use_stderr() || !asked_for_json {
        error.exit();
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
    end(Err(Failure::new(text).with_exit(failure::USAGE)), true)
}

fn end(result: Result<(), Failure>, json: bool) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(json);
            ExitCode::from(failure.exit)
        }
    }
}

fn run(threads: bool, command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut runtime = if threads {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        // A client waits for one answer: it starts faster without threads.
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = runtime.enable_all().build().map_err(|e| Failure::caused("starting up", &e))?;
    let result = runtime.block_on(command);
    // Reading standard input may block for ever, and nothing that is left is worth waiting for.
    runtime.shutdown_background();
    result
}
