//! The commands, one file each.

pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod dataset;
pub(crate) mod env;
mod notify;
pub(crate) mod pg;
pub(crate) mod pool;
pub(crate) mod proxy;
pub(crate) mod reap;
pub(crate) mod route;
pub(crate) mod serve;
mod serving;
pub(crate) mod template;

use crate::arguments::{Arguments, Command};
use crate::failure::Failure;

/// Does what was asked.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { global, command } = arguments;
    match command {
        Command::Serve(arguments) => serve::run(&global, arguments).await,
        Command::Proxy(arguments) => proxy::run(&global, arguments).await,
        Command::Route(command) => route::run(&global, command).await,
        Command::Pool(command) => pool::run(&global, command).await,
        Command::Dataset(command) => dataset::run(&global, command).await,
        Command::Env(command) => env::run(&global, *command).await,
        Command::Template(command) => template::run(&global, command),
        Command::Pg(command) => pg::run(&global, command).await,
        Command::Reap(arguments) => reap::run(&global, arguments).await,
        Command::Config(command) => config::run(&global, command),
        Command::Completions(arguments) => completions::run(&arguments),
    }
}
