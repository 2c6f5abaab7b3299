//! What happened: a ring for the console and a file that survives.
//!
//! The file is written by a thread of its own through a bounded queue, so that a slow disk never
//! delays a decision; what does not fit is counted and said in the log.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Event;
use super::notify::Outlet;
use crate::config::{ClusterName, EventKind, NodeName};

/// Events kept in memory.
const RING: usize = 1000;
/// Lines that may wait for the disk.
const QUEUE: usize = 1000;
/// `events.log` is renamed to `events.log.1` at this size.
const ROTATE_AT: u64 = 4 << 20;
/// Bytes of a detail that are kept. The kernel gives a program arguments of up to 128 kB.
const DETAIL_MAX: usize = 8192;

/// What is told of an event; id and time are given by the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// Cluster it happened in.
    pub cluster: Option<ClusterName>,
    /// Node it is about.
    pub node: Option<NodeName>,
    /// What happened.
    pub kind: EventKind,
    /// Did it go well?
    pub success: bool,
    /// Free text.
    pub detail: String,
}

/// Takes events. Cheap to clone; the last clone's drop waits until the file is written.
#[derive(Debug, Clone)]
pub struct Journal {
    inner: Arc<Inner>,
    outlet: Option<Outlet>,
}

#[derive(Debug)]
struct Inner {
    ring: Mutex<Ring>,
    writer: Option<(SyncSender<String>, JoinHandle<()>)>,
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<Event>,
    next_id: u64,
}

impl Journal {
    /// Goes on where the file in `state_dir` ends.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join("events.log");
        let (mut events, mut next_id) = (VecDeque::new(), 1);
        for file in [rotated(&path), path.clone()] {
            read_events(&file, &mut events, &mut next_id)?;
        }
        let file = append_to(&path)?;
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || write_events(&path, file, &receiver))?;
        Ok(Self::with(events, next_id, Some((sender, thread))))
    }

    /// Without a file.
    pub fn in_memory() -> Self {
        Self::with(VecDeque::new(), 1, None)
    }

    fn with(
        events: VecDeque<Event>,
        next_id: u64,
        writer: Option<(SyncSender<String>, JoinHandle<()>)>,
    ) -> Self {
        let ring = Mutex::new(Ring { events, next_id });
        Self {
            inner: Arc::new(Inner { ring, writer }),
            outlet: None,
        }
    }

    /// The same journal, whose events also go to the notification command.
    #[must_use]
    pub fn notifying(self, outlet: Outlet) -> Self {
        Self {
            outlet: Some(outlet),
            ..self
        }
    }

    /// Takes one event. Never blocks on the disk.
    pub fn tell(&self, news: News) {
        let mut ring = self
            .inner
            .ring
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let event = Event {
            id: ring.next_id,
            time: SystemTime::now(),
            cluster: news.cluster,
            node: news.node,
            kind: news.kind,
            success: news.success,
            detail: one_line(&news.detail),
        };
        ring.next_id = ring.next_id.saturating_add(1);
        log(&event);
        if let Some((sender, _)) = &self.inner.writer
            && sender.try_send(print_event(&event)).is_err()
        {
            tracing::warn!(
                id = event.id,
                "event was not written to events.log: the disk is slow"
            );
        }
        if let Some(outlet) = &self.outlet {
            // While the ring is locked: events are told in the order of their ids.
            outlet.offer(&event);
        }
        if ring.events.len() >= RING {
            ring.events.pop_front();
        }
        ring.events.push_back(event);
    }

    /// The latest, oldest first.
    pub fn latest(&self) -> Vec<Event> {
        let ring = self
            .inner
            .ring
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        ring.events.iter().cloned().collect()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.writer.take() {
            drop(sender);
            // A panic of the writer was a lost line, not more.
            let _ = thread.join();
        }
    }
}

fn log(event: &Event) {
    let cluster = event.cluster.as_ref().map_or("", ClusterName::as_str);
    let node = event.node.as_ref().map_or("", NodeName::as_str);
    let (kind, detail) = (event.kind.as_str(), event.detail.as_str());
    if event.success {
        tracing::info!(id = event.id, cluster, node, kind, "{detail}");
    } else {
        tracing::warn!(id = event.id, cluster, node, kind, "{detail}");
    }
}

fn write_events(path: &Path, mut file: File, lines: &Receiver<String>) {
    while let Ok(line) = lines.recv() {
        if let Err(error) = write_event(path, &mut file, &line) {
            tracing::warn!(file = %path.display(), %error, "event could not be written");
        }
    }
}

