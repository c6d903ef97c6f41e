//! Stacks whose directory was moved while they were stopped: what their specifications say of places in it.

use std::path::{Path, PathBuf};

use crate::orchestrator::{ServiceSpec, StackSpec};

/// Replaces what a specification says of places below one directory by those below another.
pub(super) fn follow(spec: &mut StackSpec, from: &Path, to: &Path) {
    // What is not UTF-8 cannot be in a variable either.
    let (Some(from), Some(to)) = (from.to_str(), to.to_str()) else { return };
    // Everything is below the root.
    if from.len() > 1 {
        spec.services.iter_mut().for_each(|service| follow_in(service, from, to));
    }
}

fn follow_in(service: &mut ServiceSpec, from: &str, to: &str) {
    let files = service.secrets.iter_mut().chain(&mut service.configs).filter_map(|file| file.target.as_mut());
    let check = service.healthcheck.iter_mut().flat_map(|check| &mut check.test);
    let words = service.command.iter_mut().chain(&mut service.arguments).chain(service.env.values_mut());
    for text in words.chain(check).chain(files) {
        *text = replaced(text, from, to);
    }
    let mounts = service.mounts.iter_mut().flat_map(|mount| [&mut mount.source, &mut mount.target]);
    for path in mounts.chain(&mut service.working_dir) {
        if let Ok(below) = path.strip_prefix(from) {
            *path = PathBuf::from(to).join(below);
        }
    }
}

/// Replaces a directory in a text wherever it is the beginning of an absolute path.
fn replaced(text: &str, from: &str, to: &str) -> String {
    let in_name = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '}' | ')');
    // A URL, and an option of one letter: `file:///path`, `-f/path`.
    let after_option = |before: &str| {
        let mut last = before.chars().rev();
        let is_option = last.next().is_some_and(char::is_alphabetic) && last.next() == Some('-');
        is_option && !last.next().is_some_and(in_name)
    };
    let mut new = String::with_capacity(text.len());
    let mut rest = 0;
    for (at, _) in text.match_indices(from) {
        let before = &text[..at];
        let begins =
            !before.chars().next_back().is_some_and(in_name) || before.ends_with("://") || after_option(before);
        let ends = text[at + from.len()..].starts_with('/');
        if begins && ends {
            new.push_str(&text[rest..at]);
            new.push_str(to);
            rest = at + from.len();
        }
    }
    new.push_str(&text[rest..]);
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_the_directory_follows() {
        for (text, expected) in [
            ("/data/env/run.sh", "/new/run.sh"),
            ("file:/data/env/a,/data/env/b", "file:/new/a,/new/b"),
            ("--x=/data/env/a", "--x=/new/a"),
            ("file:///data/env/a", "file:///new/a"),
            ("tar -f/data/env/a", "tar -f/new/a"),
            ("/srv/data/env/a", "/srv/data/env/a"),
            ("${HOME}/data/env/a $(pwd)/data/env/a", "${HOME}/data/env/a $(pwd)/data/env/a"),
            ("x/data/env/a", "x/data/env/a"),
            ("an-x/data/env/a", "an-x/data/env/a"),
            ("/data/env", "/data/env"),
            ("/data/environment/a", "/data/environment/a"),
            ("/data/env/data/env/a", "/new/data/env/a"),
            ("", ""),
        ] {
            assert_eq!(replaced(text, "/data/env", "/new"), expected);
        }
    }
}
