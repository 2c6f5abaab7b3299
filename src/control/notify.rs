//! Runs `event_notification_command`: in the order of the events, one run after another. No decision
//! waits for it; what does not fit into its queue is counted and told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::child::{self, ChildError, End, Output};
use super::events::{Journal, News};
use super::placeholders::Told;
use super::{Event, Handle};
use crate::config::{CommandLine, Config, EventKind};

/// Events that may wait for their run.
const QUEUE: usize = 200;
/// What a shutdown leaves the running command.
const GRACE: Duration = Duration::from_secs(2);
/// No more of a command's words than this is told.
const WORDS_LINES: usize = 3;
const WORDS_MAX: usize = 300;

/// Where the journal puts events. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outlet {
    config: watch::Receiver<Arc<Config>>,
    queue: mpsc::Sender<Event>,
    dropped: Arc<AtomicU64>,
}

/// Where they come out.
#[derive(Debug)]
pub struct Queue {
    config: watch::Receiver<Arc<Config>>,
    events: mpsc::Receiver<Event>,
    dropped: Arc<AtomicU64>,
}

/// Both ends of the queue of events to be told, by the settings that hold at the time.
pub fn queue(config: watch::Receiver<Arc<Config>>) -> (Outlet, Queue) {
    let (sender, events) = mpsc::channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let outlet = Outlet {
        config: config.clone(),
        queue: sender,
        dropped: Arc::clone(&dropped),
    };
    let queue = Queue {
        config,
        events,
        dropped,
    };
    (outlet, queue)
}

impl Outlet {
    /// Takes an event that is to be told. Never blocks.
    pub(super) fn offer(&self, event: &Event) {
        if name_of(&self.config.borrow(), event.kind).is_none() {
            return;
        }
        // A closed queue: we are shutting down.
        if let Err(TrySendError::Full(event)) = self.queue.try_send(event.clone())
            && self.dropped.fetch_add(1, Ordering::Relaxed) == 0
        {
            let id = event.id;
            tracing::warn!(
                id,
                "this event and those after it are not told: {QUEUE} are waiting"
            );
        }
    }
}

/// The name by which the command is told of this kind; `None`: it is not told.
fn name_of(config: &Config, kind: EventKind) -> Option<&str> {
    let general = &config.general;
    // A command that fails is not told of its failure: it would fail again, without end.
    if general.event_notification_command.is_none() || kind == EventKind::NotificationFailed {
        return None;
    }
    general.event_notifications.name_of(kind)
}

/// The task that runs the command.
#[derive(Debug)]
pub struct Notifier {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Notifier {
    /// Begins to run the command. `control` knows the clusters, `journal` is told of failures.
    pub fn spawn(queue: Queue, control: Handle, journal: Journal) -> Self {
        let (stop, stopped) = watch::channel(false);
        let runs = Runs {
            queue,
            control,
            journal,
        };
        let task = tokio::spawn(Box::pin(runs.all(stopped)));
        Self { stop, task }
    }

    /// Ends it: the running command has a moment, those that wait are not begun.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        // One that panicked has said so.
        let _ = self.task.await;
    }
}

struct Runs {
    queue: Queue,
    control: Handle,
    journal: Journal,
}

impl Runs {
    async fn all(mut self, mut stopped: watch::Receiver<bool>) {
        loop {
            let event = tokio::select! {
                biased;
                () = told_to_stop(&mut stopped) => break,
                event = self.queue.events.recv() => event,
            };
            let Some(event) = event else {
                break;
            };
            self.one(&event, &mut stopped).await;
            self.tell_dropped();
        }
        let left = self.queue.events.len();
        if left > 0 {
            tracing::warn!("{left} events are not told: shutting down");
        }
    }

    async fn one(&self, event: &Event, stopped: &mut watch::Receiver<bool>) {
        let config = Arc::clone(&self.queue.config.borrow());
        let Some(command) = self.command(&config, event) else {
            return;
        };
        let began = Instant::now();
        let mut run = std::pin::pin!(child::run(
            &command,
            config.general.event_notification_timeout
        ));
        let in_time = tokio::select! {
            result = &mut run => Some(result),
            () = told_to_stop(stopped) => None,
        };
        let result = match in_time {
            Some(result) => Some(result),
            None => timeout(GRACE, run).await.ok(),
        };
        let took = began.elapsed();
        match failure(result.as_ref()) {
            None => {
                let kind = event.kind.as_str();
                tracing::info!(id = event.id, kind, ?took, "notification command has run");
            }
            Some(what) => self.tell_failure(event, &command.program, &what),
        }
    }

