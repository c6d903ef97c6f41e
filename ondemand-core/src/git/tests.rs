use proptest::prelude::*;

use super::advertisement::{Greeting, greeting, question, references};
use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef01234567";

fn lines(lines: &[&str]) -> Vec<u8> {
    let line = |line: &&str| if line.is_empty() { "0000".into() } else { format!("{:04x}{line}", line.len() + 4) };
    lines.iter().map(line).collect::<String>().into_bytes()
}

fn branch(name: &str) -> Branch {
    Branch::new(name).expect(name)
}

#[test]
fn repositories_are_what_github_allows() {
    for (given, name) in [("shop/back-web", "shop/back-web"), ("Shop_eu/a.b_c.git", "Shop_eu/a.b_c"), ("1/2", "1/2")] {
        assert_eq!(Repository::new(given).expect(given).as_str(), name);
    }
    for given in [
        "",
        "shop",
        "/",
        "shop/",
        "/web",
        "shop/web/",
        "a/b/c",
        "../web",
        "shop/..",
        "shop/a..b",
        "-shop/web",
        "shop/-web",
        "shop/.web",
        "shop/.git",
        "shop/web.git.git",
        "shop/we b",
        "shop/wéb",
        "shop/web\n",
        "shop/web?x",
        "shop/%2e",
    ] {
        assert!(Repository::new(given).is_err(), "{given:?} is taken");
    }
    assert!(Repository::new(format!("shop/{}", "x".repeat(101))).is_err());
}

#[test]
fn branches_are_what_git_allows() {
    for name in ["main", "feature/checkout", "v1.2", "a@b", "été", "x#1", "feature/-x", "user/refs/heads/x", "$(id)"]
    {
        let said =
            std::process::Command::new("git").args(["check-ref-format", "--branch", name]).output().expect("git");
        assert!(said.status.success(), "git refuses {name:?}");
        assert_eq!(branch(name).as_str(), name);
    }
    for name in [
        "", "HEAD", "-x", "/x", "x/", "a//b", "a..b", "a.lock", "a.lock/b", ".a", "a/.b", "a.", "a@{1}", "a b", "a~1",
        "a^", "a:b", "a?", "a*", "a[", "a\\b", "a\nb", "a\x7f",
    ] {
        let said =
            std::process::Command::new("git").args(["check-ref-format", "--branch", name]).output().expect("git");
        assert!(!said.status.success(), "git takes {name:?}");
        assert!(Branch::new(name).is_err(), "{name:?} is taken");
    }
    // Git takes it for another word for HEAD.
    assert!(Branch::new("@").is_err());
    // Git takes it, and a Swarm would replace it.
    assert!(Branch::new("x{{.Node.Hostname}}").is_err());
    assert!(Branch::new("x{y}").is_ok());
    assert!(Branch::new("x".repeat(256)).is_err());
}

#[test]
fn commits_are_full_ids() {
    assert_eq!(Commit::new(ID).expect("an id").as_str(), ID);
    assert!(Commit::new("a".repeat(64)).is_ok());
    for id in ["", "0123456", &ID[1..], &ID.to_uppercase(), &ID.replace('0', "g")] {
        assert!(Commit::new(id).is_err(), "{id:?} is taken");
    }
}

