//! What is kept from one clone to the next, by runners that may not trust each other.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::place::{Place, REPOSITORY, SHELLS};
use super::{forge, keeps_no_token};

/// Returns the only pack of a cache, which is that of a commit.
fn only_pack(cache: &Path, commit: &str) -> Result<PathBuf> {
    let packs = std::fs::read_dir(cache.join("git"))?.flatten().next().context("a repository's packs")?.path();
    let mut names: Vec<_> = std::fs::read_dir(&packs)?.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    ensure!(names == [format!("{commit}.pack").as_str(), "lock"], "{names:?}");
    Ok(packs.join(&names[0]))
}

/// The newest commit takes the place of the one before, of which it has what has not changed.
#[tokio::test]
async fn a_cache_is_filled_with_what_differs() -> Result<()> {
    for shell in SHELLS {
        let (forge, first, token) = forge().await?;
        let cache = tempfile::tempdir()?;
        let place = |commit: &str| {
            let mut place = Place::new(shell, &forge, commit, Some(&token))?;
            place.set("ONDEMAND_CACHE_DIR", cache.path().display());
            place.set("ONDEMAND_RUN", "cat greeting app/greeting; git fsck --connectivity-only; git count-objects -v");
            anyhow::Ok(place)
        };
        let ended = place(&first)?.run().await?;
        ensure!(ended.code == Some(0) && ended.output.starts_with("hello\nhello from below\n"), "{ended:?}");
        // A commit, two directories, two files.
        ensure!(ended.output.contains("count: 5\n"), "fetched: {ended:?}");
        only_pack(cache.path(), &first)?;
        let second = forge
            .push(REPOSITORY, "main", &[("greeting", "good day\n"), ("app/greeting", "hello from below\n")])
            .await?;
        let ended = place(&second)?.run().await?;
        ensure!(ended.code == Some(0) && ended.output.starts_with("good day\nhello from below\n"), "{ended:?}");
        // Of the first, its five; fetched were a commit, a directory and a file.
        ensure!(ended.output.contains("count: 3\n") && ended.output.contains("in-pack: 5\n"), "{ended:?}");
        only_pack(cache.path(), &second)?;
        let ended = place(&second)?.run().await?;
        ensure!(ended.log.contains("taking shop/back-web from the cache"), "{ended:?}");
        ensure!(ended.output.contains("count: 0\n") && ended.output.contains("in-pack: 5\n"), "{ended:?}");
    }
    Ok(())
}

/// Whoever may write to a cache must not get at what others clone with, nor pass off other files as theirs.
#[tokio::test]
async fn what_others_put_into_a_cache_is_neither_run_nor_taken_for_something_else() -> Result<()> {
    for shell in SHELLS {
        let (forge, commit, token) = forge().await?;
        let other = forge.push(REPOSITORY, "evil", &[("greeting", "something else\n")]).await?;
        let cache = tempfile::tempdir()?;
        let place = |commit: &str| {
            let mut place = Place::new(shell, &forge, commit, Some(&token))?;
            place.set("ONDEMAND_CACHE_DIR", cache.path().display());
            place.set("ONDEMAND_RUN", "cat greeting");
            anyhow::Ok(place)
        };
        ensure!(place(&other)?.run().await?.output == "something else\n");
        let pack = only_pack(cache.path(), &other)?;
        let packs = pack.parent().context("a directory")?;
        // Another commit's pack by the name of the one that is wanted.
        std::fs::rename(&pack, packs.join(format!("{commit}.pack")))?;
        // A repository, whose settings have Git run a program at each change of a reference and each look at a file.
        let stolen = cache.path().join("stolen");
        let hook = format!("#!/bin/sh\ncat \"$ONDEMAND_TOKEN_FILE\" >>{}\n", stolen.display());
        ondemand_tests::run(std::process::Command::new("git").args(["init", "--quiet", "--bare"]).arg(packs)).await?;
        for name in ["reference-transaction", "post-checkout", "post-index-change", "fsmonitor"] {
            let path = packs.join("hooks").join(name);
            std::fs::create_dir_all(packs.join("hooks"))?;
            std::fs::write(&path, &hook)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        }
        let settings = format!("[core]\n\thooksPath = {0}/hooks\n\tfsmonitor = {0}/hooks/fsmonitor\n", packs.display());
        std::fs::write(packs.join("config"), settings)?;
        let ended = place(&commit)?.run().await?;
        ensure!((ended.code, &*ended.output) == (Some(0), "hello\n"), "{ended:?}");
        ensure!(ended.log.contains("is broken, and is made anew"), "{ended:?}");
        let ended = place(&commit)?.run().await?;
        ensure!(ended.output == "hello\n" && ended.log.contains("from the cache"), "{ended:?}");
        ensure!(!stolen.exists(), "{}", std::fs::read_to_string(&stolen)?);
        // A link leads nowhere.
        std::fs::rename(packs, cache.path().join("elsewhere"))?;
        std::os::unix::fs::symlink(cache.path().join("elsewhere"), packs)?;
        let ended = place(&commit)?.run().await?;
        ensure!(ended.output == "hello\n" && ended.log.contains("is another user's"), "{ended:?}");
    }
    Ok(())
}

