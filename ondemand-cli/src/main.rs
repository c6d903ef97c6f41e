//! The command line of `ondemand`: it translates between people and the server, and holds no logic of its own.

mod arguments;
mod client;
mod command;
mod config;
mod failure;
mod import;
mod output;
mod table;
mod when;

use std::process::ExitCode;

use clap::Parser;

use arguments::Arguments;
use failure::Failure;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            ExitCode::from(failure.exit)
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let mut runtime = if arguments.command.serves() {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        // A client waits for one answer: it starts faster without threads.
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = runtime.enable_all().build().map_err(|e| Failure::caused("starting up", &e))?;
    let result = runtime.block_on(command::run(arguments));
    // Reading standard input may block for ever, and nothing that is left is worth waiting for.
    runtime.shutdown_background();
    result
}
