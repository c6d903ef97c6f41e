//! One timer for each connection, set anew as seldom as possible.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// Wakes a task when a deadline that moves all the time has passed. Most deadlines are put off before they come; so the system's
/// timer stays where it is while the deadline is later, and only asks again once it fires.
#[derive(Debug, Default)]
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Is ready once the deadline has passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if deadline <= sleep.deadline() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_may_move_both_ways() {
        let (mut timer, start) = (Timer::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let pending = poll_fn(|cx| Poll::Ready(timer.poll(cx, after(10)).is_pending()));
        assert!(pending.await);
        poll_fn(|cx| timer.poll(cx, after(20))).await;
        assert_eq!(start.elapsed().as_secs(), 20);
        let pending = poll_fn(|cx| Poll::Ready(timer.poll(cx, after(100)).is_pending()));
        assert!(pending.await);
        poll_fn(|cx| timer.poll(cx, after(30))).await;
        assert_eq!(start.elapsed().as_secs(), 30);
    }
}