#[tokio::test]
async fn runners_share_a_cache_and_clone_once() -> Result<()> {
    let (forge, commit, token) = forge().await?;
    for shell in SHELLS {
        let cache = tempfile::tempdir()?;
        let places: Vec<Place> = (0..3)
            .map(|_| {
                let mut place = Place::new(shell, &forge, &commit, Some(&token))?;
                place.set("ONDEMAND_CACHE_DIR", cache.path().display());
                place.set("ONDEMAND_RUN", "cat greeting");
                Ok(place)
            })
            .collect::<Result<_>>()?;
        let fetched = || forge.asked().iter().filter(|asked| asked.path.ends_with("/info/refs")).count();
        let before = fetched();
        let ended = futures_util::future::join_all(places.iter().map(Place::run)).await;
        for ended in ended {
            let ended = ended?;
            ensure!((ended.code, &*ended.output) == (Some(0), "hello\n"), "{ended:?}");
        }
        // Asked without the token first, then with it.
        ensure!(fetched() == before + 2, "{} requests", fetched() - before);
        ensure!(keeps_no_token(cache.path(), &token)? >= 2);
        // A pack that is broken is done without, and made anew.
        for (content, is_broken) in [(None, false), (Some("PACK"), true), (Some(""), true)] {
            let pack = only_pack(cache.path(), &commit)?;
            let whole = std::fs::read(&pack)?;
            if let Some(content) = content {
                std::fs::write(&pack, content)?;
            }
            std::fs::remove_dir_all(places[0].path("source"))?;
            let before = fetched();
            let ended = places[0].run().await?;
            ensure!((ended.code, &*ended.output) == (Some(0), "hello\n"), "{ended:?}");
            ensure!((fetched() > before) == is_broken, "{} requests", fetched() - before);
            ensure!(ended.log.contains("the cache of shop/back-web is broken") == is_broken, "{ended:?}");
            ensure!(ended.log.contains("taking shop/back-web from the cache") != is_broken, "{ended:?}");
            ensure!(std::fs::read(only_pack(cache.path(), &commit)?)? == whole, "the same files make the same pack");
        }
        // So is one that cannot be written.
        let mut place = Place::new(shell, &forge, &commit, Some(&token))?;
        place.set("ONDEMAND_CACHE_DIR", "/proc/cache");
        place.set("ONDEMAND_RUN", "cat greeting");
        let ended = place.run().await?;
        ensure!(ended.output == "hello\n" && ended.log.contains("the cache cannot be written"), "{ended:?}");
        // One in the workspace outlives its cleaning.
        place.set("ONDEMAND_CACHE_DIR", place.path("source/.cache").display());
        std::fs::remove_dir_all(place.path("source"))?;
        place.set("ONDEMAND_BUILD", "true");
        std::fs::create_dir_all(place.path("source/.cache"))?;
        std::fs::write(place.path("source/.cache/kept"), "")?;
        ensure!(place.run().await?.output == "hello\n" && place.path("source/.cache/kept").exists());
    }
    Ok(())
}