    /// What is to be run now: the settings may have changed since the event was queued.
    fn command(&self, config: &Config, event: &Event) -> Option<CommandLine> {
        let name = name_of(config, event.kind)?;
        let template = config.general.event_notification_command.as_ref()?;
        let cluster = event.cluster.as_ref();
        let view = cluster.and_then(|name| self.control.watch(name));
        let view = view.map(|view| Arc::clone(&view.borrow()));
        let cluster = cluster.and_then(|name| config.clusters.get(name));
        let told = Told {
            event,
            name,
            cluster: cluster.map(|config| &**config).zip(view.as_deref()),
        };
        Some(template.expand(|placeholder| told.value(placeholder)))
    }

    fn tell_failure(&self, event: &Event, program: &str, what: &str) {
        self.journal.tell(News {
            cluster: event.cluster.clone(),
            node: event.node.clone(),
            kind: EventKind::NotificationFailed,
            success: false,
            detail: format!(
                "{program}, told of event {} ({}), {what}",
                event.id, event.kind
            ),
        });
    }

    fn tell_dropped(&self) {
        let dropped = self.queue.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            self.journal.tell(News {
                cluster: None,
                node: None,
                kind: EventKind::NotificationFailed,
                success: false,
                detail: format!("{dropped} events were not told: {QUEUE} were waiting already"),
            });
        }
    }
}

async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    // Whoever could tell is gone: that is an end too.
    drop(stopped.wait_for(|stop| *stop).await);
}

/// What went wrong, if anything.
fn failure(result: Option<&Result<Output, ChildError>>) -> Option<String> {
    match result {
        None => Some("was killed: shutting down".to_owned()),
        Some(Ok(output)) => match output.end {
            End::Exited(0) => None,
            End::Exited(status) => Some(with_words(
                format!("ended with status {status}"),
                &output.said,
            )),
            End::Killed(signal) => Some(with_words(
                format!("was ended by signal {signal}"),
                &output.said,
            )),
        },
        Some(Err(error)) => {
            let said = match error {
                ChildError::Deadline { said, .. } => said.as_str(),
                ChildError::Start(_) | ChildError::Wait(_) => "",
            };
            Some(with_words(error.to_string(), said))
        }
    }
}

/// With the first lines of what the command wrote.
fn with_words(what: String, said: &str) -> String {
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .take(WORDS_LINES)
        .collect();
    let mut words = lines.join(" | ");
    let end = words.floor_char_boundary(WORDS_MAX);
    words.truncate(end);
    if words.is_empty() {
        what
    } else {
        format!("{what}: {words}")
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn failures_are_told_with_the_first_lines() {
        let ended = |end, said: &str| {
            let said = said.to_owned();
            Ok(Output { end, said })
        };
        let late = ChildError::Deadline {
            deadline: Duration::from_secs(30),
            said: "still at it".to_owned(),
        };
        let absent = ChildError::Start(io::Error::other("no such file"));
        for (result, told) in [
            (Some(ended(End::Exited(0), "fine")), None),
            (
                Some(ended(End::Exited(3), "")),
                Some("ended with status 3".to_owned()),
            ),
            (
                Some(ended(End::Exited(1), "\n a\n\nb\nc\nd\n")),
                Some("ended with status 1: a | b | c".to_owned()),
            ),
            (
                Some(ended(End::Killed(9), &"ä".repeat(WORDS_MAX))),
                Some(format!(
                    "was ended by signal 9: {}",
                    "ä".repeat(WORDS_MAX / 2)
                )),
            ),
            (
                Some(Err(late)),
                Some("did not end within 30s and was killed: still at it".to_owned()),
            ),
            (
                Some(Err(absent)),
                Some("could not be started: no such file".to_owned()),
            ),
            (None, Some("was killed: shutting down".to_owned())),
        ] {
            assert_eq!(failure(result.as_ref()), told);
        }
    }
}
