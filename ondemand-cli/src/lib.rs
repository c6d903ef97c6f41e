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
    let arguments = Arguments::parse();
    let threads = arguments.command.serves();
    end(run(threads, command::run(arguments)))
}

/// Does what the command line of `env-on-demand` says.
pub fn env_on_demand() -> ExitCode {
    // It is not repeated: it may be a token with a slip of the hand in it.
    let no_text = |_| Failure::new("an argument is no text").with_exit(2);
    let words = std::env::args_os().skip(1).map(|word| word.into_string().map_err(no_text)).collect::<Result<_, _>>();
    end(words.and_then(|words| run(false, env_on_demand::run(words))))
}

fn end(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
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
