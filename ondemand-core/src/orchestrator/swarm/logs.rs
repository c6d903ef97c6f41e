//! Reading what tasks wrote: each by itself, since the engine's log of a whole service fails when one node is down.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::models::Task;
use bollard::query_parameters::LogsOptions;
use futures_util::future::join_all;
use futures_util::stream::{self, BoxStream, StreamExt};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::engine::failed;
use super::state::{Shared, Whole};
use super::tasks::Doing;
use crate::error::{Error, Kind, Result};
use crate::name::{ServiceName, StackName};
use crate::orchestrator::docker::engine::has_status;
use crate::orchestrator::docker::logs::{LONGEST_LINE, split_time};
use crate::orchestrator::{LogLine, LogOptions};

/// How often those who follow a log look for new tasks, and for the end of the stack.
const POLL: Duration = Duration::from_millis(250);
/// How many lines are read ahead.
const AHEAD: usize = 64;
/// How long a node has to send what it has of a task's log.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long lines may still come after their stack is gone.
const REST: Duration = Duration::from_millis(300);

/// Returns the lines of a stack's services.
pub(super) fn lines(shared: Arc<Shared>, name: StackName, options: LogOptions) -> BoxStream<'static, Result<LogLine>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            read = read(&shared, &name, &options, &sender) => if let Err(error) = read {
                let _ = sender.send(Err(error)).await;
            }
        }
    });
    stream::unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        Some((line, receiver))
    })
    .boxed()
}

type Sender = mpsc::Sender<Result<LogLine>>;

async fn read(shared: &Arc<Shared>, name: &StackName, options: &LogOptions, sender: &Sender) -> Result<()> {
    let whole = shared.whole(name).await?;
    let services: Vec<_> = whole.services().filter(|s| options.service.as_ref().is_none_or(|only| only == s)).collect();
    if let (true, Some(service)) = (services.is_empty(), &options.service) {
        return Err(Error::not_found(Kind::Service, service));
    }
    if options.follow {
        return follow(shared, whole, &services, options, sender).await;
    }
    let client = shared.engine.client().await?;
    for service in services {
        let mut lines = written(client, &whole, &service, options).await;
        while let Some(line) = lines.next().await {
            // If nobody reads any more, this task is about to end.
            let _ = sender.send(Ok(line)).await;
        }
    }
    Ok(())
}

/// Tells whether a task has a log that can be read: the engine waits for a container that will never be.
fn has_log(whole: &Whole, task: &Task) -> bool {
    was_made(task) && !whole.nodes.is_lost(task)
}

/// Tells whether a task has had a container.
fn was_made(task: &Task) -> bool {
    let container = task.status.as_ref().and_then(|status| status.container_status.as_ref());
    container.and_then(|container| container.container_id.as_ref()).is_some_and(|id| !id.is_empty())
}

/// Returns what a service's tasks have written so far, in the order of time. No more of it is read ahead than a few lines of each task.
async fn written<'a>(
    client: &'a bollard::Docker,
    whole: &'a Whole,
    service: &'a ServiceName,
    options: &'a LogOptions,
) -> BoxStream<'a, LogLine> {
    let tasks: Vec<&Task> = whole.tasks_of(service).into_iter().filter(|task| has_log(whole, task)).collect();
    let lines = || merge(tasks.iter().map(|task| written_by(client, task, service, options)).collect());
    // The engine knows the last lines of each task, and not of all: they are counted first.
    let before = match options.tail {
        Some(tail) if tasks.len() > 1 => lines().count().await.saturating_sub(tail),
        _ => 0,
    };
    lines().skip(before).boxed()
}

