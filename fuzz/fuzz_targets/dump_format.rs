//! Dumps: any bytes are told apart without a panic, and an archive unpacks into its directory or not at all.
//!
//! What is private to the library is compiled in from its source.
#![no_main]

#[path = "../../ondemand-core/src/datasets/meter.rs"]
#[allow(dead_code, reason = "only what unpacking needs is used")]
mod meter;
#[path = "../../ondemand-core/src/datasets/sniff.rs"]
#[allow(dead_code, reason = "only its functions are used")]
mod sniff;
#[path = "../../ondemand-core/src/datasets/unpack.rs"]
#[allow(dead_code, reason = "only unpacking archives is fuzzed")]
mod unpack;

mod error {
    pub(crate) use ondemand_core::{Error, Result};

    pub(crate) fn shorten(text: &str) -> String {
        text.chars().take(80).collect()
    }
}
mod input {
    pub(crate) fn truncated(reason: &str) -> ondemand_core::Error {
        ondemand_core::Error::invalid("dump", reason)
    }
}
mod orchestrator {
    pub(crate) use ondemand_core::orchestrator::RunAs;
}
mod progress {
    pub(crate) use ondemand_core::progress::{Event, Phase, Reporter, silent};
}

use std::path::Path;

use libfuzzer_sys::{Corpus, fuzz_target};
use tokio_util::sync::CancellationToken;

/// The most that an archive may unpack to here; a larger one is fine, but says nothing new.
const LARGEST: u64 = 4 << 20;

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let compressed = sniff::compression(bytes).is_some();
    if let Err(error) = sniff::content(bytes) {
        let hint = error.hint().unwrap_or_default();
        assert!(compressed || !error.to_string().is_empty() && !hint.is_empty(), "{error}: what is to be done?");
    }
    if size(bytes).is_none_or(|size| size > LARGEST) {
        return Corpus::Keep;
    }

    let outside = tempfile::tempdir().expect("a temporary directory");
    let root = outside.path().join("root");
    std::fs::create_dir(&root).expect("a directory");
    let user = orchestrator::RunAs { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
    let writer =
        unpack::Writer { user, meter: meter::Meter::new(progress::silent()), cancelled: CancellationToken::new() };
    if let Err(error) = writer.unpack(bytes, &root) {
        assert!(!error.to_string().is_empty());
    }
    let names: Vec<_> = list(outside.path());
    assert_eq!(names, [root.clone()], "something was written outside");
    check(&root);
    Corpus::Keep
});

/// Returns how many bytes an archive unpacks to, if it is one.
fn size(bytes: &[u8]) -> Option<u64> {
    let mut total = 0_u64;
    for entry in tar::Archive::new(bytes).entries().ok()? {
        let Ok(entry) = entry else { break };
        total = total.saturating_add(entry.size());
    }
    Some(total)
}

fn list(directory: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()).collect()
}

/// Checks that there is nothing but files and directories.
fn check(directory: &Path) {
    for path in list(directory) {
        let kind = std::fs::symlink_metadata(&path).expect("it was listed").file_type();
        assert!(kind.is_file() || kind.is_dir(), "{} is neither a file nor a directory", path.display());
        if kind.is_dir() {
            check(&path);
        }
    }
}
