//! What the proxy logs: its threads are its own, so all of the process's is kept.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, Once};
use std::thread;

static WRITTEN: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Writer(MutexGuard<'static, Vec<u8>>);

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Starts keeping, once.
pub(crate) fn capture() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
            .with_writer(|| Writer(WRITTEN.lock().unwrap()))
            .init();
        // A task that panics takes its connection with it, which looks like an ordinary end.
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if thread::current().name().is_some_and(|name| name.starts_with("proxy")) {
                PANICS.lock().unwrap().push(panic.to_string());
            }
            before(panic);
        }));
    });
}

/// Returns what panicked in threads of the proxy.
pub(crate) fn panics() -> Vec<String> {
    PANICS.lock().unwrap().clone()
}

/// Returns the lines that hold all of these words.
pub(crate) fn lines_with(words: &[&str]) -> Vec<String> {
    let written = WRITTEN.lock().unwrap();
    let text = String::from_utf8_lossy(&written);
    text.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(ToOwned::to_owned).collect()
}