/// Returns what one task has written so far; less, if its node does not send all of it.
fn written_by<'a>(
    client: &'a bollard::Docker,
    task: &'a Task,
    service: &'a ServiceName,
    options: &'a LogOptions,
) -> BoxStream<'a, LogLine> {
    let (sender, mut receiver) = mpsc::channel(AHEAD);
    let reading = async move { read_task(client, task, service, options, &sender).await };
    let reading = stream::once(reading).map(Err);
    let lines = stream::poll_fn(move |context| receiver.poll_recv(context)).filter_map(async |line| line.ok()).map(Ok);
    let both = stream::select(lines, reading).boxed();
    stream::unfold(Some(both), move |both| async move {
        let mut both = both?;
        loop {
            // The time counts only while somebody waits for a line.
            let next = timeout(PATIENCE, both.next()).await;
            let is_cut_off = matches!(next, Err(_) | Ok(Some(Err(Err(_)))));
            if is_cut_off {
                let task = task.id.as_deref().unwrap_or_default();
                tracing::warn!(%service, task, "a node did not send all of a task's log");
            }
            match next {
                Ok(Some(Ok(line))) => return Some((line, Some(both))),
                // It has been read to its end; there may be lines that were read ahead.
                Ok(Some(Err(_))) => {}
                // The lines that it did send have been returned.
                Ok(None) | Err(_) => return None,
            }
        }
    })
    .boxed()
}

/// Returns the lines of several streams in the order of time, where each is in that order.
fn merge(mut streams: Vec<BoxStream<'_, LogLine>>) -> BoxStream<'_, LogLine> {
    if streams.len() == 1 {
        return streams.remove(0);
    }
    stream::unfold((streams, None), |(mut streams, heads)| async move {
        let mut heads: Vec<Option<LogLine>> = match heads {
            Some(heads) => heads,
            None => join_all(streams.iter_mut().map(StreamExt::next)).await,
        };
        // Of several of one time, the first.
        let first = heads.iter().enumerate().filter_map(|(at, line)| Some((line.as_ref()?.time, at))).min()?.1;
        let next = streams[first].next().await;
        let line = std::mem::replace(&mut heads[first], next)?;
        Some((line, (streams, Some(heads))))
    })
    .boxed()
}

async fn follow(
    shared: &Arc<Shared>,
    mut whole: Whole,
    services: &[ServiceName],
    options: &LogOptions,
    sender: &Sender,
) -> Result<()> {
    let client = shared.engine.client().await?;
    let (name, id) = (whole.name().clone(), whole.id());
    let mut seen: HashSet<String> = HashSet::new();
    let mut readers = tokio::task::JoinSet::new();
    let mut first = true;
    loop {
        for service in services {
            for task in whole.tasks_of(service) {
                let Some(task_id) = task.id.clone() else { continue };
                if !has_log(&whole, task) || !seen.insert(task_id) {
                    continue;
                }
                // What came after the first look is shown from its beginning.
                let ended = matches!(super::tasks::doing(task), Doing::Ended(_) | Doing::Stopped);
                let tail = options.tail.filter(|_| first);
                let options = LogOptions { tail, follow: !ended, ..options.clone() };
                let (client, task, service, sender) = (client.clone(), task.clone(), service.clone(), sender.clone());
                readers.spawn(async move { read_task(&client, &task, &service, &options, &sender).await });
            }
        }
        first = false;
        sleep(POLL).await;
        whole = match shared.whole(&name).await {
            Ok(whole) if whole.id() == id => whole,
            Err(error) if error.is_transient() => continue,
            Ok(_) | Err(Error::NotFound { .. }) => break,
            Err(error) => return Err(error),
        };
    }
    let rest = async { while readers.join_next().await.is_some() {} };
    let _ = timeout(REST, rest).await;
    Ok(())
}

/// Sends the lines of a task until the engine's stream ends.
async fn read_task(
    client: &bollard::Docker,
    task: &Task,
    service: &ServiceName,
    options: &LogOptions,
    sender: &Sender,
) -> Result<()> {
    if options.tail == Some(0) && !options.follow {
        return Ok(());
    }
    let since = options.since.map_or(0, OffsetDateTime::unix_timestamp);
    let asked = LogsOptions {
        follow: options.follow,
        stdout: true,
        stderr: true,
        since: i32::try_from(since).unwrap_or(i32::MAX),
        timestamps: true,
        tail: options.tail.map_or_else(|| "all".to_owned(), |tail| tail.to_string()),
        ..LogsOptions::default()
    };
    let id = task.id.as_deref().unwrap_or_default();
    let mut frames = Box::pin(client.task_logs(id, Some(asked)));
    let mut partial: [Option<(Option<OffsetDateTime>, Vec<u8>)>; 2] = Default::default();
    let send = async |(time, line): (Option<OffsetDateTime>, Vec<u8>)| {
        // The engine counts from whole seconds.
        if options.since.is_some_and(|from| time.is_some_and(|time| time < from)) {
            return;
        }
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        let text = String::from_utf8_lossy(line).into_owned();
        // If nobody reads any more, this task is about to end.
        let _ = sender.send(Ok(LogLine { service: service.clone(), time, text })).await;
    };
    while let Some(frame) = frames.next().await {
        let frame = match frame {
            Ok(frame) => frame,
            // It is gone, or about to be.
            Err(e) if has_status(&e, 404) || has_status(&e, 409) => break,
            Err(e) => return Err(failed(format!("reading the log of service {service}"), e)),
        };
        let (stream, message) = match &frame {
            LogOutput::StdErr { message } => (1, message),
            LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
                (0, message)
            }
        };
        let (time, text) = split_time(message);
        let (text, ends) = text.strip_suffix(b"\n").map_or((text, false), |text| (text, true));
        let (_, line) = partial[stream].get_or_insert((time, Vec::new()));
        line.extend_from_slice(text);
        if (ends || line.len() >= LONGEST_LINE)
            && let Some(line) = partial[stream].take()
        {
            send(line).await;
        }
    }
    for line in partial.into_iter().flatten() {
        send(line).await;
    }
    Ok(())
}

