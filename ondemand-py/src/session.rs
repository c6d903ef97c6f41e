//! Asking a server.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use reqwest::header::{CONTENT_LENGTH, HeaderValue};
use reqwest::{Body, Method, Url};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::answer::{Reply, Undo};
use crate::lease::Holder;
use crate::stream::Stream;
use crate::wait::{NoAnswer, Outcome, awaitable, block};

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a session that nobody has any more goes on for what is still to be done.
const LAST: Duration = Duration::from_secs(60);

/// A server, what it takes to ask it, and a runtime with a thread of its own. It is of use to the process that made it, and not to one that was forked from that.
#[pyclass(frozen, module = "ondemand._native")]
pub(crate) struct Session {
    runtime: Option<Runtime>,
    server: Server,
    holder: Mutex<Option<Holder>>,
    /// What is still to be done when nobody has the session any more.
    last: TaskTracker,
}

/// Whom to ask, and how. Clones are one.
#[derive(Clone)]
pub(crate) struct Server {
    http: reqwest::Client,
    base: Url,
    token: Option<HeaderValue>,
    /// The addresses that have answered: a forked process has copies of the connections to them.
    peers: Arc<Mutex<BTreeSet<SocketAddr>>>,
}

/// A request, before anything of it was done.
pub(crate) struct Question {
    method: Method,
    path: String,
    body: Option<Vec<u8>>,
    file: Option<PathBuf>,
}

impl Server {
    fn new(url: &str, token: Option<&str>) -> PyResult<Self> {
        let bad = |why: String| PyValueError::new_err(format!("it is not the URL of a server: {why}"));
        let base = Url::parse(url).map_err(|e| bad(e.to_string()))?;
        if base.cannot_be_a_base() || !base.has_host() {
            return Err(bad("no host".to_owned()));
        }
        let mut token = token
            .map(|token| HeaderValue::try_from(format!("Bearer {token}")))
            .transpose()
            .map_err(|_| PyValueError::new_err("the token holds a line break or another control character"))?;
        if let Some(token) = &mut token {
            token.set_sensitive(true);
        }
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .tcp_keepalive(Duration::from_secs(60))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("ondemand-python/", env!("CARGO_PKG_VERSION")));
        // What is on this machine is not reached through a proxy, even if the environment names one for the rest.
        let local = |host: &str| host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if base.host_str().is_some_and(|host| local(host.trim_matches(['[', ']']))) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|e| PyRuntimeError::new_err(e.to_string()))?;
        Ok(Self { http, base, token, peers: Arc::default() })
    }

    /// Sends a request, and returns the answer as soon as it begins.
    pub(crate) async fn send(&self, question: Question) -> Outcome<reqwest::Response> {
        let bad = |e: &dyn std::fmt::Display| NoAnswer::Lost(format!("{}: {e}", question.path));
        let base = self.base.as_str().trim_end_matches('/');
        let url = Url::parse(&format!("{base}{}", question.path)).map_err(|e| bad(&e))?;
        let mut request = self.http.request(question.method.clone(), url);
        if let Some(token) = &self.token {
            request = request.header(reqwest::header::AUTHORIZATION, token.clone());
        }
        if let Some(path) = &question.file {
            let failed = |e: std::io::Error| NoAnswer::NoFile(e.to_string());
            let file = tokio::fs::File::open(path).await.map_err(failed)?;
            let length = file.metadata().await.map_err(failed)?.len();
            let stream = tokio_util::io::ReaderStream::with_capacity(file, 256 * 1024);
            request = request.header(CONTENT_LENGTH, length).body(Body::wrap_stream(stream));
        } else if let Some(body) = question.body {
            request = request.body(body);
        }
        let response = request.send().await.map_err(|e| NoAnswer::of(&e.without_url()))?;
        if let Some(peer) = response.remote_addr() {
            self.peers.lock().unwrap_or_else(PoisonError::into_inner).insert(peer);
        }
        Ok(response)
    }

    pub(crate) async fn ask(&self, question: Question) -> Outcome<Reply> {
        let response = self.send(question).await?;
        let status = response.status().as_u16();
        let body = response.bytes().await.map_err(|e| NoAnswer::of(&e.without_url()))?;
        Ok(Reply::new(status, body))
    }
}

impl Question {
    pub(crate) fn new(method: &str, path: String, body: Option<Vec<u8>>) -> PyResult<Self> {
        let method = method.parse().map_err(|_| PyValueError::new_err("it is no method of HTTP"))?;
        Ok(Self { method, path, body, file: None })
    }
}

impl Session {
    fn runtime(&self) -> PyResult<&Runtime> {
        self.runtime.as_ref().ok_or_else(|| PyRuntimeError::new_err("the session is closed"))
    }

