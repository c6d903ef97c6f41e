//! No value changes what else the document says.

use proptest::prelude::*;

use super::*;

/// Puts a value in at each kind of place.
const EVERYWHERE: &str = "services:
  back:
    image: {{ name }}
    command: [run, {{ name }}, '{{ name }}', \"{{ name }}\"]
    environment:
      PLAIN: {{ name }}
      SINGLE: '{{ name }}'
      DOUBLE: \"{{ name }}\"
      PART: a {{ name }} b
      FLOW: !!str {{ name }}
      BLOCK: |
        {{ name }}
        end
      FOLDED: >-
        {{ name }}
      # {{ name }}
    labels: { 'traefik.rule': \"Host(`{{ name }}`)\", {{ name }}: key }
    healthcheck:
      test: {{ name }}
";

fn check(name: &str) {
    let template = template(EVERYWHERE).expect("a template");
    let document = template.render(&Variables { name: name.into(), ..variables() }).expect("rendered");
    let stack = stack(&document).unwrap_or_else(|error| panic!("{name:?}: {error}"));
    let [back] = &stack.services[..] else { panic!("one service") };
    assert_eq!(back.image.as_deref(), Some(name));
    assert_eq!(back.arguments, ["run", name, name, name]);
    let block = format!("{name}\nend\n");
    let part = format!("a {name} b");
    let expected = [
        ("BLOCK", block.as_str()),
        ("DOUBLE", name),
        ("FLOW", name),
        ("FOLDED", name),
        ("PART", &part),
        ("PLAIN", name),
        ("SINGLE", name),
    ];
    let env: Vec<_> = back.env.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(env, expected);
    let rule = format!("Host(`{name}`)");
    let labels = BTreeMap::from([("traefik.rule".to_owned(), rule), (name.to_owned(), "key".to_owned())]);
    assert_eq!(back.container.labels, labels);
    assert_eq!(back.healthcheck.as_ref().map(|check| check.test[1].as_str()), Some(name));
    // What is written says the same.
    let again = crate::compose::parse(crate::compose::Source {
        file: "again.yml",
        text: &document.to_yaml(),
        directory: None,
        variables: &BTreeMap::new(),
    });
    assert_eq!(again.expect("read"), document);
}

#[test]
fn values_that_look_like_yaml_are_text() {
    for name in [
        "a: b",
        "x\n    privileged: true",
        "\"\n    privileged: true\n    x: \"",
        "'",
        "' }",
        "]",
        "} #",
        "# comment",
        "&a",
        "*a",
        "!!python/object",
        "- a",
        "|",
        "%",
        "@",
        "`id`",
        "<<",
        "{{ name }}",
        "{% raw %}",
        "${HOME}",
        "$(id)",
        "null",
        "true",
        "1",
        "\t",
        " ",
        "---",
        "...",
        "\u{feff}",
        "\u{2028}",
        "q0123456789abcdef",
        "\\",
        "😀",
        "refs/heads/feature/a#b",
    ] {
        check(name);
    }
}

proptest! {
    #[test]
    fn no_value_changes_the_document(name in "[^\\x00]{1,40}") {
        prop_assume!(name.len() < 150 && name != "traefik.rule");
        check(&name);
    }

    #[test]
    fn no_broken_template_panics(cut in 0_usize..4800, length in 0_usize..8, text in "[-a1:#{}\\[\\],'\"%$ \\n|]{0,6}") {
        let file = include_str!("../../../../examples/templates/shop.yml");
        let start = file.floor_char_boundary(cut.min(file.len()));
        let end = file.floor_char_boundary((cut + length).min(file.len())).max(start);
        let text = format!("{}{text}{}", &file[..start], &file[end..]);
        if let Ok(template) = Template::parse("shop", "shop.yml", text)
            && let Err(error) = template.check()
        {
            let (file, _, reason) = refusal::<()>(Err(error));
            prop_assert!(file == "shop.yml" && !reason.is_empty(), "{}: {}", file, reason);
        }
    }

    #[test]
    fn no_template_panics(text in "[-a:#{}\\[\\],'\"%$ \\n|n.name]{0,60}") {
        if let Ok(template) = template(&text)
            && let Ok(document) = template.render(&variables())
        {
            let _ = stack(&document);
        }
    }
}

#[test]
fn keys_that_become_equal_are_refused() {
    let text = "services:\n  back:\n    image: x\n    labels:\n      {{ name }}: 1\n      demo: 2\n";
    let (_, line, reason) = refusal(template(text).and_then(|template| template.render(&variables())));
    assert_eq!((line, reason.as_str()), (8, "the key \"demo\" is there twice"));
}
