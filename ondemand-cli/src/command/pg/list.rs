//! `ondemand pg list`.

use std::time::SystemTime;

use ondemand_http::wire::Server;

use crate::arguments::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::table::table;
use crate::{output, when};

/// Enough of an id for a person to tell ids apart.
const SHORT: usize = 12;

pub(crate) async fn run(global: &Global, client: &Client) -> Result<(), Failure> {
    let servers: Vec<Server> = client.get(&["servers"]).await?;
    if global.json {
        return output::json(&servers);
    }
    if servers.is_empty() {
        output::note("there are no databases; `ondemand pg create` makes one");
        return Ok(());
    }
    let now = SystemTime::now();
    let row = |server: Server| {
        let expires = when::relative(&server.expires_at, now);
        [
            server.id.chars().take(SHORT).collect(),
            server.name.trim_start_matches('/').to_owned(),
            server.snapshot,
            format!("{}:{}", server.host, server.port),
            format!("{:?}", server.status).to_lowercase(),
            expires,
        ]
    };
    let header = ["ID", "NAME", "SNAPSHOT", "ADDRESS", "STATUS", "EXPIRES"];
    output::line(table(header, servers.into_iter().map(row)))
}
