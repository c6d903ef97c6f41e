//! A server that ends by itself when nobody needs it any more: the owner of a data directory that programs embed.

use std::time::{Duration, Instant};

use ondemand_core::{Config, Error, Ondemand, Result};

use super::{Moment, listen, serve_opened};
use crate::check_exposure;

/// How long the one before may take to let go of the data directory.
const SUCCESSION: Duration = Duration::from_secs(10);
/// How often it is tried again.
const RETRY: Duration = Duration::from_millis(20);
/// The longest time between two looks at whether anything is left to do.
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// As [`serve`](super::serve), until `shutdown` completes, or for as long as `idle` there was no lease, no database, no environment, and
/// nothing that was being imported.
///
/// One that was just told to end, or that ends by itself, may still have the data directory: that is waited for.
///
/// # Errors
/// As [`serve`](super::serve).
///
/// # Cancel safety
/// As [`serve`](super::serve).
pub async fn keep(
    config: &Config,
    idle: Duration,
    shutdown: impl Future<Output = ()>,
    tell: impl FnMut(Moment<'_>),
) -> Result<()> {
    config.validate()?;
    check_exposure(&config.http)?;
    let listener = listen(config.http.listen)?;
    let ondemand = succeed(config).await?;
    let unneeded = unneeded(ondemand.clone(), idle);
    let shutdown = async {
        tokio::select! {
            () = shutdown => {}
            () = unneeded => tracing::info!("nothing is left to look after"),
        }
    };
    serve_opened(config, listener, ondemand, shutdown, tell).await
}

/// Opens the data directory, waiting for the one who has it to end.
async fn succeed(config: &Config) -> Result<Ondemand> {
    let begun = Instant::now();
    loop {
        match Ondemand::open(config).await {
            Err(Error::Conflict { .. }) if begun.elapsed() < SUCCESSION => tokio::time::sleep(RETRY).await,
            opened => return opened,
        }
    }
}

/// Completes when nothing was left to do for as long as `idle`.
async fn unneeded(ondemand: Ondemand, idle: Duration) {
    let step = (idle / 4).clamp(Duration::from_millis(10), LONGEST_LOOK);
    let mut since = Instant::now();
    loop {
        tokio::time::sleep(step).await;
        if !ondemand.is_idle().await {
            since = Instant::now();
            // What was there at a look may have stayed until just before the next.
        } else if since.elapsed() >= idle + step {
            return;
        }
    }
}
