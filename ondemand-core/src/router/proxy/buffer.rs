//! Bytes that were read and not used yet.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// How much there is room for. A request's head has to fit.
pub(super) const SIZE: usize = 64 << 10;
/// How much is read at a time: little enough that it is still in the processor's cache when it is written.
const AT_ONCE: usize = 32 << 10;
/// How many buffers a thread keeps for the next connections that need one.
const KEPT: usize = 64;

/// How much room of an outbox is kept.
const KEPT_ROOM: usize = 2 * SIZE;

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static SPARE_OUT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// What was read from a connection. It holds memory only while it holds bytes, so that ten thousand connections that wait cost
/// next to nothing.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    buffer: Option<Box<[u8]>>,
    start: usize,
    end: usize,
}

impl Inbox {
    /// Returns what was read.
    pub(super) fn data(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer[self.start..self.end])
    }

    /// Returns what was read, to be changed.
    pub(super) fn data_mut(&mut self) -> &mut [u8] {
        self.buffer.as_mut().map_or(&mut [], |buffer| &mut buffer[self.start..self.end])
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Forgets the first bytes.
    pub(super) fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start.saturating_add(count));
        if self.start == self.end {
            self.release();
        }
    }

    /// Reads once. Nothing but the end of the stream is 0 bytes.
    ///
    /// # Errors
    /// `StorageFull` if there is no room: whoever waits for more must have bounded what it waits for.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        let buffer = self.buffer.get_or_insert_with(take);
        if self.start > 0 {
            buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == buffer.len() {
            return Poll::Ready(Err(io::ErrorKind::StorageFull.into()));
        }
        let most = buffer.len().min(self.end + AT_ONCE);
        let mut room = ReadBuf::new(&mut buffer[self.end..most]);
        let polled = Pin::new(source).poll_read(cx, &mut room);
        let count = room.filled().len();
        self.end += count;
        if self.is_empty() {
            self.release();
        }
        ready!(polled)?;
        Poll::Ready(Ok(count))
    }

    fn release(&mut self) {
        (self.start, self.end) = (0, 0);
        if let Some(buffer) = self.buffer.take() {
            // A thread that ends needs none.
            let _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < KEPT {
                    spare.push(buffer);
                }
            });
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.release();
    }
}

fn take() -> Box<[u8]> {
    let spare = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
    spare.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice())
}

/// What is to be written to a connection. Its memory comes from those that were dropped before.
#[derive(Debug)]
pub(super) struct Outbox(Vec<u8>);

impl Outbox {
    pub(super) fn new() -> Self {
        let spare = SPARE_OUT.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
        Self(spare.unwrap_or_default())
    }
}

impl std::ops::Deref for Outbox {
    type Target = Vec<u8>;
    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl std::ops::DerefMut for Outbox {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let mut memory = std::mem::take(&mut self.0);
        if memory.capacity() == 0 || memory.capacity() > KEPT_ROOM {
            return;
        }
        memory.clear();
        let _ = SPARE_OUT.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < KEPT {
                spare.push(memory);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn bytes_stay_until_they_are_used_and_then_hold_no_memory() {
        let mut inbox = Inbox::default();
        let mut source: &[u8] = b"hello world";
        assert_eq!(poll_fn(|cx| inbox.poll_fill(cx, &mut source)).await.expect("bytes"), 11);
        inbox.consume(6);
        assert_eq!(inbox.data(), b"world");
        let mut more: &[u8] = b"!";
        assert_eq!(poll_fn(|cx| inbox.poll_fill(cx, &mut more)).await.expect("bytes"), 1);
        assert_eq!(inbox.data(), b"world!");
        inbox.consume(6);
        assert!(inbox.is_empty() && inbox.buffer.is_none());
        assert_eq!(poll_fn(|cx| inbox.poll_fill(cx, &mut more)).await.expect("the end"), 0);
        assert!(inbox.buffer.is_none());
    }

    #[tokio::test]
    async fn a_full_buffer_is_an_error_and_not_the_end() {
        let mut inbox = Inbox::default();
        let mut source = tokio::io::repeat(b'x');
        while inbox.data().len() < SIZE {
            assert_eq!(poll_fn(|cx| inbox.poll_fill(cx, &mut source)).await.expect("bytes"), AT_ONCE);
        }
        let error = poll_fn(|cx| inbox.poll_fill(cx, &mut source)).await.expect_err("no room");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
