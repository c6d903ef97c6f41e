//! Each crate's tests are one executable, `tests/it/main.rs`. A file that no module declares would never be compiled, and never fail.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Returns the files with this ending below a directory.
fn files_below(directory: &Path, ending: &str) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in directory.read_dir().with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_below(&path, ending)?);
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.insert(path);
        }
    }
    Ok(found)
}

/// Returns a module's file and those of the modules that it declares, as the compiler finds them.
fn declared(file: &Path, directory: &Path) -> Result<BTreeSet<PathBuf>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let mut found = BTreeSet::from([file.to_owned()]);
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let (["mod", name] | [_, "mod", name]) = words[..] else { continue };
        let Some(name) = name.strip_suffix(';') else { continue };
        let own = directory.join(name);
        let file = [own.with_extension("rs"), own.join("mod.rs")].into_iter().find(|file| file.exists());
        found.extend(declared(&file.with_context(|| format!("module {name} has no file"))?, &own)?);
    }
    Ok(found)
}

#[test]
fn no_file_of_tests_is_forgotten() -> Result<()> {
    for member in ["ondemand-core", "ondemand-http", "ondemand-cli", "tests"] {
        let tests = Path::new(WORKSPACE).join(member).join("tests");
        let programs = files_below(&tests, "rs")?;
        let declared = declared(&tests.join("it/main.rs"), &tests.join("it"))?;
        let forgotten: Vec<_> = programs.difference(&declared).collect();
        ensure!(forgotten.is_empty(), "no module of {member}'s tests/it/main.rs declares {forgotten:?}");
    }
    Ok(())
}
