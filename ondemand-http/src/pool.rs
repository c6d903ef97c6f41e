//! `/pool`: how full the store is.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use ondemand_core::snapshot::Usage;
use ondemand_core::{Error, SnapshotStore};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::body::reply;
use crate::openapi::Problems;
use crate::problem::Problem;
use crate::wire;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(usage))
}

/// Tells how full the store is, and what each volume takes.
#[utoipa::path(get, path = "/pool", tag = "pool", security(("bearer" = []), ()), responses(
    (status = 200, description = "How full it is.", body = wire::Pool), Problems))]
async fn usage(State(store): State<Arc<dyn SnapshotStore>>) -> Result<Response, Problem> {
    let usage = store.usage().await?;
    Ok(reply(StatusCode::OK, &wire::Pool::from(usage)))
}

/// Writes how full the store is, as Prometheus reads it. A store that does not answer takes no new work, and nothing more is known of it.
pub(crate) fn metrics(usage: &Result<Usage, Error>) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, value: Option<u64>| {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "# HELP ondemand_store_{name} {help}\n# TYPE ondemand_store_{name} gauge\nondemand_store_{name} {value}\n"
            );
        }
    };
    let known = usage.as_ref().ok();
    let takes_work = known.is_some_and(|usage| usage.check_room().is_ok());
    gauge("accepts_new_work", "Whether there is room for new databases and datasets.", Some(takes_work.into()));
    gauge("read_only", "Whether nothing can be written.", known.map(|usage| usage.read_only.into()));
    gauge("size_bytes", "All there is.", known.map(|usage| usage.total));
    gauge("free_bytes", "What can still be written.", known.map(|usage| usage.free));
    gauge(
        "unallocated_bytes",
        "What is assigned to neither data nor metadata.",
        known.and_then(|usage| usage.unallocated),
    );
    gauge(
        "metadata_free_bytes",
        "What is free of the allocated metadata.",
        known.and_then(|usage| usage.metadata_free),
    );
    let beneath = known.and_then(|usage| usage.beneath.as_ref());
    gauge("beneath_free_bytes", "What is free on the disk beneath the pool.", beneath.map(|beneath| beneath.free));
    gauge(
        "beneath_growth_bytes",
        "How much more the pool's file may take of that disk.",
        beneath.map(|beneath| beneath.growth),
    );
    text
}

/// Writes how much is left alone as nobody can read it.
pub(crate) fn unknown(count: usize) -> String {
    format!(
        "# HELP ondemand_unknown Volumes, stacks and routes that cannot be read or recognised, and are left alone.\n\
         # TYPE ondemand_unknown gauge\nondemand_unknown {count}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_does_not_answer_takes_no_new_work() {
        let text = metrics(&Err(Error::ReadOnly { message: "it is not mounted".into() }));
        let values: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(values, ["ondemand_store_accepts_new_work 0"]);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let usage = Usage { total: 100, free: 50, metadata_free: Some(7), ..Usage::default() };
        let text = metrics(&Ok(usage));
        let values: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("ondemand_store_")).collect();
        let expected =
            ["accepts_new_work 1", "read_only 0", "size_bytes 100", "free_bytes 50", "metadata_free_bytes 7"];
        assert_eq!(values, expected);
    }
}
