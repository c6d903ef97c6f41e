//! Labels: what is accepted survives being written and read, and nothing in it can break a line or a header.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use ondemand_core::{Labels, Selector};

fuzz_target!(|text: &str| {
    // The same text as JSON, and as pairs that are set one by one: key=value&key=value.
    if let Ok(labels) = serde_json::from_str::<Labels>(text) {
        check(&labels);
    }
    let mut labels = Labels::new();
    let mut expected = BTreeMap::new();
    for (key, value) in text.split('&').filter_map(|pair| pair.split_once('=')) {
        if labels.set(key, value).is_ok() {
            expected.insert(key, value);
        } else {
            assert_eq!(labels.get(key), expected.get(key).copied(), "a refused label changed something");
        }
    }
    check(&labels);
    assert!(labels.iter().eq(expected.iter().map(|(key, value)| (*key, *value))));
    for (key, value) in &expected {
        assert!(Selector::all().with(*key, *value).matches(&labels));
        assert!(!Selector::all().with(*key, format!("{value}.")).matches(&labels));
    }
});

fn check(labels: &Labels) {
    for (key, value) in labels.iter() {
        assert!(!key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic() && b != b'='), "{key:?}");
        assert!(!value.chars().any(char::is_control), "{value:?}");
        assert!(key.len() <= 128 && value.len() <= 4096);
    }
    let json = serde_json::to_string(labels).expect("labels are text");
    assert_eq!(&serde_json::from_str::<Labels>(&json).expect("labels it wrote itself"), labels);
}
