//! What the forge's repositories hold.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Forge, Shared};
use crate::run;

impl Shared {
    /// Returns the directory of all bare repositories.
    pub(super) fn repositories(&self) -> PathBuf {
        self.directory.path().join("repositories")
    }

    /// Returns where a bare repository is, or would be.
    pub(super) fn bare(&self, repository: &str) -> PathBuf {
        self.repositories().join(format!("{repository}.git"))
    }

    /// Returns where its files are edited.
    fn work(&self, repository: &str) -> PathBuf {
        self.directory.path().join("work").join(repository)
    }
}

/// Makes a command of Git that the settings of whoever runs the tests don't change.
fn git(directory: &std::path::Path, words: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(directory).args(words).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "Developer").env(format!("GIT_{role}_EMAIL"), "developer@example.org");
    }
    command
}

impl Forge {
    /// Returns the directory of its bare repositories, `OWNER/NAME.git`.
    pub fn repositories(&self) -> PathBuf {
        self.shared.repositories()
    }

    /// Commits files, with their content, to a branch, and pushes it: the repository is made if it is not there, the branch
    /// from what was pushed last. Files whose names end in `.sh` are executable. Returns the commit's id.
    ///
    /// # Errors
    /// Whatever Git says.
    pub async fn push(&self, repository: &str, branch: &str, files: &[(&str, &str)]) -> Result<String> {
        let (bare, work) = (self.shared.bare(repository), self.shared.work(repository));
        if !bare.is_dir() {
            std::fs::create_dir_all(&bare)?;
            std::fs::create_dir_all(&work)?;
            run(&mut git(&bare, &["init", "--quiet", "--bare", "--initial-branch", branch])).await?;
            run(&mut git(&work, &["init", "--quiet", "--initial-branch", branch])).await?;
        }
        // Not yet a branch before the first commit.
        let current = run(&mut git(&work, &["symbolic-ref", "--short", "HEAD"])).await?;
        if current.trim() != branch {
            let known = run(&mut git(&work, &["branch", "--list", "--format=%(refname:short)"])).await?;
            let switch: &[&str] = if known.lines().any(|name| name == branch) {
                &["switch", "--quiet", branch]
            } else {
                &["switch", "--quiet", "--create", branch]
            };
            run(&mut git(&work, switch)).await?;
        }
        for (name, content) in files {
            let file = work.join(name);
            std::fs::create_dir_all(file.parent().context("a file has a directory")?)?;
            std::fs::write(&file, content)?;
            if file.extension().is_some_and(|ending| ending == "sh") {
                use std::os::unix::fs::PermissionsExt;
                std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
            }
        }
        run(&mut git(&work, &["add", "--all"])).await?;
        run(&mut git(&work, &["commit", "--quiet", "--allow-empty", "--message", "Change it"])).await?;
        self.publish_branch(repository, branch).await?;
        Ok(run(&mut git(&work, &["rev-parse", "HEAD"])).await?.trim().to_owned())
    }

    /// Replaces the last commit of a branch by another, and forgets the old one at once, as GitHub does some day.
    ///
    /// # Errors
    /// Whatever Git says.
    pub async fn amend(&self, repository: &str, branch: &str) -> Result<String> {
        let (bare, work) = (self.shared.bare(repository), self.shared.work(repository));
        run(&mut git(&work, &["switch", "--quiet", branch])).await?;
        run(&mut git(&work, &["commit", "--quiet", "--amend", "--allow-empty", "--message", "Change it otherwise"]))
            .await?;
        self.publish_branch(repository, branch).await?;
        forget(&bare).await?;
        Ok(run(&mut git(&work, &["rev-parse", "HEAD"])).await?.trim().to_owned())
    }

    /// Deletes a branch, and at once forgets what only it led to.
    ///
    /// # Errors
    /// Whatever Git says.
    pub async fn delete_branch(&self, repository: &str, branch: &str) -> Result<()> {
        let bare = self.shared.bare(repository);
        run(&mut git(&bare, &["update-ref", "-d", &format!("refs/heads/{branch}")])).await?;
        forget(&bare).await
    }

    async fn publish_branch(&self, repository: &str, branch: &str) -> Result<()> {
        let bare = self.shared.bare(repository);
        let bare = bare.to_str().context("the path is no text")?;
        let to = format!("HEAD:refs/heads/{branch}");
        run(&mut git(&self.shared.work(repository), &["push", "--quiet", "--force", bare, &to])).await?;
        Ok(())
    }
}

async fn forget(bare: &std::path::Path) -> Result<()> {
    run(&mut git(bare, &["reflog", "expire", "--expire=now", "--all"])).await?;
    run(&mut git(bare, &["gc", "--quiet", "--prune=now"])).await?;
    Ok(())
}
