//! `ondemand route list`.

use std::time::SystemTime;

use ondemand_http::wire::{Activity, Moment, Route};

use crate::arguments::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::table::table;
use crate::{output, when};

pub(crate) async fn run(global: &Global, client: &Client) -> Result<(), Failure> {
    let routes: Vec<Route> = client.get(&["routes"]).await?;
    if global.json {
        return output::json(&routes);
    }
    if routes.is_empty() {
        output::note("there are no routes; `ondemand route set HOST ADDRESS:PORT` makes one");
        return Ok(());
    }
    output::line(describe(routes, SystemTime::now()))
}

fn describe(routes: Vec<Route>, now: SystemTime) -> String {
    let row = |route: Route| {
        let status = if route.pending { "pending" } else { "ready" };
        let number =
            |of: fn(&Activity) -> u64| route.activity.as_ref().map(of).map(|n| n.to_string()).unwrap_or_default();
        let (in_flight, upgrades, requests) = (number(|a| a.in_flight), number(|a| a.upgrades), number(|a| a.requests));
        let last = route.activity.as_ref().and_then(|activity| activity.last_active);
        [
            route.host,
            route.upstreams.join(" "),
            format!("{:?}", route.protocol).to_lowercase(),
            status.into(),
            in_flight,
            upgrades,
            requests,
            last.map(|Moment(then)| when::ago(then, now)).unwrap_or_default(),
        ]
    };
    let header = ["HOST", "UPSTREAMS", "PROTOCOL", "STATUS", "IN FLIGHT", "UPGRADES", "REQUESTS", "LAST ACTIVE"];
    table(header, routes.into_iter().map(row))
}
