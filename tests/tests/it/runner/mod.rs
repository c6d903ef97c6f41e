//! The script that clones, builds and starts a service, in the shells it is made for, from a real Git server.

mod cache;
mod place;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use ondemand_core::Secret;
use ondemand_tests::forge::{Fault, Part};
use ondemand_tests::{Forge, eventually};
use rustix::process::{Signal, kill_process_group};

use place::{Place, REPOSITORY, SCRIPT, SHELLS};

/// Makes a server with a repository of one commit, and a token that may read it.
async fn forge() -> Result<(Forge, String, Secret)> {
    let forge = Forge::start().await?;
    let commit =
        forge.push(REPOSITORY, "main", &[("greeting", "hello\n"), ("app/greeting", "hello from below\n")]).await?;
    let token = forge.token("alice", &[REPOSITORY]);
    Ok((forge, commit, token))
}

/// Fails if any file below a directory holds the token, but for the one that brought it.
fn keeps_no_token(directory: &Path, token: &Secret) -> Result<usize> {
    let mut seen = 0;
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            seen += keeps_no_token(&path, token)?;
        } else if path.file_name().is_some_and(|name| name != "token") && path.is_file() {
            let content = std::fs::read(&path)?;
            ensure!(!contains(&content, token.expose()), "{} holds the token", path.display());
            seen += 1;
        }
    }
    Ok(seen)
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

#[tokio::test]
async fn a_commit_is_cloned_built_and_started_and_the_status_is_kept() -> Result<()> {
    let (forge, commit, token) = forge().await?;
    // What was pushed since is not what was asked for.
    forge.push(REPOSITORY, "main", &[("greeting", "something else\n")]).await?;
    for shell in SHELLS {
        let mut place = Place::new(shell, &forge, &commit, Some(&token))?;
        place.set("ONDEMAND_BUILD", "tr a-z A-Z <greeting >loud");
        place.set("ONDEMAND_RUN", "cat loud; pwd; exit 7");
        let ended = place.run().await?;
        ensure!(ended.code == Some(7), "{ended:?}");
        let source = place.path("source").canonicalize()?;
        ensure!(ended.output == format!("HELLO\n{}\n", source.display()), "{ended:?}");
        let short = &commit[..7];
        for line in [
            &format!("[ondemand] cloning shop/back-web at {short}\n"),
            "[ondemand] building: tr a-z A-Z <greeting >loud\n",
            "[ondemand] starting: cat loud; pwd; exit 7\n",
        ] {
            ensure!(ended.log.contains(line), "{line} {ended:?}");
        }
        ensure!(!ended.log.contains("git:"), "Git has something to say: {ended:?}");
        // Without a command, the arguments are it, in a directory below.
        place.env.remove("ONDEMAND_RUN");
        place.set("ONDEMAND_SUBDIRECTORY", "app");
        place.arguments = ["sh", "-c", "cat loud; exit \"$0\"", "9"].map(Into::into).to_vec();
        let ended = place.run().await?;
        ensure!((ended.code, &*ended.output) == (Some(9), "HELLO FROM BELOW\n"), "{ended:?}");
        place.arguments = vec!["no-such-program".into()];
        ensure!(place.run().await?.code == Some(127));
    }
    Ok(())
}

