//! Request bodies: what is accepted says the same after being written again, and becomes valid options or an error.
#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use ondemand_core::CreateOptions;
use ondemand_http::wire::{CreateServer, PatchServer};

fuzz_target!(|body: &[u8]| {
    if let Ok(wanted) = serde_json::from_slice::<CreateServer>(body) {
        let again = serde_json::to_vec(&wanted).expect("JSON");
        assert_eq!(serde_json::from_slice::<CreateServer>(&again).expect("what it wrote itself"), wanted);
        if let Ok(options) = CreateOptions::try_from(wanted.clone()) {
            assert_eq!(options.dataset.map(|dataset| dataset.to_string()), wanted.dataset);
            assert_eq!(options.name.map(|name| name.to_string()), wanted.name);
        }
    }
    if let Ok(patch) = serde_json::from_slice::<PatchServer>(body) {
        let again = serde_json::to_vec(&patch).expect("JSON");
        assert_eq!(serde_json::from_slice::<PatchServer>(&again).expect("what it wrote itself"), patch);
        for now in [0, 1_800_000_000, u32::MAX.into()] {
            if let Ok(ttl) = patch.ttl(UNIX_EPOCH + Duration::from_secs(now)) {
                assert!(ttl.duration() >= Duration::from_secs(1));
            }
        }
    }
});