fn write_event(path: &Path, file: &mut File, line: &str) -> io::Result<()> {
    if file.metadata()?.len() >= ROTATE_AT {
        fs::rename(path, rotated(path))?;
        *file = append_to(path)?;
    }
    file.write_all(line.as_bytes())
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn rotated(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// A line that was cut by a crash, or is foreign, is skipped: events inform, they decide nothing.
/// One of a kind that this version does not know is skipped too, but its id is not given again.
fn read_events(path: &Path, events: &mut VecDeque<Event>, next_id: &mut u64) -> io::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        let Some((id, event)) = std::str::from_utf8(&line).ok().and_then(parse_event) else {
            continue;
        };
        *next_id = id.saturating_add(1);
        let Some(event) = event else {
            continue;
        };
        if events.len() >= RING {
            events.pop_front();
        }
        events.push_back(event);
    }
    Ok(())
}

/// Tab separated: id, milliseconds since 1970, cluster, node, kind, `t` or `f`, detail.
fn print_event(event: &Event) -> String {
    let time = event.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let cluster = event.cluster.as_ref().map_or("", ClusterName::as_str);
    let node = event.node.as_ref().map_or("", NodeName::as_str);
    format!(
        "{}\t{}\t{}\t{}\t{}\t{}\t{}\n",
        event.id,
        time.as_millis(),
        one_line(cluster),
        one_line(node),
        event.kind,
        if event.success { 't' } else { 'f' },
        event.detail
    )
}

/// The line's id, and its event where the kind is known. `None`: it is no such line.
fn parse_event(line: &str) -> Option<(u64, Option<Event>)> {
    let mut fields = line.split('\t');
    let id = fields.next()?.parse().ok()?;
    let millis: u64 = fields.next()?.parse().ok()?;
    let (cluster, node) = (fields.next()?, fields.next()?);
    let kind = EventKind::from_word(fields.next()?);
    let success = fields.next()? == "t";
    let detail = fields.next()?.to_owned();
    let event = kind.map(|kind| Event {
        id,
        time: UNIX_EPOCH + Duration::from_millis(millis.min(1 << 50)),
        cluster: (!cluster.is_empty()).then(|| ClusterName::new(cluster)),
        node: (!node.is_empty()).then(|| NodeName::new(node)),
        kind,
        success,
        detail,
    });
    Some((id, event))
}

/// Control characters would break a line of the file, and an argument; people read spaces just as
/// well.
fn one_line(text: &str) -> String {
    let mut line = text.replace(|c: char| c.is_control(), " ");
    let end = line.floor_char_boundary(DETAIL_MAX);
    line.truncate(end);
    line
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]

    use std::fs;
    use std::io::Write;

    use super::*;

    fn news(detail: &str) -> News {
        News {
            cluster: Some(ClusterName::new("c")),
            node: None,
            kind: EventKind::NodeUp,
            success: true,
            detail: detail.to_owned(),
        }
    }

    #[test]
    fn ids_go_on_after_a_restart_and_a_cut_line() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        journal.tell(news("one\tof\ntwo"));
        journal.tell(news("two"));
        let long = "ä".repeat(DETAIL_MAX);
        journal.tell(news(&long));
        assert_eq!(journal.latest().pop().unwrap().detail.len(), DETAIL_MAX);
        drop(journal);
        let mut file = append_to(&dir.path().join("events.log")).unwrap();
        file.write_all(b"4\t17").unwrap();
        file.write_all(b"\xFF\n").unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        journal.tell(news("four"));
        let all = journal.latest();
        let cut = &long[..DETAIL_MAX];
        let seen: Vec<_> = all.iter().map(|e| (e.id, e.detail.as_str())).collect();
        assert_eq!(seen, [(1, "one of two"), (2, "two"), (3, cut), (4, "four")]);
    }

    #[test]
    fn an_event_of_a_newer_version_is_skipped_and_its_id_is_not_given_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.log");
        fs::write(&path, "7\t17\tc\tn1\tnode_upside_down\tt\tx\n").unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        journal.tell(news("next"));
        let ids: Vec<_> = journal.latest().iter().map(|e| e.id).collect();
        assert_eq!(ids, [8]);
    }

    #[test]
    fn the_ring_keeps_the_latest_and_the_file_is_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        for _ in 0..RING + 5 {
            journal.tell(news("x"));
        }
        assert_eq!(journal.latest().len(), RING);
        assert_eq!(journal.latest().first().map(|e| e.id), Some(6));
        drop(journal);
        let path = dir.path().join("events.log");
        let big = vec![b'\n'; usize::try_from(ROTATE_AT).unwrap()];
        fs::write(&path, big).unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        journal.tell(news("after"));
        drop(journal);
        assert!(rotated(&path).exists());
        assert!(fs::metadata(&path).unwrap().len() < 1000);
    }
}