#[tokio::test]
async fn a_token_that_may_not_read_it_is_told_from_a_repository_that_is_not_there() -> Result<()> {
    let (forge, commit, token) = forge().await?;
    let stranger = forge.token("bob", &[]);
    let revoked = forge.token("alice", &[REPOSITORY]);
    forge.revoke(&revoked);
    for shell in SHELLS {
        for (token, said) in [
            (Some(&revoked), "the server does not let this token read shop/back-web"),
            (Some(&stranger), "shop/back-web does not exist, or may not be read with this token"),
            (None, "shop/back-web does not exist, or cannot be read without a token"),
        ] {
            let mut place = Place::new(shell, &forge, &commit, token)?;
            place.set("ONDEMAND_RUN", "touch started");
            let ended = place.run().await?;
            ensure!(ended.code == Some(91) && ended.log.contains(&format!("[ondemand] error: {said}")), "{ended:?}");
            ensure!(!place.path("source/started").exists());
            if let Some(token) = token {
                ensure!(!ended.log.contains(token.expose()), "the token is shown");
                ensure!(keeps_no_token(place.directory.path(), token)? > 3);
            }
        }
        // What a server says is shown, but not the token.
        forge.fail(Part::Git, &Fault::Says(500, format!("{0} is no good, nor is {0}", token.expose())), 1);
        let mut place = Place::new(shell, &forge, &commit, Some(&token))?;
        place.set("ONDEMAND_RUN", "true");
        let ended = place.run().await?;
        ensure!(
            ended.code == Some(91) && ended.log.contains("git: remote: **** is no good, nor is ****\n"),
            "{ended:?}"
        );
        ensure!(keeps_no_token(place.directory.path(), &token)? > 3);
    }
    Ok(())
}

