//! What placeholders become.

use super::*;

fn one(value: &str) -> String {
    env(&format!("A: {value}"), &variables()).remove("A").expect("it is there")
}

#[test]
fn values_are_put_in_wherever_a_scalar_is() {
    for (text, expected) in [
        ("{{ name }}", "demo"),
        ("'{{ name }}'", "demo"),
        ("\"{{ name }}\"", "demo"),
        ("a-{{ name }}-{{ domain }}1", "a-demo-env.example1"),
        ("{{ name }}{{ name }}", "demodemo"),
        ("{{ hosts.api }}", "demoapi.env.example"),
        ("{{ hosts['api'] | upper }}", "DEMOAPI.ENV.EXAMPLE"),
        ("{{ database.port }}", "5432"),
        ("{{ keep_days * 2 }}", "6"),
        ("{{ fixtures }}", "false"),
        ("{{ 'yes' if back.enabled else 'no' }}", "yes"),
        ("{% if fixtures %}f{% else %}dump{% endif %}", "dump"),
        ("{{ hosts | length }}", "1"),
        ("{{ name | indent(width=2, first=true) }}", "  demo"),
        ("{{ hosts | join(',') }}", "api"),
        ("{% raw %}{{.Node.Hostname}}{% endraw %}", "{{.Node.Hostname}}"),
        ("{{ secrets.token }}", "/run/secrets/token"),
        ("{{ secrets.other | default('none') }}", "none"),
    ] {
        let quoted =
            if text.starts_with("{%") && text.contains("raw") { format!("\"{text}\"") } else { text.to_owned() };
        assert_eq!(one(&quoted), expected, "{text}");
    }
}

#[test]
fn captured_text_is_resolved() {
    for (text, expected) in [
        ("{% set x %}a-{{ name }}{% endset %}{{ x }}", "a-demo"),
        ("{% set x %}{{ name }}{% endset %}{% set y %}{{ x }}.{{ x }}{% endset %}{{ y }}!", "demo.demo!"),
        ("{% set x %}a-{{ name }}{% endset %}{{ x | upper }}", "A-DEMO"),
        ("{% set x %}{{ name }}{% endset %}{{ x | length }}", "4"),
        ("{% set x %}{{ name }}{% endset %}{{ x | replace('m', 'n') ~ '!' }}", "deno!"),
        ("{% filter upper %}a-{{ name }}{% endfilter %}", "A-DEMO"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(name) }}", "<demo>"),
        ("{% set x %}{{ name }}{% endset %}{{ [x, x] | join('-') }}", "demo-demo"),
    ] {
        assert_eq!(one(text), expected, "{text}");
    }
}

#[test]
fn numbers_stay_numbers_and_text_stays_text() {
    let text = "services:\n  back:\n    image: x\n    deploy: {replicas: {{ keep_days }}}\n    environment: {A: {{ name }}, B: '{{ keep_days }}', C: {{ fixtures }}}\n";
    let yaml = template(text).and_then(|template| template.render(&variables())).expect("rendered").to_yaml();
    for line in ["replicas: 3\n", "A: \"demo\"\n", "B: \"3\"\n", "C: false\n"] {
        assert!(yaml.contains(line), "{line} in {yaml}");
    }
    let like_numbers = Variables { name: "007".into(), domain: "true".into(), ..variables() };
    let text = "services: {back: {image: x, environment: {A: {{ name }}, B: {{ domain }}}}}\n";
    let yaml = template(text).and_then(|template| template.render(&like_numbers)).expect("rendered").to_yaml();
    assert!(yaml.contains("A: \"007\"\n") && yaml.contains("B: \"true\"\n"), "{yaml}");
}

#[test]
fn loops_and_conditions_shape_the_document() {
    let text = "services:\n  back: {image: x}\n{% for n in range(2) %}\n  worker-{{ n }}:\n    image: x\n    environment: {N: {{ n }}}\n{% endfor %}\n\
                {% if fixtures %}\n  seed: {image: x}\n{% endif %}\n";
    let template = template(text).expect("a template");
    let document = template.render(&variables()).expect("rendered");
    assert_eq!(document.services(), ["back", "worker-0", "worker-1"]);
    let stack = stack(&document).expect("translated");
    assert_eq!(stack.services[2].env["N"], "1");
    let document = template.render(&Variables { fixtures: true, ..variables() }).expect("rendered");
    assert_eq!(document.services().last(), Some(&"seed"));
}

