//! Templates on disk, and what they include.

use super::*;

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).expect("written");
    path
}

const SERVICES: &str = "services:\n  back: {image: x}\n";

#[test]
fn a_directory_holds_templates_by_name() {
    let directory = tempfile::tempdir().expect("a directory");
    write(directory.path(), "shop.yml", &format!("{SECTION}{SERVICES}"));
    write(directory.path(), "Blog_2.yaml", &format!("{SECTION}{SERVICES}"));
    write(directory.path(), "_parts.yml", "not: a template");
    write(directory.path(), "README.md", "nor this");
    let files = Template::files(directory.path()).expect("read");
    assert_eq!(files.keys().collect::<Vec<_>>(), ["Blog_2", "shop"]);
    assert!(Template::load(&files["shop"]).expect("read").render(&variables()).is_ok());

    write(directory.path(), "shop.yaml", &format!("{SECTION}{SERVICES}"));
    assert!(matches!(Template::files(directory.path()), Err(Error::Conflict { .. })));
}

#[test]
fn what_is_no_template_is_told_with_its_file() {
    let directory = tempfile::tempdir().expect("a directory");
    assert!(matches!(Template::load(directory.path().join("none.yml")), Err(Error::NotFound { .. })));
    assert!(matches!(Template::files(directory.path().join("none")), Err(Error::NotFound { .. })));
    let path = write(directory.path(), "a.yml", SERVICES);
    let (file, _, reason) = refusal(Template::load(&path));
    assert_eq!(file, path.display().to_string());
    assert!(reason.contains("no section `x-ondemand:`"), "{reason}");
    std::fs::write(&path, [0xff]).expect("written");
    assert!(refusal(Template::load(&path)).2.contains("not UTF-8"));
    std::fs::write(&path, "#".repeat((1 << 20) + 1)).expect("written");
    assert!(refusal(Template::load(&path)).2.contains("more than 1024 KiB"));
}

#[test]
fn files_of_the_directory_can_be_included() {
    let root = tempfile::tempdir().expect("a directory");
    let directory = root.path().join("templates");
    std::fs::create_dir_all(directory.join("parts")).expect("made");
    write(&directory, "parts/worker.yml", "  worker:\n    image: {{ name }}\n");
    write(&directory, "parts/broken.yml", "  broken:\n    image: x\n    nothing: 1\n");
    write(&directory, "parts/undefined.yml", "\n  worker: {image: {{ nothing }}}\n");
    write(&directory, "macros.j2", "{% macro host(x) %}{{ x }}.local{% endmacro %}");
    write(root.path(), "outside.yml", "  outside: {image: x}\n");
    std::os::unix::fs::symlink("../outside.yml", directory.join("link.yml")).expect("linked");

    let path = write(&directory, "shop.yml", &format!("{SECTION}{SERVICES}{{% include 'parts/worker.yml' %}}\n"));
    let document = Template::load(&path).and_then(|template| template.render(&variables())).expect("rendered");
    assert_eq!(document.services(), ["back", "worker"]);
    assert_eq!(stack(&document).expect("translated").services[1].image.as_deref(), Some("demo"));

    let including = |name: &str| {
        let path = write(&directory, "shop.yml", &format!("{SECTION}{SERVICES}{{% include '{name}' %}}\n"));
        Template::load(path).and_then(|template| template.render(&variables())).and_then(|document| stack(&document))
    };
    let (file, line, reason) = refusal(including("parts/broken.yml"));
    assert!(file.ends_with("templates/parts/broken.yml"), "{file}");
    assert_eq!((line, reason.as_str()), (3, "services.broken.nothing: this key is not supported"));
    let (file, line, _) = refusal(including("parts/undefined.yml"));
    assert!(file.ends_with("templates/parts/undefined.yml"), "{file}");
    assert_eq!(line, 2);
    for (name, said) in [
        ("none.yml", "no such file"),
        ("../outside.yml", "within the directory"),
        ("parts/../../outside.yml", "within the directory"),
        ("/etc/passwd", "within the directory"),
        ("link.yml", "leaves the directory"),
        ("shop.yml", ""),
    ] {
        let (file, _, reason) = refusal(including(name));
        assert!(file.ends_with("templates/shop.yml") && reason.contains(said), "{name}: {file}: {reason}");
    }

    let text = "{% from 'macros.j2' import host %}services:\n  back: {image: x, hostname: {{ host(name) }}}\n";
    let path = write(&directory, "shop.yml", &format!("{SECTION}{text}"));
    let document = Template::load(path).and_then(|template| template.render(&variables())).expect("rendered");
    let stack = stack(&document).expect("translated");
    assert_eq!(stack.services[0].container.hostname.as_deref(), Some("demo.local"));
}
