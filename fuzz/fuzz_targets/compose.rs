//! Compose files: any text is refused with words, or says the same once it is written and read again.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use ondemand_core::compose::{self, Source};
use ondemand_core::{AttemptId, Labels, StackName};

fuzz_target!(|text: &str| {
    let variables = BTreeMap::from([("TAG".to_owned(), "1.2: ${x}\n".to_owned())]);
    let source = |text| Source { file: "fuzz.yml", text, directory: None, variables: &variables };
    let document = match compose::parse(source(text)) {
        Ok(document) => document,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let yaml = document.to_yaml();
    // What aliases stand for is written out, and may be more than is read.
    if yaml.len() <= 1 << 20 {
        let again = compose::parse(source(&yaml)).expect("it was written");
        assert!(again == document, "it says something else: {yaml}");
    }
    let name = StackName::new("fuzz").expect("a name");
    let attempt = AttemptId::new("0123456789abcdef").expect("an attempt");
    if let Err(error) = document.to_stack(name, attempt, Labels::new()) {
        assert!(!error.to_string().is_empty());
    }
});
