//! The script that clones, builds and starts the code of a service, inside its container or as a process.

/// The script, for any POSIX shell; its head says how it is configured.
pub(crate) const SCRIPT: &str = include_str!("../runner/run.sh");

#[cfg(test)]
mod tests {
    use super::SCRIPT;

    #[test]
    fn the_script_is_one() {
        assert!(SCRIPT.starts_with("#!/bin/sh\n"));
    }
}
