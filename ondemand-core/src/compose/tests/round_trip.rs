//! What is written is read back.

use super::*;
use crate::compose::tree::Key;

/// Files in the manner of real ones.
const FILES: [&str; 8] = [
    include_str!("../../../tests/compose/blog.yml"),
    include_str!("../../../tests/compose/data.yml"),
    include_str!("../../../tests/compose/jobs.yml"),
    include_str!("../../../tests/compose/merged.yml"),
    include_str!("../../../tests/compose/monitoring.yml"),
    include_str!("../../../tests/compose/proxied.yml"),
    include_str!("../../../tests/compose/shop.yml"),
    include_str!("../../../tests/compose/votes.yml"),
];

/// Writes a document, reads it back and compares.
fn survives(document: &Document) {
    let yaml = document.to_yaml();
    let variables = BTreeMap::new();
    let again = parse(Source { file: "again.yml", text: &yaml, directory: None, variables: &variables })
        .unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    assert!(again.root == document.root, "{yaml}\n{:?}\n{:?}", document.root, again.root);
}

#[test]
fn text_is_quoted_and_numbers_are_not() {
    let text = "a: text\nb: 1\nc: '1'\nd: true\ne: 'true'\nf:\ng: [x, [], {}, [y]]\nh: {}\nk: [{l: 1, m: [{p: 2}]}, {}]\n'1': $$x\n\"yes\": no\n\
                i: |\n  line\n  \"quoted\"\nj: \"tab\\t nul\\0 é \\u2028 😀\"\n";
    let expected = "version: \"3.9\"\na: \"text\"\nb: 1\nc: \"1\"\nd: true\ne: \"true\"\nf: null\ng:\n  - \"x\"\n  - []\n  - {}\n  -\n    - \"y\"\nh: {}\nk:\n  - l: 1\n    m:\n      - p: 2\n  - {}\n\
                    \"1\": \"$$x\"\n\"yes\": \"no\"\ni: \"line\\n\\\"quoted\\\"\\n\"\nj: \"tab\\t nul\\x00 é \\u2028 \\U0001f600\"\n";
    let document = document(text).expect("read");
    assert_eq!(document.to_yaml(), expected);
    survives(&document);
}

#[test]
fn variables_get_the_type_that_their_place_asks_for() {
    let text = "services: {a: {image: 'x:${TAG}', deploy: {replicas: '${COUNT}'}, environment: {NUM: '${COUNT}'}, volumes: [{type: tmpfs, target: /t, tmpfs: {size: 1K}}], read_only: '${X:-yes}'}}";
    let yaml = document(text).expect("read").to_yaml();
    for line in ["image: \"x:1.2\"", "replicas: 3\n", "size: 1024\n", "NUM: \"3\"", "read_only: true\n"] {
        assert!(yaml.contains(line), "{line} in {yaml}");
    }
}

#[test]
fn merges_and_aliases_are_written_out() {
    let document = document("x-a: &a {b: 1}\nservices: {c: {<<: *a, d: *a}}").expect("read");
    assert!(document.to_yaml().ends_with("services:\n  c:\n    d:\n      b: 1\n    b: 1\n"), "{}", document.to_yaml());
    survives(&document);
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        "-?[0-9]{1,8}(\\.[0-9]{1,4})?".prop_map(Value::Number),
        any::<String>().prop_map(Value::String),
        "[-:#{}\\[\\],&*!|>'\"%@`$ \\n\\t~<=]{0,12}".prop_map(Value::String),
        "(true|null|~|yes|1|0x1|<<|---|\\.\\.\\.|- a|a: b|\\$\\{X\\})".prop_map(Value::String),
    ]
}

fn node(value: Value) -> Node {
    Node { value, place: Place::default(), plain: false }
}

fn mapping(entries: BTreeMap<String, Node>) -> Node {
    let key = |text| Key { text, place: Place::default() };
    node(Value::Mapping(entries.into_iter().map(|(text, node)| (key(text), node)).collect()))
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z][a-z0-9_-]{0,8}", "\\PC{0,12}", "(true|~|<<|1|y|-|\\?|: |#|null|x-)", any::<String>()]
        .prop_filter("keys are short", |key| key.len() <= read::LONGEST_KEY && key != "version")
}

fn tree() -> impl Strategy<Value = Node> {
    let inner = scalar().prop_map(node).prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|items| node(Value::Sequence(items))),
            prop::collection::btree_map(key(), inner, 0..5).prop_map(mapping),
        ]
    });
    prop::collection::btree_map(key(), inner, 0..5).prop_map(mapping)
}

proptest! {
    #[test]
    fn any_tree_is_read_back(root in tree()) {
        let mut root = root;
        cast::cast(&mut root);
        survives(&Document { files: vec![], root, directory: None, variables: BTreeMap::new(), missing: vec![] });
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn no_text_of_signs_panics(text in "[-a:#{}\\[\\],&*!|>'\"%@`$ \\n\\t~<?.0]{0,60}") {
        check(&text);
    }

    #[test]
    fn no_broken_compose_file_panics(
        file in 0..FILES.len(),
        cut in 0_usize..2500,
        length in 0_usize..8,
        text in "[-a1:#{}\\[\\],&*!|>'\"%$ \\n\\t]{0,6}",
    ) {
        let file = FILES[file];
        let start = file.floor_char_boundary(cut.min(file.len()));
        let end = file.floor_char_boundary((cut + length).min(file.len())).max(start);
        check(&format!("{}{text}{}", &file[..start], &file[end..]));
    }

    #[test]
    fn no_shuffled_compose_file_panics(file in 0..FILES.len(), moves in prop::collection::vec((0_usize..90, 0_usize..90, 0_usize..4), 1..6)) {
        let mut lines: Vec<String> = FILES[file].lines().map(str::to_owned).collect();
        for (from, to, how) in moves {
            let (from, to) = (from % lines.len(), to % lines.len());
            match how {
                0 => lines.swap(from, to),
                1 => lines.insert(to, lines[from].clone()),
                2 => lines[from].insert_str(0, "  "),
                _ => lines[from] = lines[from].trim_start().to_owned(),
            }
        }
        check(&lines.join("\n"));
    }
}

/// Reads whatever it is; what can be read is read back, and what is refused is refused with words.
fn check(text: &str) {
    match document(text) {
        Ok(document) => {
            survives(&document);
            if let Err(error) = stack_of(&document) {
                refusal::<()>(Err(error));
            }
        }
        Err(error) => assert!(!refusal::<()>(Err(error)).1.is_empty()),
    }
}
