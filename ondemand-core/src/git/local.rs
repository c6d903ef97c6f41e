//! Repositories of this machine.

use std::path::{Path, PathBuf};

use git2::{ErrorCode, Reference};

use super::{Branch, Commit, Failure, Found, Repository};

/// Looks into a repository below a directory, on a thread where it may block.
pub(super) async fn look(directory: PathBuf, repository: Repository, branch: Option<Branch>) -> Result<Found, Failure> {
    tokio::task::spawn_blocking(move || look_blocking(&directory, &repository, branch))
        .await
        .unwrap_or_else(|e| Err(Failure::lasting(e)))
}

fn look_blocking(directory: &Path, repository: &Repository, branch: Option<Branch>) -> Result<Found, Failure> {
    let plain = directory.join(repository.as_str());
    let bare = directory.join(format!("{repository}.git"));
    // Opened as bare, so that whose the files are does not matter: their content is never run or checked out here.
    let tries = [(&bare, bare.clone()), (&plain, plain.join(".git")), (&plain, plain.clone())];
    let mut found = None;
    for (path, inside) in tries {
        match git2::Repository::open_bare(inside) {
            Ok(repository) => {
                found = Some((path, repository));
                break;
            }
            Err(e) if e.code() == ErrorCode::NotFound => {}
            Err(e) => return Err(Failure::lasting(e)),
        }
    }
    let (path, repository) = found.ok_or(Failure::NoRepository)?;
    let missing = |e: git2::Error| match e.code() {
        ErrorCode::NotFound | ErrorCode::UnbornBranch => Failure::NoBranch,
        _ => Failure::lasting(e),
    };
    let reference: Reference<'_> = match &branch {
        Some(branch) => repository.find_reference(&format!("refs/heads/{branch}")),
        None => repository.head(),
    }
    .and_then(|reference| reference.resolve())
    .map_err(missing)?;
    let branch = if let Some(branch) = branch {
        branch
    } else {
        let name = reference.name().map_err(Failure::lasting)?;
        name.strip_prefix("refs/heads/").and_then(|name| Branch::new(name).ok()).ok_or(Failure::NoBranch)?
    };
    let commit = reference.peel_to_commit().map_err(missing)?.id().to_string();
    let commit = Commit::new(commit).map_err(Failure::lasting)?;
    let url = reqwest::Url::from_file_path(path).map_err(|()| Failure::lasting("its path is not absolute"))?;
    Ok(Found { branch, commit, url: url.into() })
}
