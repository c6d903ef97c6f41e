//! Repositories of a server, asked over HTTP.

use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url, redirect};

use super::advertisement::{self, Greeting};
use super::{Branch, Failure, Found, TOKEN_USER};
use crate::error::{Error, Result};
use crate::secret::Secret;

/// How long an answer may be: servers of the old protocol tell all their references, which may be hundreds of thousands.
const LONGEST: usize = 64 << 20;
/// How often a repository may have been moved.
const MOVES: usize = 3;

/// A Git server.
#[derive(Debug)]
pub(super) struct Server {
    http: Client,
}

impl Server {
    /// Prepares to ask it.
    pub(super) fn new(base: &Url, connect: Duration) -> Result<Self> {
        // A renamed repository answers with its new place, on the same server; a token goes to no other.
        let moved = redirect::Policy::custom(|attempt| {
            let here = attempt.previous().last().is_some_and(|from| from.origin() == attempt.url().origin());
            if here && attempt.previous().len() <= MOVES { attempt.follow() } else { attempt.stop() }
        });
        let http = crate::github::client(base, connect).redirect(moved).build();
        let http = http.map_err(|e| Error::backend(super::BACKEND, "preparing to ask the Git server", e))?;
        Ok(Self { http })
    }

    /// Asks for a branch, or for `HEAD`.
    pub(super) async fn look(
        &self,
        url: &Url,
        branch: Option<&Branch>,
        token: Option<&Secret>,
    ) -> Result<Found, Failure> {
        let ask = |request: RequestBuilder| {
            let request = request.header("git-protocol", "version=2");
            match token {
                Some(token) => request.basic_auth(TOKEN_USER, Some(token.expose())),
                None => request,
            }
        };
        let first = ask(self.http.get(format!("{url}/info/refs?service=git-upload-pack")));
        let response = send(first, token.is_some()).await?;
        expect(response.headers(), "application/x-git-upload-pack-advertisement")?;
        let place = response.url().clone();
        let said = read(response).await?;
        let references = match advertisement::greeting(&said, branch).map_err(Failure::lasting)? {
            Greeting::References(references) => references,
            Greeting::Refused(words) => return Err(Failure::lasting(words)),
            Greeting::Version2 { format } => {
                let mut place = place;
                place.set_query(None);
                let path = place.path().strip_suffix("/info/refs");
                let path = path.ok_or_else(|| Failure::lasting("it was moved to where no repository can be"))?;
                place.set_path(&format!("{path}/git-upload-pack"));
                let second = ask(self.http.post(place))
                    .header(CONTENT_TYPE, "application/x-git-upload-pack-request")
                    .header(ACCEPT, "application/x-git-upload-pack-result")
                    .body(advertisement::question(&format, branch));
                let response = send(second, token.is_some()).await?;
                expect(response.headers(), "application/x-git-upload-pack-result")?;
                advertisement::references(&read(response).await?, branch).map_err(Failure::lasting)?
            }
        };
        let found = references.find(branch).map_err(Failure::lasting)?;
        let (branch, commit) = found.ok_or(Failure::NoBranch)?;
        Ok(Found { branch, commit, url: url.to_string() })
    }
}

/// Sends a request, and returns the answer if it is a good one.
async fn send(request: RequestBuilder, with_token: bool) -> Result<Response, Failure> {
    let response = request.send().await.map_err(|e| Failure::transient(e.without_url()))?;
    let status = response.status();
    let busy = status == StatusCode::TOO_MANY_REQUESTS
        || (status == StatusCode::FORBIDDEN && response.headers().contains_key(RETRY_AFTER));
    match status {
        StatusCode::OK => Ok(response),
        StatusCode::UNAUTHORIZED if with_token => Err(Failure::Unauthenticated),
        StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND | StatusCode::GONE => Err(Failure::NoRepository),
        status if busy || status.is_server_error() => Err(Failure::transient(format!("it answers {status}"))),
        StatusCode::FORBIDDEN => Err(Failure::Forbidden),
        status => Err(Failure::lasting(format!("it answers {status}, as no Git server does; check the base URL"))),
    }
}

fn expect(headers: &HeaderMap, wanted: &str) -> Result<(), Failure> {
    if headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == wanted.as_bytes()) {
        return Ok(());
    }
    Err(Failure::lasting("the answer is not one of a Git server; check the base URL"))
}

async fn read(response: Response) -> Result<Vec<u8>, Failure> {
    match crate::github::read(response, LONGEST).await {
        Ok(Some(body)) => Ok(body),
        Ok(None) => Err(Failure::lasting("the answer is longer than any reasonable one")),
        Err(e) => Err(Failure::transient(e.without_url())),
    }
}
