//! Configuration: whatever a file holds, it is refused with words or it is consistent, and it never shows a secret.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ondemand_core::Config;

fuzz_target!(|text: &str| {
    match Config::parse(text) {
        Ok(config) => {
            config.validate().expect("it was parsed, so it is valid");
            let databases = &config.databases;
            assert!(databases.first_port > 0 && databases.first_port <= databases.last_port);
            assert!(databases.default_ttl <= databases.max_ttl);
            // The token may be a word that the rest of the configuration holds too; what is long enough is not.
            if let Some(token) = config.http.token.as_ref().filter(|token| token.expose().len() >= 24) {
                let mut without = config.clone();
                without.http.token = None;
                if !format!("{without:?}").contains(token.expose()) {
                    assert!(!format!("{config:?}").contains(token.expose()), "the token is shown");
                }
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
