//! Explaining why a dump was not restored, and what to do about it.

use crate::error::Error;
use crate::postgres::program::Said;

/// Makes the error for a restore that failed, from what the restoring program and the server said.
pub(super) fn failed_restore(said: &Said, server: &Said, major: u32) -> Error {
    if said.disk_full() || server.disk_full() {
        return Error::OutOfSpace { message: "restoring the dump".into() };
    }
    let line = match said.first_error() {
        Some(line) => line,
        None => said.tail().pop().unwrap_or_else(|| "the restoring program ended without a word".into()),
    };
    let mut log = said.tail();
    if server.first_error().is_some_and(|error| error.contains("PANIC") || error.contains("FATAL")) {
        log.extend(server.tail());
    }
    let message = if makes_tablespace(&line) {
        format!("it makes a tablespace, which clones would share: {}", readable(&line))
    } else {
        readable(&line)
    };
    Error::InvalidDump { message, hint: hint(&line, major), log }
}

/// Tells whether an error is one of `CREATE TABLESPACE`, whose directory is elsewhere, is missing, or belongs to another user.
fn makes_tablespace(line: &str) -> bool {
    let of_its_directory = ["\" does not exist", "\": Permission denied", "\": Operation not permitted"];
    let at_directory = line.contains("ERROR:  directory \"") || line.contains("permissions on directory \"");
    line.contains("pg_tblspc/") || at_directory && of_its_directory.iter().any(|end| line.contains(end))
}

/// Takes the program's name off an error, and puts the number of the line at its end.
pub(super) fn readable(line: &str) -> String {
    let number = line.strip_prefix("psql:<stdin>:").and_then(|rest| rest.split_once(':')).map(|(number, _)| number);
    let mut text = line;
    for marker in ["ERROR:", "FATAL:", "PANIC:", "error:"] {
        if let Some((_, rest)) = text.split_once(marker) {
            text = rest.trim_start();
        }
    }
    match number {
        Some(number) if number.bytes().all(|b| b.is_ascii_digit()) => format!("{text} (line {number})"),
        _ => text.to_owned(),
    }
}

/// What names something that may be there, but is not found.
const SEARCH_PATH: [&str; 4] = ["function ", "relation \"", "operator ", "type \""];

/// Says what to do about an error of psql or pg_restore.
fn hint(line: &str, major: u32) -> String {
    let quoted = |before: &str| {
        let rest = &line[line.find(before)? + before.len()..];
        rest.split('"').next().filter(|name| !name.is_empty())
    };
    if line.contains("does not exist")
        && let Some(role) = quoted("role \"")
    {
        return make_roles(&[role.to_owned()]);
    }
    if let Some(extension) = quoted("extension \"").filter(|_| line.contains("not available")) {
        return install(extension, major);
    }
    if let Some(path) = quoted("could not open extension control file \"") {
        let name = path.rsplit('/').next().and_then(|file| file.strip_suffix(".control")).unwrap_or("NAME");
        return install(name, major);
    }
    if let Some(library) = quoted("could not access file \"") {
        return install(library.rsplit('/').next().unwrap_or(library), major);
    }
    if line.contains("in file header") || line.contains("unrecognized configuration parameter") {
        return format!(
            "a newer pg_dump wrote it than PostgreSQL {major} understands: install that version of PostgreSQL on this host, or dump with pg_dump {major}"
        );
    }
    if line.contains("invalid locale name") || line.contains("locale") && line.contains("not") {
        return "install the locale on this host: apt-get install locales-all".into();
    }
    if line.contains("tablespace") || makes_tablespace(line) {
        return "dump without tablespaces: pg_dump --no-tablespaces, or pg_dumpall --no-tablespaces".into();
    }
    if line.contains("could not read from input file") || line.contains("unexpected end of file") {
        return "check that pg_dump succeeded, and that the file was copied whole".into();
    }
    if line.contains("syntax error") || line.contains("invalid command") {
        return "check that it is the output of pg_dump for PostgreSQL, and whole".into();
    }
    if SEARCH_PATH.iter().any(|words| line.contains(words)) && line.contains("does not exist") {
        return "if a function, a view or an index finds it by search_path, which pg_dump empties, name its schema there (SET search_path = public on the function); or restore all but what fails with --on-error=continue".into();
    }
    "read the log; or restore all but what fails with --on-error=continue".into()
}

