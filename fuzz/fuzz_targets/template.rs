//! Templates: any text is refused with words, or renders; and no value that is put in adds a service.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ondemand_core::Template;
use ondemand_core::template::Variables;

fuzz_target!(|input: (&str, &str)| {
    let (name, rest) = input;
    let section = "x-ondemand:\n  routes: [{suffix: api, service: back, port: 3000}]\n";
    let services = "services:\n  back:\n    image: {{ name }}\n    command: ['{{ name }}', \"{{ name }}\", x {{ name }}]\n";
    let variables = Variables { name: name.into(), ..Variables::default() };

    let template = Template::parse("fuzz", "fuzz.yml", format!("{section}{services}")).expect("a template");
    let document = template.render(&variables).expect("any value can be put in");
    assert_eq!(document.services(), ["back"]);

    match Template::parse("fuzz", "fuzz.yml", format!("{section}{rest}")).and_then(|template| template.render(&variables)) {
        Ok(document) => assert!(!document.to_yaml().is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