/// Returns what a task of no stack wrote; nothing if that cannot be read.
pub(super) async fn of_task(client: &bollard::Docker, task: &Task) -> Vec<String> {
    let Ok(service) = ServiceName::new("main") else { return Vec::new() };
    if !was_made(task) {
        return Vec::new();
    }
    let mut lines = Vec::new();
    let (sender, mut receiver) = mpsc::channel(AHEAD);
    let options = LogOptions::default();
    let reading = async move { read_task(client, task, &service, &options, &sender).await };
    let collecting = async {
        while let Some(line) = receiver.recv().await {
            lines.extend(line.ok());
        }
    };
    let _ = tokio::join!(timeout(PATIENCE, reading), collecting);
    // Of two streams.
    lines.sort_by_key(|line| line.time);
    lines.into_iter().map(|line| line.text).collect()
}

/// Returns the end of a service's log, for errors; none if it cannot be read.
pub(super) async fn end(shared: &Shared, whole: &Whole, service: &ServiceName) -> Vec<String> {
    const LINES: usize = 20;
    let Ok(client) = shared.engine.client().await else { return Vec::new() };
    let options = LogOptions { tail: Some(LINES), ..LogOptions::default() };
    written(client, whole, service, &options).await.map(|line| line.text).collect().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(service: &str, lines: &[(i64, &str)]) -> BoxStream<'static, LogLine> {
        let service: ServiceName = service.parse().expect("a name");
        let line = |&(time, text): &(i64, &str)| LogLine {
            service: service.clone(),
            time: Some(OffsetDateTime::from_unix_timestamp(time).expect("a time")),
            text: text.to_owned(),
        };
        stream::iter(lines.iter().map(line).collect::<Vec<_>>()).boxed()
    }

    async fn merged(streams: Vec<BoxStream<'static, LogLine>>) -> String {
        merge(streams).map(|line| line.text).collect::<Vec<_>>().await.concat()
    }

    #[tokio::test]
    async fn lines_of_several_tasks_come_in_the_order_of_time() {
        let a = || of("a", &[(1, "a"), (4, "d"), (4, "e"), (9, "i")]);
        let b = || of("b", &[(2, "b"), (3, "c"), (4, "f"), (5, "g"), (6, "h")]);
        assert_eq!(merged(vec![a(), b(), of("c", &[])]).await, "abcdefghi");
        assert_eq!(merged(vec![b(), a()]).await, "abcfdeghi", "of one time, the first task's first");
        assert_eq!(merged(vec![a()]).await, "adei");
        assert_eq!(merged(Vec::new()).await, "");
    }

    /// However much a task wrote, only what is asked for is read.
    #[tokio::test]
    async fn nothing_is_collected() {
        let endless = || {
            stream::repeat_with(|| LogLine { service: "a".parse().expect("a name"), time: None, text: "x".into() })
                .boxed()
        };
        assert_eq!(merge(vec![endless(), endless()]).take(5).count().await, 5);
    }
}