#[test]
fn bases_are_servers_or_directories() {
    for base in
        ["", "github.com", "ssh://github.com", "https://me:secret@github.com", "file:relative?x", "https://a/?b"]
    {
        let error = Git::new(&GitOptions { base: base.into(), ..GitOptions::default() }).expect_err(base);
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
}

#[test]
fn the_old_protocol_tells_all_at_once() {
    let first = format!("{ID} HEAD\0multi_ack symref=HEAD:refs/heads/trunk agent=git/2\n");
    let (other, trunk) = ("f".repeat(40) + " refs/heads/trunk2\n", format!("{ID} refs/heads/trunk\n"));
    let body = lines(&["# service=git-upload-pack\n", "", &first, &trunk, &other, ""]);
    let find = |wanted: Option<&Branch>| match greeting(&body, wanted).expect("a greeting") {
        Greeting::References(references) => references.find(wanted).expect("ids"),
        other => panic!("{other:?}"),
    };
    assert_eq!(find(None), Some((branch("trunk"), Commit::new(ID).expect("an id"))));
    assert_eq!(find(Some(&branch("trunk"))), Some((branch("trunk"), Commit::new(ID).expect("an id"))));
    assert_eq!(find(Some(&branch("trunk2"))).map(|(_, commit)| commit.to_string()), Some("f".repeat(40)));
    assert_eq!(find(Some(&branch("trun"))), None);
}

#[test]
fn the_new_protocol_tells_what_is_asked() {
    let hello = lines(&["version 2\n", "agent=x\n", "object-format=sha256\n", ""]);
    assert_eq!(greeting(&hello, None), Ok(Greeting::Version2 { format: "sha256".into() }));
    let asked = String::from_utf8(question("sha1", Some(&branch("trunk")))).expect("text");
    assert_eq!(
        asked,
        "0014command=ls-refs\n0017object-format=sha1\n0001000csymrefs\n0020ref-prefix refs/heads/trunk\n0000"
    );
    let body = lines(&[&format!("{ID} HEAD symref-target:refs/heads/trunk\n"), ""]);
    let found = references(&body, None).and_then(|r| r.find(None));
    assert_eq!(found, Ok(Some((branch("trunk"), Commit::new(ID).expect("an id")))));
    // A HEAD that is on no branch names none.
    let detached = references(&lines(&[&format!("{ID} HEAD\n"), ""]), None).and_then(|r| r.find(None));
    assert_eq!(detached, Ok(None));
}

#[test]
fn an_answer_that_is_cut_off_is_no_answer() {
    let whole = lines(&[&format!("{ID} HEAD symref-target:refs/heads/trunk\n"), ""]);
    for end in 0..whole.len() {
        assert!(references(&whole[..end], None).is_err(), "{end} bytes are taken");
    }
}

proptest! {
    #[test]
    fn garbage_is_refused_without_a_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = greeting(&body, None);
        prop_assert!(references(&body, Some(&branch("x"))).and_then(|r| r.find(None)).map_or(true, |found| found.is_none()));
    }

    #[test]
    fn what_is_taken_for_a_branch_is_one_to_git(name in "[a-z./@{~^:*\\[ -]{1,12}") {
        if Branch::new(name.clone()).is_ok() {
            prop_assert!(git2::Branch::name_is_valid(&name).unwrap_or(false), "{:?}", name);
        }
    }
}

#[tokio::test]
async fn repositories_of_this_machine_are_read_whoever_owns_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path().join("shop/web");
    let made = git2::Repository::init_opts(&at, git2::RepositoryInitOptions::new().initial_head("trunk"))
        .expect("a repository");
    let git = Git::new(&GitOptions { base: format!("file://{}", directory.path().display()), ..GitOptions::default() });
    let git = git.expect("a base");
    let repository = Repository::new("shop/web").expect("a name");
    let empty = git.resolve(&repository, None, None).await.expect_err("it has no commit");
    assert_eq!(empty.to_string(), "branch \"shop/web@HEAD\" does not exist");
    let tree = made.find_tree(made.index().and_then(|mut i| i.write_tree()).expect("a tree")).expect("the tree");
    let who = git2::Signature::now("A", "a@example.org").expect("a name");
    let commit = made.commit(Some("HEAD"), &who, &who, "first", &tree, &[]).expect("a commit");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(at.join(".git"), Some(1234), Some(1234)).expect("another owner");
    }
    let found = git.resolve(&repository, None, None).await.expect("it is there");
    assert_eq!((found.branch.as_str(), found.commit.to_string()), ("trunk", commit.to_string()));
    assert_eq!(found.url, format!("file://{}", at.display()));
    let none = git.resolve(&repository, Some(&branch("other")), None).await.expect_err("no such branch");
    assert_eq!(none.to_string(), "branch \"shop/web@other\" does not exist");
    let none =
        git.resolve(&Repository::new("shop/app").expect("a name"), None, None).await.expect_err("no such repository");
    assert_eq!(none.to_string(), "repository \"shop/app\" does not exist");
}

#[test]
fn a_repository_of_this_host_has_a_path() {
    let at = |url: &str| Resolved {
        repository: Repository::new("shop/back").expect("a name"),
        branch: branch("main"),
        commit: ID.parse().expect("a commit"),
        url: url.to_owned(),
    };
    let path = at("file:///srv/my%20repos/l%C3%A4den/shop/back.git").local_path();
    assert_eq!(path.as_deref(), Some(std::path::Path::new("/srv/my repos/läden/shop/back.git")));
    assert_eq!(at("https://github.com/shop/back").local_path(), None);
}
