//! Creates and deletes databases with the library itself, and prints how long each create took in milliseconds, as JSON: what the Python package
//! is measured by.
//!
//! `bench-library DATA-DIR DATASET FIRST-PORT ROUNDS`
#![expect(clippy::print_stdout, reason = "its output is data for a program")]

use std::time::Instant;

use anyhow::{Context, Result};
use ondemand_core::{Config, CreateOptions, DatasetRef, Ondemand};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = move |what: &'static str| arguments.next().context(what);
    let mut config = Config { data_dir: next("the data directory")?.into(), ..Config::default() };
    let dataset: DatasetRef = next("the dataset")?.parse()?;
    let first: u16 = next("the first port")?.parse()?;
    (config.databases.first_port, config.databases.last_port) = (first, first + 99);
    let rounds: usize = next("the number of rounds")?.parse()?;
    let ondemand = Ondemand::open(&config).await?;
    ondemand.janitor.run_once().await?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let begun = Instant::now();
        let database = ondemand.databases.create(CreateOptions::default().with_dataset(dataset.clone())).await?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
        ondemand.databases.delete(&database.id).await?;
    }
    println!("{}", serde_json::to_string(&times)?);
    ondemand.close();
    Ok(())
}
