//! A Git server over HTTP and the part of GitHub's REST API that is asked here, as GitHub documents them: real repositories,
//! served by Git's own `git http-backend`, behind tokens.

mod api;
mod cgi;
mod repositories;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use ondemand_core::Secret;

/// A forge of a test's own. What it serves and what it knows goes with it.
#[derive(Debug)]
pub struct Forge {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

/// Which half of the forge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Repositories.
    Git,
    /// The REST API.
    Api,
}

/// How a request is failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// There is never an answer.
    Hang,
    /// The answer is this status.
    Status(u16),
    /// The answer is this status and this text.
    Says(u16, String),
    /// The connection ends in the middle of an answer that is right so far.
    Cut,
    /// No more requests are taken until then, in seconds from now, as GitHub says it.
    RateLimit {
        /// How long.
        seconds: u64,
        /// Whether it is the secondary limit, which is said by `retry-after`.
        secondary: bool,
    },
    /// The answer is 200 and this text.
    Garbage(String),
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its method.
    pub method: String,
    /// Its path.
    pub path: String,
    /// What stood after the question mark.
    pub query: String,
    /// Its headers; those of a credential too.
    pub headers: HeaderMap,
}

#[derive(Debug)]
struct Shared {
    directory: tempfile::TempDir,
    state: Mutex<Known>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    tokens: BTreeMap<String, Token>,
    accounts: BTreeMap<String, Account>,
    public: BTreeSet<String>,
    faults: BTreeMap<Part, VecDeque<Fault>>,
    lasting: BTreeMap<Part, Fault>,
    old: bool,
    asked: Vec<Asked>,
}

#[derive(Debug, Clone)]
struct Token {
    login: String,
    may_read: BTreeSet<String>,
}

#[derive(Debug, Clone, Default)]
struct Account {
    id: u64,
    /// The state of each membership, by organisation.
    organisations: BTreeMap<String, String>,
}

impl Forge {
    /// Starts one on a free port of the loopback interface.
    ///
    /// # Errors
    /// If it cannot listen.
    pub async fn start() -> Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Starts one on an address.
    ///
    /// # Errors
    /// If it cannot listen there.
    pub async fn start_at(address: SocketAddr) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind(address).await.context("listening")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            directory: tempfile::tempdir()?,
            state: Mutex::default(),
            next: AtomicU64::new(583_231),
        });
        let app = axum::Router::new().fallback(answer).with_state(shared.clone());
        let server = tokio::spawn(async move {
            if let Err(e) = axum::serve(listener, app).await {
                eprintln!("forge: {e}");
            }
        });
        Ok(Self { address, shared, server })
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns what the URLs of its repositories begin with.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the URL of its REST API.
    pub fn api(&self) -> String {
        format!("http://{}/api/v3", self.address)
    }

    /// Makes a token of an account, which is made if it is not there, that may read these repositories.
    pub fn token(&self, login: &str, may_read: &[&str]) -> Secret {
        let account = self.account(login).id;
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let token = format!("ghp_{login}{account:08}x{number:012}Zq");
        let may_read = may_read.iter().map(|name| (*name).to_owned()).collect();
        self.shared.lock().tokens.insert(token.clone(), Token { login: login.to_owned(), may_read });
        Secret::new(token)
    }

    /// Takes a token back; one that has expired is answered in the same way.
    pub fn revoke(&self, token: &Secret) {
        self.shared.lock().tokens.remove(token.expose());
    }

    /// Makes an account a member of an organisation: `active`, or `pending` while it has only been invited.
    pub fn member(&self, login: &str, organisation: &str, state: &str) {
        self.account(login);
        let mut known = self.shared.lock();
        let account = known.accounts.entry(login.to_owned()).or_default();
        account.organisations.insert(organisation.to_owned(), state.to_owned());
    }

    /// Returns the number of an account, which is made if it is not there.
    pub fn account_id(&self, login: &str) -> u64 {
        self.account(login).id
    }

    /// Gives an account another name. Its number, and its tokens, stay.
    pub fn rename(&self, login: &str, new: &str) {
        let mut known = self.shared.lock();
        if let Some(account) = known.accounts.remove(login) {
            known.accounts.insert(new.to_owned(), account);
        }
        for token in known.tokens.values_mut().filter(|token| token.login == login) {
            new.clone_into(&mut token.login);
        }
    }

    /// Lets everyone read a repository.
    pub fn publish(&self, repository: &str) {
        self.shared.lock().public.insert(repository.to_owned());
    }

    /// Fails the next requests to a part of it.
    pub fn fail(&self, part: Part, fault: &Fault, times: usize) {
        let mut known = self.shared.lock();
        known.faults.entry(part).or_default().extend(std::iter::repeat_n(fault.clone(), times));
    }

    /// Fails all requests to a part of it, until [`Forge::mend`].
    pub fn fail_always(&self, part: Part, fault: Fault) {
        self.shared.lock().lasting.insert(part, fault);
    }

    /// Speaks the protocol of old servers from now on: all references at once, and no commit but what they point at.
    pub fn grow_old(&self) {
        self.shared.lock().old = true;
    }

    /// Fails no more.
    pub fn mend(&self) {
        let mut known = self.shared.lock();
        known.faults.clear();
        known.lasting.clear();
    }

    /// Returns all requests that came, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.lock().asked.clone()
    }

    fn account(&self, login: &str) -> Account {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let mut known = self.shared.lock();
        known.accounts.entry(login.to_owned()).or_insert_with(|| Account { id, ..Account::default() }).clone()
    }
}

