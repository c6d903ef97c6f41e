//! `ondemand pool status`.

use std::path::PathBuf;

use clap::Args;
use ondemand_core::Size;
use ondemand_core::snapshot::Btrfs;
use ondemand_http::wire::Pool;

use crate::arguments::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::output;
use crate::table::{fields, table};

/// Which pool.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The pool at this place, without asking the server [default: the server's]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let pool: Pool = match arguments.path {
        Some(path) => Btrfs::inspect(path).await?.into(),
        None => Client::new(global)?.get(&["pool"]).await?,
    };
    if global.json { output::json(&pool) } else { output::line(describe(&pool)) }
}

fn describe(pool: &Pool) -> String {
    let size = |bytes: u64| Size(bytes).to_string();
    let mut text = fields([
        ("method", pool.method.clone()),
        ("total", size(pool.total)),
        ("used", size(pool.used)),
        ("free", size(pool.free)),
        ("unallocated", pool.unallocated.map_or_else(|| "not known here".into(), size)),
    ]);
    let rows = pool.snapshots.iter().map(|entry| ("snapshot", entry));
    let rows = rows.chain(pool.volumes.iter().map(|entry| ("volume", entry)));
    let row = |(kind, (name, bytes)): (&str, (&String, &Option<u64>))| {
        [kind.into(), name.clone(), bytes.map_or_else(|| "not counted".into(), size)]
    };
    let mut rows = rows.map(row).peekable();
    if rows.peek().is_some() {
        text += "\n\n";
        text += &table(["KIND", "NAME", "OWN BYTES"], rows);
    }
    let unreadable = pool.unreadable.iter();
    text.extend(unreadable.map(|(name, reason)| format!("\n\n{name} cannot be read, and is left alone: {reason}")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_described_with_each_volume() {
        let pool = Pool {
            method: "BTRFS snapshots".into(),
            copy_on_write: true,
            total: 20 << 30,
            used: 1 << 30,
            free: 19 << 30,
            unallocated: None,
            volumes: [("a".into(), Some(4096)), ("b".into(), None)].into(),
            snapshots: [("shop@1".into(), Some(1 << 30))].into(),
            unreadable: [("c".into(), "btrfs: opening the record of c failed: Too many open files".into())].into(),
        };
        insta::assert_snapshot!(describe(&pool), @r"
        method       BTRFS snapshots
        total        20.0 GiB
        used         1.0 GiB
        free         19.0 GiB
        unallocated  not known here

        KIND      NAME    OWN BYTES
        snapshot  shop@1  1.0 GiB
        volume    a       4.0 KiB
        volume    b       not counted

        c cannot be read, and is left alone: btrfs: opening the record of c failed: Too many open files
        ");
    }
}