#[tokio::test]
async fn a_commit_that_vanished_is_named_and_a_branch_leads_to_old_ones() -> Result<()> {
    // Slow: each shell clones a dozen times, from a new forge.
    for shell in SHELLS {
        for old in [false, true] {
            let (forge, first, token) = forge().await?;
            for n in 0..3 {
                forge.push(REPOSITORY, "main", &[("number", &n.to_string())]).await?;
            }
            forge.push(REPOSITORY, "main", &[("greeting", "later\n")]).await?;
            if old {
                forge.grow_old();
            }
            let mut place = Place::new(shell, &forge, &first, Some(&token))?;
            place.set("ONDEMAND_RUN", "cat greeting");
            let ended = place.run().await?;
            ensure!((ended.code, &*ended.output) == (Some(0), "hello\n"), "old: {old}: {ended:?}");
            // Where its branch is gone, another leads to it.
            forge.push(REPOSITORY, "other", &[]).await?;
            forge.delete_branch(REPOSITORY, "main").await?;
            place = Place::new(shell, &forge, &first, Some(&token))?;
            place.set("ONDEMAND_RUN", "cat greeting");
            ensure!(place.run().await?.output == "hello\n");
            // Where none does, that is said.
            let rewritten = forge.push(REPOSITORY, "rewritten", &[("greeting", "never seen\n")]).await?;
            forge.push(REPOSITORY, "other", &[]).await?;
            forge.amend(REPOSITORY, "rewritten").await?;
            place = Place::new(shell, &forge, &rewritten, Some(&token))?;
            place.set("ONDEMAND_BRANCH", "rewritten");
            place.set("ONDEMAND_RUN", "true");
            let said = format!("error: commit {} is no longer in shop/back-web: rewritten was", &rewritten[..7]);
            let ended = place.run().await?;
            ensure!(ended.code == Some(91) && ended.log.contains(&said), "rewritten, old: {old}: {ended:?}");
            forge.delete_branch(REPOSITORY, "rewritten").await?;
            let ended = place.run().await?;
            ensure!(ended.code == Some(91) && ended.log.contains(&said), "deleted, old: {old}: {ended:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_build_that_fails_keeps_its_status_and_is_tried_again_from_clean_files() -> Result<()> {
    let (forge, commit, token) = forge().await?;
    for shell in SHELLS {
        let mut place = Place::new(shell, &forge, &commit, Some(&token))?;
        place.set(
            "ONDEMAND_BUILD",
            "test ! -e left && touch left && echo x >>greeting && echo one >>../builds && exit 42",
        );
        place.set("ONDEMAND_RUN", "touch ../started");
        for _ in 0..2 {
            let ended = place.run().await?;
            ensure!(ended.code == Some(42), "{ended:?}");
            ensure!(ended.log.contains("[ondemand] error: the build failed with status 42\n"), "{ended:?}");
        }
        ensure!(place.read("builds") == "one\none\n" && !place.path("started").exists());
    }
    Ok(())
}

#[tokio::test]
async fn what_was_built_is_not_built_again() -> Result<()> {
    let (forge, commit, token) = forge().await?;
    let later = forge.push(REPOSITORY, "main", &[("greeting", "hello again\n")]).await?;
    for shell in SHELLS {
        let mut place = Place::new(shell, &forge, &commit, Some(&token))?;
        place.set("ONDEMAND_BUILD", "echo one >>../builds; cat greeting >built");
        place.set("ONDEMAND_RUN", "cat built; exit 3");
        ensure!(place.run().await?.code == Some(3));
        // Not even the server is needed.
        forge.fail_always(Part::Git, Fault::Status(500));
        let ended = place.run().await?;
        ensure!((ended.code, &*ended.output) == (Some(3), "hello\n"), "{ended:?}");
        ensure!(ended.log.contains(&format!("shop/back-web at {} is built already", &commit[..7])), "{ended:?}");
        ensure!(place.read("builds") == "one\n");
        forge.mend();
        // Another commit is another build, and so is another command; each from clean files.
        place.set("ONDEMAND_COMMIT", &later);
        ensure!(place.run().await?.output == "hello again\n");
        place.set("ONDEMAND_BUILD", "test ! -e built; cp greeting built; echo two >>../builds; rm -rf .git");
        ensure!(place.run().await?.output == "hello again\n");
        // A build may remove what it takes for Git's.
        ensure!(place.run().await?.output == "hello again\n");
        ensure!(place.read("builds") == "one\none\ntwo\n", "{}", place.read("builds"));
    }
    Ok(())
}

#[tokio::test]
async fn signals_reach_a_build_and_all_it_started() -> Result<()> {
    let (forge, commit, token) = forge().await?;
    for shell in SHELLS {
        for (signal, name, own) in [
            (Signal::TERM, "TERM", 143),
            (Signal::INT, "INT", 143),
            (Signal::QUIT, "QUIT", 143),
            (Signal::HUP, "HUP", 129),
        ] {
            // One that has something to say, and one that has not, with a child of its own.
            for (build, code) in [
                ("trap 'echo told; exit 3' TERM HUP; touch ../started; while :; do sleep 0.02; done", 3),
                ("sh -c 'echo $$ >../child; touch ../started; exec sleep 1000'; echo never", own),
            ] {
                let mut place = Place::new(shell, &forge, &commit, Some(&token))?;
                place.set("ONDEMAND_BUILD", build);
                place.set("ONDEMAND_RUN", "touch ../run");
                let running = place.start()?;
                place.sees("started").await?;
                running.signal(signal)?;
                let ended = running.end().await?;
                ensure!(ended.code == Some(code), "{shell:?} SIG{name} {build}: {ended:?}");
                ensure!(ended.log.contains(&format!("[ondemand] stopped by SIG{name} while building")), "{ended:?}");
                ensure!(ended.output.contains("told") == (code == 3) && !ended.output.contains("never"), "{ended:?}");
                if code == own {
                    // One that has ended may still be waited for by whoever adopted it; then it has no arguments any more.
                    let line = Path::new("/proc").join(place.read("child").trim()).join("cmdline");
                    eventually(async || match std::fs::read_to_string(&line) {
                        Ok(left) if !left.is_empty() => Err(format!("its child is left: {left}")),
                        _ => Ok(()),
                    })
                    .await?;
                }
                ensure!(!place.path("run").exists(), "it was started all the same");
                // It does not count as built.
                place.set("ONDEMAND_RUN", "cat greeting");
                std::fs::remove_file(place.path("started"))?;
                let running = place.start()?;
                place.sees("started").await?;
                kill_process_group(running.pid, Signal::KILL)?;
                ensure!(running.end().await?.signal == Some(9));
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_build_that_is_killed_is_done_again() -> Result<()> {
    let (forge, commit, token) = forge().await?;
    for shell in SHELLS {
        let mut place = Place::new(shell, &forge, &commit, Some(&token))?;
        let build =
            "test ! -e half || exit 1; touch half; touch ../started; test -e ../go || exec sleep 1000; touch whole";
        place.set("ONDEMAND_BUILD", build);
        place.set("ONDEMAND_RUN", "ls");
        let running = place.start()?;
        place.sees("started").await?;
        kill_process_group(running.pid, Signal::KILL)?;
        ensure!(running.end().await?.signal == Some(9));
        // As a Git that was killed leaves it.
        std::fs::write(place.path("source/.git/index.lock"), "")?;
        std::fs::write(place.path("go"), "")?;
        let ended = place.run().await?;
        ensure!((ended.code, &*ended.output) == (Some(0), "app\ngreeting\nhalf\nwhole\n"), "{ended:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_hangs_does_not_keep_it_from_ending() -> Result<()> {
    let (forge, commit, token) = forge().await?;
    forge.fail_always(Part::Git, Fault::Hang);
    for shell in SHELLS {
        let mut place = Place::new(shell, &forge, &commit, Some(&token))?;
        place.set("ONDEMAND_RUN", "true");
        let before = forge.asked().len();
        let running = place.start()?;
        eventually(async || if forge.asked().len() > before { Ok(()) } else { Err("not asked") }).await?;
        running.signal(Signal::TERM)?;
        let ended = running.end().await?;
        ensure!(ended.code == Some(143), "{ended:?}");
        ensure!(ended.log.contains("stopped by SIGTERM while cloning shop/back-web"), "{ended:?}");
    }
    Ok(())
}

#[tokio::test]
async fn whatever_a_shell_takes_for_a_command_is_run_as_it_runs_it() -> Result<()> {
    let (forge, commit, token) = forge().await?;
    for shell in SHELLS {
        let mut place = Place::new(shell, &forge, &commit, Some(&token))?;
        place.set("WORD", "two words");
        for (run, code, output) in [
            ("cat greeting | tr h H", 0, "Hello\n"),
            ("cd app && cat greeting", 0, "hello from below\n"),
            ("echo *", 0, "app greeting\n"),
            ("X=1 Y=\"$WORD\" printenv X Y", 0, "1\ntwo words\n"),
            ("X=$WORD printenv X", 0, "two words\n"),
            ("X=1 exec printenv X", 0, "1\n"),
            ("printf '%s;' \"$WORD\"", 0, "two words;"),
            ("if cat no-such-file 2>/dev/null; then exit 1; else exit 4; fi", 4, ""),
            ("! true", 1, ""),
            ("X=1", 0, ""),
            ("no-such-program", 127, ""),
        ] {
            place.set("ONDEMAND_RUN", run);
            let ended = place.run().await?;
            ensure!((ended.code, &*ended.output) == (Some(code), output), "{shell:?} {run}: {ended:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_service_takes_the_place_of_the_script() -> Result<()> {
    let (forge, commit, token) = forge().await?;
    for shell in SHELLS {
        for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
            let mut place = Place::new(shell, &forge, &commit, Some(&token))?;
            let run =
                "trap 'echo bye; exit 5' TERM INT HUP; echo $$ >../pid; touch ../started; while :; do sleep 0.02; done";
            place.set("ONDEMAND_RUN", run);
            let running = place.start()?;
            place.sees("started").await?;
            let pid = running.pid.as_raw_nonzero().get();
            ensure!(place.read("pid").trim() == pid.to_string(), "the service is another process");
            running.signal(signal)?;
            let ended = running.end().await?;
            ensure!((ended.code, &*ended.output) == (Some(5), "bye\n"), "{ended:?}");
            // A program without a shell is it, too; nothing keeps signals from it.
            std::fs::remove_file(place.path("started"))?;
            place.set("ONDEMAND_BUILD", "touch ../started");
            place
                .set("ONDEMAND_RUN", if signal == Signal::TERM { " STAGE=test  sleep \"1000\"" } else { "sleep 1000" });
            let running = place.start()?;
            let program = PathBuf::from(format!("/proc/{}/cmdline", running.pid.as_raw_nonzero()));
            eventually(async || match std::fs::read_to_string(&program) {
                Ok(line) if line == "sleep\x001000\0" => Ok(()),
                other => Err(other),
            })
            .await?;
            running.signal(signal)?;
            let ended = running.end().await?;
            ensure!(ended.signal == Some(signal.as_raw()), "{ended:?}");
        }
    }
    Ok(())
}

/// Looks at the arguments and variables of every process, again and again, until it is told to stop; returns what showed the
/// token, and how many processes of Git it saw.
fn watch(token: &Secret, stop: &AtomicBool) -> (Vec<String>, usize) {
    let (mut shown, mut gits) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
            let (line, env) = (read("cmdline"), read("environ"));
            gits += usize::from(line.starts_with(b"git\0"));
            for bytes in [&line, &env] {
                if contains(bytes, token.expose()) {
                    shown.push(String::from_utf8_lossy(&line).into_owned());
                }
            }
        }
    }
    (shown, gits)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_nowhere_but_in_its_file() -> Result<()> {
    let (forge, commit, token) = forge().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let watching = {
        let (stop, token) = (stop.clone(), token.clone());
        std::thread::spawn(move || watch(&token, &stop))
    };
    for shell in SHELLS {
        let mut place = Place::new(shell, &forge, &commit, Some(&token))?;
        place.set("ONDEMAND_CACHE_DIR", place.path("cache").display());
        place.set(
            "ONDEMAND_BUILD",
            "env >../build-env; set >../build-set; sleep 0.3; git log -1 --format=%H; git config --list",
        );
        place.set("ONDEMAND_RUN", "env; set; sleep 0.3");
        let ended = place.run().await?;
        ensure!(ended.code == Some(0) && ended.output.contains(&commit), "{ended:?}");
        ensure!(!ended.output.contains(token.expose()) && !ended.log.contains(token.expose()), "the token is shown");
        ensure!(keeps_no_token(place.directory.path(), &token)? > 10);
        ensure!(place.read("build-env").contains("ONDEMAND_COMMIT="));
        // Nor is there anything that would get it for a build.
        ensure!(!ended.output.contains("credential") && !ended.output.contains("GIT_"), "{ended:?}");
    }
    stop.store(true, Ordering::Relaxed);
    let (shown, gits) = watching.join().expect("it does not panic");
    ensure!(shown.is_empty(), "{shown:?}");
    ensure!(gits > 0, "no Git was seen, so this shows nothing");
    Ok(())
}

#[tokio::test]
async fn an_empty_token_file_is_as_good_as_none() -> Result<()> {
    let (forge, commit, _) = forge().await?;
    for shell in SHELLS {
        for content in ["", "\n"] {
            let mut place = Place::new(shell, &forge, &commit, Some(&Secret::new("")))?;
            std::fs::write(place.path("token"), content)?;
            place.set("ONDEMAND_RUN", "true");
            let ended = place.run().await?;
            ensure!(ended.code == Some(91) && ended.log.contains("cannot be read without a token"), "{ended:?}");
        }
    }
    forge.publish(REPOSITORY);
    for shell in SHELLS {
        let mut place = Place::new(shell, &forge, &commit, Some(&Secret::new("")))?;
        place.set("ONDEMAND_RUN", "git rev-parse HEAD");
        let ended = place.run().await?;
        ensure!(ended.code == Some(0) && ended.output.contains(&commit), "{ended:?}");
    }
    Ok(())
}

#[tokio::test]
async fn variables_are_read_from_files_for_build_and_service() -> Result<()> {
    let (forge, commit, token) = forge().await?;
    for shell in SHELLS {
        let mut place = Place::new(shell, &forge, &commit, Some(&token))?;
        let value = "two words $HOME `id` \"quoted\" 'single' \\\nand a line";
        std::fs::write(place.path("password"), format!("{value}\n"))?;
        std::fs::write(place.path("url"), "postgres://u:p@h/d")?;
        place.set("DB_PASSWORD_FILE", place.path("password").display());
        place.set("DATABASE_URL_FILE", place.path("url").display());
        place.set("ONDEMAND_FILE_VARIABLES", "DB_PASSWORD, DATABASE_URL\nDATABASE_URL");
        place.set("ONDEMAND_BUILD", "printf %s \"$DB_PASSWORD\" >../seen");
        place.set("ONDEMAND_RUN", "sh -c 'printf %s \"$DB_PASSWORD$DATABASE_URL\"'");
        let ended = place.run().await?;
        ensure!(ended.output == format!("{value}postgres://u:p@h/d"), "{ended:?}");
        ensure!(place.read("seen") == value && !ended.log.contains("quoted"));
        // A new value is read when it is started again.
        std::fs::write(place.path("url"), "changed")?;
        ensure!(place.run().await?.output == format!("{value}changed"));
        for (names, said) in [
            ("NOT_THERE", "NOT_THERE_FILE is not set"),
            ("X;id", "no name of a variable"),
            ("9X", "no name of a variable"),
            ("*", "no name of a variable"),
            ("od_url", "are taken"),
        ] {
            place.set("ONDEMAND_FILE_VARIABLES", names);
            let ended = place.run().await?;
            ensure!(ended.code == Some(90) && ended.log.contains(said), "{names}: {ended:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused() -> Result<()> {
    let (forge, commit, token) = forge().await?;
    for shell in SHELLS {
        for (name, value) in [
            ("ONDEMAND_REPOSITORY_URL", ""),
            ("ONDEMAND_REPOSITORY_URL", "https://git.example/shop/web\n-x"),
            ("ONDEMAND_REPOSITORY_URL", "--upload-pack=touch x"),
            ("ONDEMAND_REPOSITORY_URL", "ext::sh -c touch% x"),
            ("ONDEMAND_REPOSITORY_URL", "https://me:secret-word@git.example/shop/web"),
            ("ONDEMAND_REPOSITORY_URL", "https://git.example/shop/\"web"),
            ("ONDEMAND_REPOSITORY_URL", "shop/web"),
            ("ONDEMAND_COMMIT", ""),
            ("ONDEMAND_COMMIT", "main"),
            ("ONDEMAND_COMMIT", "0123456"),
            ("ONDEMAND_COMMIT", "--help"),
            ("ONDEMAND_BRANCH", "-x"),
            ("ONDEMAND_BRANCH", "a:b"),
            ("ONDEMAND_BRANCH", "a\nb"),
            ("ONDEMAND_TOKEN_FILE", "/nowhere/token"),
            ("ONDEMAND_TOKEN_FILE", "/dev/null"),
            ("ONDEMAND_TOKEN_FILE", SCRIPT),
            ("ONDEMAND_SUBDIRECTORY", "../other"),
            ("ONDEMAND_SUBDIRECTORY", "app/../../x"),
            ("ONDEMAND_SUBDIRECTORY", "/etc"),
            ("ONDEMAND_SUBDIRECTORY", "not-there"),
            ("ONDEMAND_RUN", ""),
            ("ONDEMAND_WORKSPACE", "/proc/workspace"),
            ("ONDEMAND_WORKSPACE", "/etc"),
        ] {
            let mut place = Place::new(shell, &forge, &commit, Some(&token))?;
            place.set("ONDEMAND_RUN", "touch ../started");
            place.set(name, value);
            let ended = place.run().await?;
            ensure!(ended.code == Some(90) && ended.log.contains("[ondemand] error: "), "{name}={value}: {ended:?}");
            ensure!(!ended.log.contains("secret-word") && !place.path("started").exists(), "{ended:?}");
        }
        ensure!(!Path::new("/etc/.git").exists());
        // Somebody's files are not cleaned away.
        let mut place = Place::new(shell, &forge, &commit, Some(&token))?;
        place.set("ONDEMAND_RUN", "true");
        std::fs::create_dir(place.path("source"))?;
        std::fs::write(place.path("source/.mine"), "")?;
        let ended = place.run().await?;
        ensure!(ended.code == Some(90) && place.path("source/.mine").exists(), "{ended:?}");
    }
    Ok(())
}
