//! `VACUUM (FREEZE, ANALYZE)` of everything, so that no clone has to do it, and plans are good from the first query on.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use futures_util::future::try_join_all;
use tokio_postgres::error::SqlState;

use super::cluster::{Server, Session};
use super::program::is_disk_full;
use crate::error::Result;

/// Vacuums and analyses all tables of `databases`, several at a time, the largest first.
///
/// # Errors
/// [`Error::Backend`](crate::Error::Backend) with PostgreSQL's error, [`Error::OutOfSpace`](crate::Error::OutOfSpace).
pub(crate) async fn vacuum(
    server: &Server,
    databases: &[String],
    jobs: usize,
    report: &(dyn Fn(&str) + Sync),
) -> Result<()> {
    for database in databases {
        let session = server.connect(database).await?;
        let tables = session
            .rows(
                "listing tables",
                "SELECT c.oid::regclass, c.relkind FROM pg_class c
                 WHERE c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't'
                 ORDER BY c.relkind = 'p', pg_relation_size(c.oid) DESC",
            )
            .await?;
        let tables: VecDeque<(String, bool)> = tables
            .into_iter()
            .filter_map(|row| match row.as_slice() {
                [Some(name), Some(kind)] => Some((name.clone(), kind == "p")),
                _ => None,
            })
            .collect();
        let queue = Mutex::new(tables);
        let others = (1..jobs.max(1)).map(|_| server.connect(database));
        let mut sessions = try_join_all(others).await?;
        sessions.push(session);
        try_join_all(sessions.iter().map(|session| work(session, &queue, report))).await?;
    }
    Ok(())
}

async fn work(
    session: &Session,
    queue: &Mutex<VecDeque<(String, bool)>>,
    report: &(dyn Fn(&str) + Sync),
) -> Result<()> {
    loop {
        // Each holder only takes from it.
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some((table, partitioned)) = next else { return Ok(()) };
        report(&table);
        // A partitioned table has no rows of its own, but statistics of its own.
        let statement =
            if partitioned { format!("ANALYZE {table}") } else { format!("VACUUM (FREEZE, ANALYZE) {table}") };
        let Err(error) = session.attempt(&statement).await else { continue };
        // An index or a statistic on an expression may fail here, for want of a library or a setting. The data is there all the same.
        let fatal = error.as_db_error().is_none()
            || is_disk_full(&error)
            || error.code().is_some_and(|code| {
                [SqlState::DISK_FULL, SqlState::DATA_CORRUPTED, SqlState::INDEX_CORRUPTED, SqlState::IO_ERROR]
                    .contains(code)
            });
        if fatal {
            return Err(session.error(&format!("vacuuming {table}"), error));
        }
        tracing::warn!(table, %error, "a table could not be analysed");
        if !partitioned {
            session.run(&format!("vacuuming {table}"), &format!("VACUUM (FREEZE) {table}")).await?;
        }
    }
}
