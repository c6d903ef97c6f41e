//! How people write times and sizes: nothing overflows, limits hold, and what is printed can be read again.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ondemand_core::{Size, Ttl};

fuzz_target!(|text: &str| {
    if let Ok(ttl) = text.parse::<Ttl>() {
        assert!(ttl.duration() >= Duration::from_secs(1) && ttl.duration() <= Duration::from_secs(10 * 365 * 86_400));
        assert_eq!(ttl.duration().subsec_nanos(), 0, "a ttl has whole seconds");
        assert_eq!(ttl.to_string().parse::<Ttl>().expect("what it printed itself"), ttl);
        assert_eq!(ttl.duration().as_secs().to_string().parse::<Ttl>().expect("a number of seconds"), ttl);
        let json = serde_json::to_string(&ttl).expect("a ttl is text");
        assert_eq!(serde_json::from_str::<Ttl>(&json).expect("what it wrote itself"), ttl);
    }
    if let Ok(size) = text.parse::<Size>() {
        assert_eq!(size.0.to_string().parse::<Size>().expect("a number of bytes"), size);
        let json = serde_json::to_string(&size).expect("a size is a number");
        assert_eq!(serde_json::from_str::<Size>(&json).expect("what it wrote itself"), size);
        // What people see is rounded to a tenth of its unit, which takes the very largest over the edge.
        if size.0 < 1 << 63 {
            let shown = size.to_string().parse::<Size>().expect("what it printed itself");
            assert!(shown.0.abs_diff(size.0) <= size.0 / 19, "{size} stands for {}", size.0);
        }
    }
    if let Ok(ttl) = serde_json::from_str::<Ttl>(text) {
        assert!(ttl.duration() >= Duration::from_secs(1));
    }
    let _ = serde_json::from_str::<Size>(text);
});
