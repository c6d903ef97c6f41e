//! The proxies that are compared: each with one worker, and configured as someone would who wants it to be fast.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ondemand_tests::ports::free_port;
use ondemand_tests::{Home, eventually, server};

use crate::client::{Answer, Connection, get};
use crate::process::Process;

/// The body of the upstream's answer to small requests.
pub(crate) const BODY: &str =
    "A body of one hundred bytes, which is about what a small answer of an interface in JSON has to say..\n";

/// The host whose bodies are streamed.
pub(crate) const BULK: &str = "bulk.localhost";
/// The host whose connections are upgraded.
pub(crate) const SOCKETS: &str = "sockets.localhost";

/// On how many addresses the upstream of small requests listens.
const UPSTREAM_ADDRESSES: u8 = 10;

/// Where requests end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upstreams {
    /// Where small requests are answered, on loopback's addresses 2 to 11.
    pub(crate) small: u16,
    pub(crate) bulk: SocketAddr,
    pub(crate) sockets: SocketAddr,
}

impl Upstreams {
    /// Returns one of the addresses that answer small requests.
    pub(crate) fn small(&self, number: usize) -> SocketAddr {
        #[expect(clippy::cast_possible_truncation, reason = "it is below their number")]
        let number = (number % usize::from(UPSTREAM_ADDRESSES)) as u8;
        (Ipv4Addr::new(127, 0, 0, 2 + number), self.small).into()
    }
}

/// A proxy that runs.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
    /// Where its routes are set, where it has such a place.
    pub(crate) api: Option<SocketAddr>,
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// What every nginx here begins with.
fn nginx_conf(home: &Home, name: &str, http: &str) -> String {
    let dir = home.path().display();
    // Workers of a master that is root become another user, who could not write here.
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {dir}/{name}-{kind};\n"))
        .concat();
    format!(
        "daemon off;\n{user}worker_processes 1;\npid {dir}/{name}.pid;\nerror_log stderr crit;\n\
         events {{ worker_connections 60000; }}\n\
         http {{\n{temporary}  access_log off;\n  keepalive_requests 1000000000;\n{http}}}\n"
    )
}

fn nginx(home: &Home, name: &str, http: &str) -> Result<Process> {
    let conf = home.file(&format!("{name}.conf"), nginx_conf(home, name, http))?;
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-e").arg("stderr").arg("-p").arg(home.path()).arg("-c").arg(conf);
    Process::start(home, name, &command)
}

/// Starts the upstream of small requests, and returns it with its port.
pub(crate) async fn upstream(home: &Home) -> Result<(Process, u16)> {
    let port = free_port();
    let listen = (0..UPSTREAM_ADDRESSES).fold(String::new(), |mut text, number| {
        let _ = writeln!(text, "    listen 127.0.0.{}:{port};", 2 + number);
        text
    });
    let body = BODY.trim_end();
    let http = format!(
        "  default_type text/plain;\n  server {{\n{listen}    location / {{ return 200 \"{body}\\n\"; }}\n  }}\n"
    );
    let process = nginx(home, "upstream", &http)?;
    answers((Ipv4Addr::new(127, 0, 0, 2), port).into(), "app-00000.localhost").await?;
    Ok((process, port))
}

/// Waits until a request is answered as the upstream answers it.
async fn answers(address: SocketAddr, host: &str) -> Result<()> {
    let expected = Answer { status: 200, body: BODY.into() };
    eventually(async || {
        let answer = Connection::open(address).await?.exchange(&get(host)).await?;
        ensure!(answer == expected, "{answer:?}");
        Ok(())
    })
    .await
}

