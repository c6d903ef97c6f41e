//! `ondemand`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ondemand_cli::ondemand()
}
