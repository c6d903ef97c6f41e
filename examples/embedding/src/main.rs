//! A program that has databases of its own, with no server beside it.
//!
//! `cargo run -p embedding -- DATA-DIR DUMP`: imports a dump as the dataset `example`, makes a database of it, prints its URL, and deletes it when
//! Enter is pressed.
#![expect(clippy::print_stdout, reason = "a program that shows something to a person")]

use ondemand_core::*;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(data_dir), Some(dump)) = (arguments.next(), arguments.next()) else {
        println!("usage: embedding DATA-DIR DUMP");
        return Ok(());
    };
    let ondemand = Ondemand::open(&Config { data_dir: data_dir.into(), ..Config::default() }).await?;
    // What an earlier run has left half made goes, and its databases are known again.
    ondemand.janitor.run_once().await?;

    let dataset = DatasetName::new("example")?;
    let print = |event: progress::Event| println!("{}: {} bytes", event.phase, event.bytes);
    ondemand
        .datasets
        .import(&dataset, Source::Path(dump.into()), ImportOptions::default(), std::sync::Arc::new(print))
        .await?;

    let database = ondemand.databases.create(CreateOptions::default().with_dataset(dataset)).await?;
    println!("{}\nEnter deletes it", database.url());
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
    ondemand.databases.delete(&database.id).await
}