impl Peer {
    /// Starts nginx: HTTP/1.1 and keep-alive to upstreams, buffers of its own defaults, and bodies streamed where they are large.
    pub(crate) async fn nginx(home: &Home, upstreams: &Upstreams) -> Result<Self> {
        let address = loopback();
        let (small, bulk, sockets) = (upstreams.small(0), upstreams.bulk, upstreams.sockets);
        let http = format!(
            "  server_names_hash_bucket_size 64;
  upstream small {{ server {small}; keepalive 128; keepalive_requests 1000000000; }}
  upstream bulk {{ server {bulk}; keepalive 16; keepalive_requests 1000000000; }}
  upstream sockets {{ server {sockets}; }}
  proxy_http_version 1.1;
  proxy_set_header Connection \"\";
  proxy_set_header Host $http_host;
  proxy_set_header X-Forwarded-For $remote_addr;
  proxy_set_header X-Forwarded-Proto $scheme;
  proxy_set_header X-Forwarded-Host $http_host;
  proxy_set_header Forwarded \"for=$remote_addr;host=\\\"$http_host\\\";proto=$scheme\";
  server {{ listen {address} default_server; return 404; }}
  server {{ listen {address}; server_name app-00000.localhost; location / {{ proxy_pass http://small; }} }}
  server {{
    listen {address};
    server_name {BULK};
    client_max_body_size 0;
    proxy_buffering off;
    proxy_request_buffering off;
    location / {{ proxy_pass http://bulk; }}
    location /large-buffers/ {{ proxy_buffer_size 64k; proxy_buffers 8 64k; client_body_buffer_size 64k; proxy_pass http://bulk; }}
  }}
  server {{
    listen {address};
    server_name {SOCKETS};
    location / {{
      proxy_pass http://sockets;
      proxy_read_timeout 1h;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection upgrade;
      proxy_set_header Host $http_host;
    }}
  }}
"
        );
        let process = nginx(home, &format!("nginx-{}", address.port()), &http)?;
        Self { name: "nginx", address, process, api: None }.ready().await
    }

    /// Starts HAProxy with one thread.
    pub(crate) async fn haproxy(home: &Home, upstreams: &Upstreams) -> Result<Self> {
        let address = loopback();
        let (small, bulk, sockets) = (upstreams.small(0), upstreams.bulk, upstreams.sockets);
        let conf = format!(
            "global
  nbthread 1
defaults
  mode http
  http-reuse always
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  option forwardfor
frontend all
  bind {address}
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(Host)]
  use_backend bulk if {{ hdr(host) -i {BULK} }}
  use_backend sockets if {{ hdr(host) -i {SOCKETS} }}
  use_backend small if {{ hdr(host) -i app-00000.localhost }}
backend small
  server one {small} pool-max-conn 128
backend bulk
  server one {bulk}
backend sockets
  server one {sockets}
"
        );
        let conf = home.file("haproxy.cfg", conf)?;
        let mut command = Command::new("/usr/sbin/haproxy");
        command.arg("-db").arg("-f").arg(conf);
        let process = Process::start(home, "haproxy", &command)?;
        Self { name: "HAProxy", address, process, api: None }.ready().await
    }

    /// Starts Caddy on one processor.
    pub(crate) async fn caddy(home: &Home, upstreams: &Upstreams) -> Result<Self> {
        let address = loopback();
        let port = address.port();
        let sites = [("app-00000.localhost", upstreams.small(0)), (BULK, upstreams.bulk), (SOCKETS, upstreams.sockets)]
            .map(|(host, upstream)| {
                format!(
                    "http://{host}:{port} {{\n\tbind 127.0.0.1\n\treverse_proxy {upstream} {{\n\t\ttransport http {{\n\
                     \t\t\tkeepalive_idle_conns_per_host 128\n\t\t\tcompression off\n\t\t}}\n\t}}\n}}\n"
                )
            })
            .concat();
        let conf = format!(
            "{{\n\tadmin off\n\tauto_https off\n\tlog {{\n\t\toutput stderr\n\t\tlevel ERROR\n\t}}\n}}\n{sites}"
        );
        let conf = home.file("Caddyfile", conf)?;
        let mut command = Command::new("/usr/bin/caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(conf).env("GOMAXPROCS", "1");
        for variable in ["XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
            command.env(variable, home.path());
        }
        let process = Process::start(home, "caddy", &command)?;
        Self { name: "Caddy", address, process, api: None }.ready().await
    }

    /// Starts this project's proxy with one worker, and gives it as many routes to the upstream of small requests as are asked for.
    pub(crate) async fn ours(home: &Home, upstreams: &Upstreams, routes: usize) -> Result<Self> {
        let (address, api) = (loopback(), loopback());
        let name = format!("ondemand-{}", api.port());
        let mut command = ours(&address, &api, &home.path().join(&name));
        command.env("TMPDIR", home.path());
        let process = Process::start(home, &name, &command)?;
        eventually(async || Connection::open(api).await).await.with_context(|| process.log())?;
        let peer = Self { name: "ondemand", address, process, api: Some(api) };
        let mut routes_api = Routes::open(api).await?;
        for number in 0..routes {
            routes_api.set(&format!("app-{number:05}.localhost"), upstreams.small(number)).await?;
        }
        routes_api.set(BULK, upstreams.bulk).await?;
        routes_api.set(SOCKETS, upstreams.sockets).await?;
        peer.ready().await
    }

    async fn ready(self) -> Result<Self> {
        answers(self.address, "app-00000.localhost").await.with_context(|| self.process.log())?;
        Ok(self)
    }
}

fn ours(address: &SocketAddr, api: &SocketAddr, data_dir: &Path) -> Command {
    let mut command = server::program();
    command.args(["proxy", "--listen", &api.to_string(), "--proxy-listen", &address.to_string()]);
    command.args(["--proxy-workers", "1", "--data-dir"]).arg(data_dir);
    command
}

/// The interface by which routes are set.
#[derive(Debug)]
pub(crate) struct Routes(Connection);

impl Routes {
    pub(crate) async fn open(api: SocketAddr) -> Result<Self> {
        Ok(Self(Connection::open(api).await?))
    }

    /// Makes a host reach an upstream.
    pub(crate) async fn set(&mut self, host: &str, upstream: SocketAddr) -> Result<()> {
        self.change("PUT", host, &format!("{{\"upstream\":\"{upstream}\"}}")).await
    }

    /// Makes a host unknown.
    pub(crate) async fn delete(&mut self, host: &str) -> Result<()> {
        self.change("DELETE", host, "").await
    }

    async fn change(&mut self, method: &str, host: &str, body: &str) -> Result<()> {
        let length = body.len();
        let request = format!(
            "{method} /routes/{host} HTTP/1.1\r\nHost: api.localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let answer = self.0.exchange(request.as_bytes()).await?;
        let text = String::from_utf8_lossy(&answer.body);
        ensure!((200..300).contains(&answer.status), "{method} {host}: {} {text}", answer.status);
        Ok(())
    }
}