/// Makes the error for what a dump needs and this host or the cluster lacks, if anything.
pub(super) fn missing_error(
    roles: &[String],
    extensions: &[String],
    locales: &[String],
    major: u32,
    log: Vec<String>,
) -> Option<Error> {
    let mut parts = Vec::new();
    let mut hints = Vec::new();
    for (names, one, several) in
        [(roles, "role", "roles"), (extensions, "extension", "extensions"), (locales, "locale", "locales")]
    {
        if let [first, ..] = names {
            let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
            parts.push(format!("the {} {}", if names.len() == 1 { one } else { several }, quoted.join(", ")));
            hints.push(match one {
                "role" => make_roles(names),
                "extension" => {
                    let packages: Vec<String> = names.iter().map(|name| package(name, major)).collect();
                    format!("install the packages of the extensions on this host; Debian's are called like {}", packages.join(" "))
                }
                _ => format!("install the locale {first} on this host: apt-get install locales-all; or, for an archive, restore into a database of another locale with --dbname"),
            });
        }
    }
    let message = format!("it needs what is missing: {}", parts.join("; "));
    (!parts.is_empty()).then(|| Error::InvalidDump { message, log, hint: hints.join(". ") })
}

/// Says how to make roles, as one writes it in a shell.
fn make_roles(roles: &[String]) -> String {
    let options: Vec<String> = roles.iter().map(|role| format!("--role {}", shell_word(role))).collect();
    format!("make them first with `{}`, or have all made with --create-roles", options.join(" "))
}

/// Quotes a word for a shell, if it needs that.
fn shell_word(word: &str) -> String {
    let plain = !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.,/@:+".contains(&b));
    if plain { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

fn package(extension: &str, major: u32) -> String {
    format!("postgresql-{major}-{}", extension.replace('_', "-"))
}

fn install(extension: &str, major: u32) -> String {
    format!("install the extension on this host; Debian's packages are called like {}", package(extension, major))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_come_with_what_to_do() {
        for (line, message, advice) in [
            (
                "psql:<stdin>:12: ERROR:  role \"app\" does not exist",
                "role \"app\" does not exist (line 12)",
                "--role app",
            ),
            (
                "psql:<stdin>:9: ERROR:  extension \"postgis\" is not available",
                "extension \"postgis\" is not available (line 9)",
                "postgresql-15-postgis",
            ),
            (
                "pg_restore: error: could not execute query: ERROR:  could not open extension control file \"/usr/share/postgresql/15/extension/pg_trgmx.control\": No such file",
                "could not open extension control file \"/usr/share/postgresql/15/extension/pg_trgmx.control\": No such file",
                "postgresql-15-pg-trgmx",
            ),
            (
                "pg_restore: error: unsupported version (1.16) in file header",
                "unsupported version (1.16) in file header",
                "newer pg_dump",
            ),
            (
                "psql:<stdin>:1: ERROR:  syntax error at or near \"x\"",
                "syntax error at or near \"x\" (line 1)",
                "output of pg_dump",
            ),
        ] {
            assert_eq!(readable(line), message);
            assert!(hint(line, 15).contains(advice), "{line}: {}", hint(line, 15));
        }
    }

    #[test]
    fn a_full_disk_is_no_fault_of_the_dump() {
        let (psql, server) = (Said::default(), Said::default());
        psql.push("psql:<stdin>:3: server closed the connection unexpectedly");
        server.push("PANIC:  could not write to file \"pg_wal/xlogtemp.1\": No space left on device");
        assert_eq!(failed_restore(&psql, &server, 15).code(), crate::Code::OutOfSpace);
    }
}
