//! `env-on-demand`: environments, by the command line that users already know.

use std::process::ExitCode;

fn main() -> ExitCode {
    ondemand_cli::env_on_demand()
}
