//! Keeps one kind of line from filling the log: strangers can cause some as often as they like.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata};
use tracing_subscriber::layer::{Context, Filter};

/// How many lines of a kind are written within [`WINDOW`].
const MOST: u32 = 20;
/// How long a kind of line that was written too often is left out.
const WINDOW: Duration = Duration::from_secs(10);
/// The lines of requests, which whoever wants them has asked for.
const ACCESS: &str = "ondemand::access";

/// Counts the lines of each kind, by the place in the program that writes them. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct FloodGate(Arc<Mutex<HashMap<Identifier, Kind>>>);

#[derive(Debug)]
struct Kind {
    metadata: &'static Metadata<'static>,
    since: Instant,
    written: u32,
    left_out: u64,
}

impl FloodGate {
    fn lock(&self) -> MutexGuard<'_, HashMap<Identifier, Kind>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admits(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        // Whoever asks for more than the default level gets all of it.
        if *metadata.level() > Level::INFO || metadata.target() == ACCESS {
            return true;
        }
        let mut kinds = self.lock();
        let kind = kinds.entry(metadata.callsite()).or_insert(Kind { metadata, since: now, written: 0, left_out: 0 });
        if now.duration_since(kind.since) >= WINDOW {
            (kind.since, kind.written) = (now, 0);
        }
        let admitted = kind.written < MOST;
        if admitted {
            kind.written += 1;
        } else {
            kind.left_out += 1;
        }
        admitted
    }

    /// Returns the kinds of which lines were left out since this was asked last, and how many.
    fn left_out(&self) -> Vec<(&'static Metadata<'static>, u64)> {
        let mut kinds = self.lock();
        let left_out = kinds.values_mut().filter(|kind| kind.left_out > 0);
        left_out.map(|kind| (kind.metadata, std::mem::take(&mut kind.left_out))).collect()
    }

    /// Tells now and then how many lines were left out, on a thread of its own.
    pub(super) fn tell(self) -> std::io::Result<()> {
        let telling = move || {
            loop {
                std::thread::sleep(WINDOW);
                for (metadata, count) in self.left_out() {
                    let (module, line) = (metadata.target(), metadata.line().unwrap_or_default());
                    tracing::warn!("{count} more lines like those of {module}:{line} were left out");
                }
            }
        };
        std::thread::Builder::new().name("log".into()).spawn(telling).map(drop)
    }
}

impl<S> Filter<S> for FloodGate {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    // Each line is asked about.
    fn callsite_enabled(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.admits(event.metadata(), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tracing_subscriber::layer::{Layer, SubscriberExt};

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_kind_of_line_does_not_fill_the_log() {
        let (gate, written) = (FloodGate::default(), Written::default());
        let to = written.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || to.clone()).with_filter(gate.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for number in 0..1000 {
                tracing::warn!("flood {number}");
                tracing::info!(target: ACCESS, "request {number}");
                tracing::debug!("detail {number}");
            }
            tracing::warn!("another");
        });
        let text = String::from_utf8(written.0.lock().expect("no panic").clone()).expect("text");
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!((count("flood "), count("request"), count("detail"), count("another")), (20, 1000, 1000, 1));
        let left_out = gate.left_out();
        assert_eq!(left_out.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [980]);
        assert!(left_out[0].0.target().ends_with("flood::tests"), "{left_out:?}");
        assert!(gate.left_out().is_empty(), "told once");
        // They are written again later.
        let afterwards = Instant::now() + WINDOW;
        assert!((0..20).all(|_| gate.admits(left_out[0].0, afterwards)) && !gate.admits(left_out[0].0, afterwards));
    }
}