impl Drop for Forge {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the fault that the next request to a part meets.
    fn fault(&self, part: Part) -> Option<Fault> {
        let mut known = self.lock();
        let next = known.faults.get_mut(&part).and_then(VecDeque::pop_front);
        next.or_else(|| known.lasting.get(&part).cloned())
    }

    /// Returns the token that a request brings: of a bearer, or the password of Basic.
    fn token(&self, headers: &HeaderMap) -> Credential {
        let Some(value) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
            return Credential::None;
        };
        let token = match value.split_once(' ') {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token") => {
                rest.to_owned()
            }
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("basic") => {
                let pair = base64::engine::general_purpose::STANDARD.decode(rest).unwrap_or_default();
                let pair = String::from_utf8_lossy(&pair).into_owned();
                pair.split_once(':').map(|(_, token)| token.to_owned()).unwrap_or_default()
            }
            _ => return Credential::Bad,
        };
        self.lock().tokens.get(&token).cloned().map_or(Credential::Bad, Credential::Good)
    }
}

/// What a request proves.
enum Credential {
    None,
    Bad,
    Good(Token),
}

/// Answers a request.
async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default().to_owned());
    let method = parts.method.to_string();
    let headers = parts.headers;
    shared.lock().asked.push(Asked {
        method: method.clone(),
        path: path.clone(),
        query: query.clone(),
        headers: headers.clone(),
    });
    let api = path.strip_prefix("/api/v3");
    let part = if api.is_some() { Part::Api } else { Part::Git };
    let fault = shared.fault(part);
    match fault {
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Status(status)) => return StatusCode::from_u16(status).unwrap_or_default().into_response(),
        Some(Fault::Says(status, text)) => {
            return (StatusCode::from_u16(status).unwrap_or_default(), text).into_response();
        }
        Some(Fault::RateLimit { seconds, secondary }) => return api::limited(seconds, secondary),
        Some(Fault::Garbage(text)) => return text.into_response(),
        Some(Fault::Cut) | None => {}
    }
    let response = match api {
        Some(path) => api::answer(&shared, &method, path, &headers),
        None => match axum::body::to_bytes(body, usize::MAX).await {
            Ok(body) => cgi::answer(&shared, &method, &path, &query, &headers, body).await,
            Err(e) => (StatusCode::BAD_REQUEST, e.to_string()).into_response(),
        },
    };
    if fault == Some(Fault::Cut) { cut(response).await } else { response }
}

/// Ends the connection after the first half of an answer.
async fn cut(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let whole = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    parts.headers.insert(header::CONTENT_LENGTH, whole.len().into());
    let half: Result<Bytes, std::io::Error> = Ok(whole.slice(..whole.len() / 2));
    let end = Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
    Response::from_parts(parts, Body::from_stream(futures_util::stream::iter([half, end])))
}
