//! `ondemand pool status`.

use std::path::PathBuf;

use clap::Args;
use ondemand_core::Size;
use ondemand_core::snapshot::Btrfs;
use ondemand_http::wire::{Beneath, Pool, Trouble};

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
    let unknown = || "not known here".to_owned();
    let beneath = |beneath: &Beneath| {
        let Beneath { path, free, growth } = beneath;
        format!("{} free in {path}; the pool's file may take {} more", size(*free), size(*growth))
    };
    let mut text = fields([
        ("method", pool.method.clone()),
        ("total", size(pool.total)),
        ("used", size(pool.used)),
        ("free", size(pool.free)),
        ("unallocated", pool.unallocated.map_or_else(unknown, size)),
        ("metadata free", pool.metadata_free.map_or_else(unknown, size)),
        ("disk beneath", pool.beneath.as_ref().map_or_else(unknown, beneath)),
    ]);
    let trouble = pool.trouble.iter().map(|Trouble { detail, hint }| {
        let hint = hint.as_ref().map_or_else(String::new, |hint| format!("\nhint: {hint}"));
        format!("\n\nNew databases and datasets are refused: {detail}{hint}")
    });
    text.extend(trouble);
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
            metadata_free: Some(5 << 20),
            beneath: Some(Beneath { path: "/var/lib/ondemand".into(), free: 1 << 29, growth: 19 << 30 }),
            read_only: false,
            trouble: Some(Trouble { detail: "out of space: the reason".into(), hint: Some("do this".into()) }),
            volumes: [("a".into(), Some(4096)), ("b".into(), None)].into(),
            snapshots: [("shop@1".into(), Some(1 << 30))].into(),
            unreadable: [("c".into(), "btrfs: opening the record of c failed: Too many open files".into())].into(),
        };
        insta::assert_snapshot!(describe(&pool), @r"
        method         BTRFS snapshots
        total          20.0 GiB
        used           1.0 GiB
        free           19.0 GiB
        unallocated    not known here
        metadata free  5.0 MiB
        disk beneath   512.0 MiB free in /var/lib/ondemand; the pool's file may take 19.0 GiB more

        New databases and datasets are refused: out of space: the reason
        hint: do this

        KIND      NAME    OWN BYTES
        snapshot  shop@1  1.0 GiB
        volume    a       4.0 KiB
        volume    b       not counted

        c cannot be read, and is left alone: btrfs: opening the record of c failed: Too many open files
        ");
    }
}
