//! The configuration that holds: the file's, changed by environment variables, changed by flags.

use std::path::{Path, PathBuf};

use ondemand_core::{Config, Secret};

use crate::arguments::Global;
use crate::failure::Failure;

mod environments;
mod overrides;
mod proxy;
mod show;

pub(crate) use overrides::{Overrides, ProxyOnly};
pub(crate) use show::show;

/// Where the configuration is looked for.
const PLACES: [&str; 2] = ["ondemand.toml", "/etc/ondemand/ondemand.toml"];

/// Returns the configuration that holds.
pub(crate) fn load(global: &Global, mut overrides: Overrides) -> Result<Config, Failure> {
    let file = file(global)?;
    overrides.settle()?;
    let mut config = match &file {
        Some(file) => read(file)?,
        None => Config::default(),
    };
    overrides.apply(&mut config);
    if let Some(token) = global.token.as_ref().filter(|token| !token.is_empty()) {
        config.http.token = Some(Secret::new(token));
    }
    config.validate()?;
    Ok(config)
}

/// Returns the file that is read, if any.
fn file(global: &Global) -> Result<Option<PathBuf>, Failure> {
    if let Some(file) = &global.config {
        return Ok(Some(file.clone()));
    }
    for place in PLACES {
        let path = Path::new(place);
        if path.try_exists().map_err(|e| Failure::caused(format!("looking for {place}"), &e))? {
            return Ok(Some(path.into()));
        }
    }
    Ok(None)
}

fn read(file: &Path) -> Result<Config, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| Failure::caused(format!("the configuration {} cannot be read", file.display()), &e))?;
    Config::parse(&text).map_err(|error| {
        let mut failure = Failure::from(error);
        failure.message = format!("{}: {}", file.display(), failure.message);
        failure
    })
}
