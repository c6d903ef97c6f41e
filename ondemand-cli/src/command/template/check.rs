//! `ondemand template check`.

use std::path::PathBuf;

use clap::Args;
use ondemand_core::template::Template;

use crate::arguments::Global;
use crate::failure::Failure;
use crate::output;

/// What to check.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Templates
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<(), Failure> {
    let mut checked = Vec::new();
    for file in &arguments.files {
        let template = Template::load(file)?;
        checked.push((file.display().to_string(), template.check()?));
    }
    if global.json {
        let checked: Vec<_> =
            checked.iter().map(|(file, found)| serde_json::json!({ "file": file, "found": found })).collect();
        return output::json(&checked);
    }
    for (file, found) in checked {
        output::line(format_args!("{file}: good"))?;
        for line in found {
            output::line(format_args!("  {line}"))?;
        }
    }
    Ok(())
}
