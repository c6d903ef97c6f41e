//! Names and ids: what is accepted comes back as it was written, and can be neither a path nor an option nor a format.
#![no_main]

use std::fmt::Display;
use std::path::{Component, Path};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use ondemand_core::{
    AttemptId, DatabaseId, DatabaseName, DatasetName, DatasetRef, Error, Hostname, ServiceName, SnapshotName, StackName,
    Version, VolumeName,
};

fn parse<T: FromStr<Err = Error> + Display>(text: &str) -> Option<T> {
    match text.parse::<T>() {
        Ok(name) => {
            assert_eq!(name.to_string(), text, "printing loses something");
            assert_eq!(text.parse::<T>().expect("it was accepted before").to_string(), text);
            Some(name)
        }
        Err(error) => {
            // An error quotes what it was given, cut to something that a person reads and escaped, so that a log can carry it.
            let message = error.to_string();
            assert!(message.chars().count() < 1200, "{message}");
            assert!(!message.chars().any(|c| c.is_control()), "{message:?}");
            None
        }
    }
}

/// Checks a name that becomes the name of a file, a container or a host.
fn check_plain<T: FromStr<Err = Error> + Display>(text: &str) {
    let Some(name) = parse::<T>(text) else { return };
    let name = name.to_string();
    let mut parts = Path::new(&name).components();
    assert!(matches!(parts.next(), Some(Component::Normal(part)) if part == name.as_str()), "{name:?} is a path");
    assert!(parts.next().is_none(), "{name:?} is a path");
    assert!(name.bytes().all(|b| b.is_ascii_graphic() && !b"/\\'\"`$;&|<>(){}[]*?!~#%=,".contains(&b)), "{name:?}");
    assert!(!name.starts_with(['-', '.']) && !name.bytes().any(|b| b.is_ascii_uppercase()), "{name:?}");
    assert!(name.len() <= 255, "{name:?} is too long for a file");

    let json = serde_json::to_string(&name).expect("a string");
    assert_eq!(serde_json::from_str::<String>(&json).expect("a string"), name);
}

fuzz_target!(|text: &str| {
    check_plain::<DatasetName>(text);
    check_plain::<DatabaseName>(text);
    check_plain::<Version>(text);
    check_plain::<SnapshotName>(text);
    check_plain::<VolumeName>(text);
    check_plain::<StackName>(text);
    check_plain::<ServiceName>(text);
    check_plain::<Hostname>(text);
    check_plain::<DatabaseId>(text);
    check_plain::<AttemptId>(text);

    if let Some(reference) = parse::<DatasetRef>(text)
        && let Some(version) = &reference.version
    {
        // What a reference names, a store can hold.
        let snapshot = SnapshotName::of(&reference.dataset, version);
        assert_eq!(SnapshotName::new(snapshot.as_str()).expect("a name it made itself"), snapshot);
        assert_eq!(snapshot.as_str(), text);
    }
});
