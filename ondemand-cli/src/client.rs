//! Asks the server.

use std::net::IpAddr;
use std::time::Duration;

use ondemand_core::Code;
use ondemand_http::wire::Problem;
use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::arguments::Global;
use crate::failure::{Failure, UNREACHABLE};
use crate::token::{self, Token};

/// A server, and what it takes to ask it.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<Token>,
    /// Whether requests carry the token as a header; else whoever makes them puts it into their bodies.
    bearer: bool,
    /// Whether the program can be given the server's own token.
    takes_own: bool,
}

impl Client {
    /// Makes a client of the server that the options name, which sends that server's own token.
    pub(crate) fn new(global: &Global) -> Result<Self, Failure> {
        Self::with_token(&global.url, global.token.as_deref().and_then(Token::own))
    }

    /// Makes a client of a server that sends a token.
    pub(crate) fn with_token(url: &str, token: Option<Token>) -> Result<Self, Failure> {
        let base = Url::parse(url)
            .map_err(|e| e.to_string())
            .and_then(|url| if url.cannot_be_a_base() || !url.has_host() { Err("no host".into()) } else { Ok(url) })
            .map_err(|e| {
                Failure::new(format!("--url or ONDEMAND_URL is not the URL of a server: {e}"))
                    .with_hint("write it as http://HOST:PORT")
                    .with_exit(2)
            })?;
        let mut builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .tcp_keepalive(Duration::from_secs(60))
            .user_agent(concat!("ondemand/", env!("CARGO_PKG_VERSION")));
        // What is on this machine is not reached through a proxy, even if the environment names one for the rest.
        let local = |host: &str| host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if base.host_str().is_some_and(|host| local(host.trim_matches(['[', ']']))) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|e| Failure::caused("preparing to ask the server", &e))?;
        // Found out here, or it would be taken for a connection that broke. It is not repeated.
        if token.as_ref().is_some_and(|token| HeaderValue::from_bytes(token.text.expose().as_bytes()).is_err()) {
            return Err(Failure::new("the token holds a line break or another control character")
                .with_hint("check what ONDEMAND_TOKEN, GITHUB_TOKEN or the option holds")
                .with_exit(2));
        }
        Ok(Self { http, base, token, bearer: true, takes_own: true })
    }

    /// Leaves the token to whoever writes the bodies of requests.
    pub(crate) fn with_token_in_body(self) -> Self {
        Self { bearer: false, ..self }
    }

    /// Tells that no option of the program is for the server's own token.
    pub(crate) fn without_own_token(self) -> Self {
        Self { takes_own: false, ..self }
    }

    /// Begins a request for the resource at these segments.
    pub(crate) fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) if self.bearer => request.bearer_auth(token.text.expose()),
            _ => request,
        }
    }

    /// Sends a request, and returns the answer if it is a good one.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|e| self.unanswered(e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.bytes().await.unwrap_or_default();
        Err(match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => self.refused(problem),
            // Something between here and the server, or no server of ours.
            Err(_) => Failure::new(format!("{} answers {status}", self.name()))
                .with_hint("check that --url or ONDEMAND_URL names an ondemand server"),
        })
    }

    /// Sends a request, and reads the answer.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let response = self.send(request).await?;
        let body = response.bytes().await.map_err(|e| self.unanswered(e))?;
        serde_json::from_slice(&body).map_err(|e| {
            Failure::caused(format!("the answer of {} is not understood", self.name()), &e)
                .with_hint("check that --url or ONDEMAND_URL names an ondemand server of this version")
        })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, segments: &[&str]) -> Result<T, Failure> {
        self.ask(self.request(Method::GET, segments)).await
    }

    pub(crate) async fn delete<T: DeserializeOwned>(&self, segments: &[&str]) -> Result<T, Failure> {
        self.ask(self.request(Method::DELETE, segments)).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.ask(self.request(Method::POST, segments).json(body)).await
    }

    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.ask(self.request(Method::PUT, segments).json(body)).await
    }

    pub(crate) async fn patch<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.ask(self.request(Method::PATCH, segments).json(body)).await
    }

    /// Explains why the server does not do it.
    pub(crate) fn refused(&self, problem: Problem) -> Failure {
        let hint =
            (problem.code == Code::Unauthenticated).then(|| token::hint(&problem, self.token.as_ref(), self.takes_own));
        let failure = Failure::from(problem);
        match hint {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }

    /// Returns what the server is called in messages; a password in the URL is none of their business.
    fn name(&self) -> String {
        let mut url = self.base.clone();
        if url.set_username("").and_then(|()| url.set_password(None)).is_err() {
            return "the server".into();
        }
        url.as_str().trim_end_matches('/').to_owned()
    }

    /// Explains why there is no answer.
    pub(crate) fn unanswered(&self, error: reqwest::Error) -> Failure {
        let connecting = error.is_connect();
        // The message names the server already.
        let error = error.without_url();
        // Only the last cause says something to people: `Connection refused`.
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        if connecting {
            return Failure::caused(format!("no server answers at {}", self.name()), cause)
                .with_hint("start one with `ondemand serve`, or say where it is with --url or ONDEMAND_URL")
                .with_exit(UNREACHABLE);
        }
        Failure::caused(format!("the connection to {} broke", self.name()), cause).with_exit(UNREACHABLE)
    }
}