    /// Asks. With `finish` the question is carried to its end, whoever still waits for the answer.
    fn asking(
        &self,
        question: Question,
        undo: Option<String>,
        finish: bool,
    ) -> PyResult<impl Future<Output = Outcome<Reply>> + Send + 'static + use<>> {
        let runtime = self.runtime()?.handle().clone();
        let (server, last) = (self.server.clone(), self.last.clone());
        Ok(async move {
            let undo = undo.map(|path| Undo::new(runtime.clone(), last.clone(), server.clone(), path));
            let asking = async move { Ok(server.ask(question).await?.or_undo(undo)) };
            if !finish {
                return asking.await;
            }
            let (tell, told) = oneshot::channel();
            // Where nobody waits any more the answer ends here, so that its undoing has begun when this is over.
            last.spawn_on(async { drop(tell.send(asking.await)) }, &runtime);
            told.await.unwrap_or_else(|e| Err(NoAnswer::Lost(e.to_string())))
        })
    }

    /// Holds a lease, unless it is held already.
    fn begin_to_hold(&self, id: &str) -> PyResult<impl Future<Output = Outcome<()>> + Send + 'static + use<>> {
        let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        if holder.as_ref().is_none_or(Holder::has_failed) {
            *holder = Some(Holder::start(self.runtime()?, self.server.clone(), id));
        }
        let held = holder.as_ref().map(Holder::held);
        held.ok_or_else(|| PyRuntimeError::new_err("the session is closed"))
    }
}

#[pymethods]
impl Session {
    #[new]
    #[pyo3(signature = (url, token=None))]
    fn new(url: &str, token: Option<&str>) -> PyResult<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("ondemand")
            .enable_all()
            .build()
            .map_err(|e| PyRuntimeError::new_err(format!("starting a thread: {e}")))?;
        Ok(Self {
            runtime: Some(runtime),
            server: Server::new(url, token)?,
            holder: Mutex::default(),
            last: TaskTracker::new(),
        })
    }

    /// Asks, and returns the answer. If that is of a success and nobody claims it, what `undo` says is asked to be deleted.
    #[pyo3(signature = (method, path, body=None, file=None, undo=None, finish=false))]
    #[expect(clippy::too_many_arguments, reason = "each is an argument of its own in Python")]
    fn request(
        &self,
        py: Python<'_>,
        method: &str,
        path: String,
        body: Option<Vec<u8>>,
        file: Option<PathBuf>,
        undo: Option<String>,
        finish: bool,
    ) -> PyResult<Py<PyAny>> {
        let question = Question { file, ..Question::new(method, path, body)? };
        block(py, self.runtime()?, self.asking(question, undo, finish)?)
    }

    #[pyo3(signature = (method, path, body=None, file=None, undo=None, finish=false))]
    #[expect(clippy::too_many_arguments, reason = "each is an argument of its own in Python")]
    fn request_async<'py>(
        &self,
        py: Python<'py>,
        method: &str,
        path: String,
        body: Option<Vec<u8>>,
        file: Option<PathBuf>,
        undo: Option<String>,
        finish: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let question = Question { file, ..Question::new(method, path, body)? };
        awaitable(py, self.runtime()?, self.asking(question, undo, finish)?)
    }

    #[pyo3(signature = (method, path, body=None))]
    fn open(&self, py: Python<'_>, method: &str, path: String, body: Option<Vec<u8>>) -> PyResult<Py<PyAny>> {
        let (server, question) = (self.server.clone(), Question::new(method, path, body)?);
        block(py, self.runtime()?, async move { server.send(question).await.map(Stream::new) })
    }

    #[pyo3(signature = (method, path, body=None))]
    fn open_async<'py>(
        &self,
        py: Python<'py>,
        method: &str,
        path: String,
        body: Option<Vec<u8>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (server, question) = (self.server.clone(), Question::new(method, path, body)?);
        awaitable(py, self.runtime()?, async move { server.send(question).await.map(Stream::new) })
    }

    fn read(&self, py: Python<'_>, stream: &Stream) -> PyResult<Py<PyAny>> {
        block(py, self.runtime()?, stream.next())
    }

    fn read_async<'py>(&self, py: Python<'py>, stream: &Stream) -> PyResult<Bound<'py, PyAny>> {
        awaitable(py, self.runtime()?, stream.next())
    }

    fn hold(&self, py: Python<'_>, id: &str) -> PyResult<Py<PyAny>> {
        let held = self.begin_to_hold(id)?;
        block(py, self.runtime()?, held)
    }

    fn hold_async<'py>(&self, py: Python<'py>, id: &str) -> PyResult<Bound<'py, PyAny>> {
        let held = self.begin_to_hold(id)?;
        awaitable(py, self.runtime()?, held)
    }

    /// Lets go of the lease.
    fn let_go(&self) {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Returns the addresses that have answered.
    fn peers(&self) -> Vec<(String, u16)> {
        let peers = self.server.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.iter().map(|peer| (peer.ip().to_string(), peer.port())).collect()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        self.last.close();
        if self.last.is_empty() {
            // Nobody waits for what is still under way, and Python is not held up.
            runtime.shutdown_background();
            return;
        }
        let last = self.last.clone();
        // Without a thread it is dropped, and ends at once.
        let waiting = std::thread::Builder::new().name("ondemand-last".to_owned()).spawn(move || {
            // Where this is too long, the lease ends what is left, or its time.
            drop(runtime.block_on(async { timeout(LAST, last.wait()).await }));
            runtime.shutdown_background();
        });
        drop(waiting);
    }
}