#[test]
fn what_is_not_defined_is_an_error_with_its_line() {
    for (value, line, said) in [
        ("{{ nothing }}", 6, "`nothing`: there is no such value"),
        ("{{ back.nothing }}", 6, "`back.nothing`: there is no such value"),
        ("{{ back.nothing.more }}", 6, "there is no such value"),
        ("{{ hosts.none }}", 6, "there is no such value"),
        ("\n        {{ nothing }}", 7, "there is no such value"),
        ("{% if nothing %}{% endif %}", 6, "there is no such value"),
        ("{{ hosts }}", 6, "cannot be put in"),
        ("{{ none }}", 6, "the value is none"),
        ("{{ name | nothing }}", 6, "nothing"),
        ("{{ nothing | upper }}", 6, ""),
        ("{{ nothing() }}", 6, "nothing"),
        ("{{ debug() }}", 6, "debug"),
        ("{% set x %}{{ name }}{% endset %}{{ x[:20] }}", 6, "not cut"),
    ] {
        let text = format!("services:\n  back:\n    image: x\n    environment: {{A: {value}}}\n");
        let (file, at, reason) = refusal(template(&text).and_then(|template| template.render(&variables())));
        assert_eq!((file.as_str(), at), ("templates/shop.yml", line), "{value}: {reason}");
        assert!(reason.contains(said), "{value}: {reason}");
    }
}

#[test]
fn what_is_not_closed_is_an_error_with_its_line() {
    for (text, line) in
        [("\n{{ name", 4), ("{% if name %}\n", 3), ("{{ name + }}", 3), ("{% nothing %}", 3), ("{# ", 3)]
    {
        let (file, at, reason) = refusal(template(text));
        assert_eq!((file.as_str(), at), ("templates/shop.yml", line), "{text}: {reason}");
        assert!(reason.starts_with("syntax error: "), "{text}: {reason}");
    }
}

#[test]
fn lines_are_those_of_the_template() {
    // The loop makes the rendered text longer, the condition makes it shorter.
    let text = "services:\n{% for n in range(5) %}\n  s{{ n }}:\n    image: x\n{% endfor %}\n{%- if fixtures %}\n  a: {image: x}\n  b: {image: x}\n{% endif %}\n\
                \n  back:\n    image: {{ name }}\n    nothing: 1\n";
    let document = template(text).and_then(|template| template.render(&variables())).expect("rendered");
    let (file, line, reason) = refusal(stack(&document));
    assert_eq!((file.as_str(), line), ("templates/shop.yml", 15), "{reason}");

    let text = "services:\n{% for n in range(2) %}\n  s{{ n }}:\n    nothing: 1\n    image: x\n{% endfor %}\n  back: {image: x}\n";
    let document = template(text).and_then(|template| template.render(&variables())).expect("rendered");
    let (_, line, reason) = refusal(stack(&document));
    assert_eq!(line, 6);
    assert!(reason.contains("services.s0.nothing") && reason.contains("line 6: services.s1.nothing"), "{reason}");
}

#[test]
fn rendering_without_end_is_stopped() {
    for text in [
        "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 'x' * 1000000000 }}",
        "{% set ns = namespace(x='xxxxxxxx') %}{% for a in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{% for a in range(10000) %}{{ 'x' * 10000 }}{% endfor %}",
        // Text that was captured is a short token to the engine, whatever it stands for.
        "{% set x %}{{ 'x' * 1000000 }}{% endset %}{% for a in range(100000) %}{{ x }}{% endfor %}",
        "{% set x %}{{ 'x' * 1000000 }}{% endset %}{% for a in range(100000) %}{% if x | length == 1 %}{% endif %}{% endfor %}",
        "\na: &a {{ 'x' * 1000000 }}\nb: [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a, *a, *a]",
        "{{ 'x' | indent(100000000) }}",
        "{{ '%100000000d' | format(1) }}",
    ] {
        let started = std::time::Instant::now();
        let (_, _, reason) =
            refusal(template(&format!("# {text}\n")).and_then(|template| template.render(&variables())));
        assert!(!reason.is_empty());
        assert!(started.elapsed() < Duration::from_secs(20), "{text}: {:?}: {reason}", started.elapsed());
    }
}

#[test]
fn variables_are_put_in_before_values() {
    let interpolation = BTreeMap::from([("HOME".to_owned(), "outside".to_owned())]);
    let variables = Variables { name: "${HOME}$HOME$$".into(), interpolation, ..variables() };
    let env = env("A: '{{ name }}'\nB: ${HOME}-{{ name }}\nC: ${NONE:-{{ name }}}\n", &variables);
    assert_eq!(env["A"], "${HOME}$HOME$$");
    assert_eq!(env["B"], "outside-${HOME}$HOME$$");
    assert_eq!(env["C"], "${HOME}$HOME$$");
}
