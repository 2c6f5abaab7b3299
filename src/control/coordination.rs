//! Which lead and epoch hold, durably: the [`Store`] seam, and the local file that one instance
//! needs. A record is compared with the epoch it follows, so nobody overwrites a newer decision.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use super::record::{
    NodeRecord, NodeRecords, Record, parse_nodes, parse_record, print_nodes, print_record,
};
use crate::cluster::Epoch;
use crate::config::{ClusterName, NodeName};

/// What a store's methods return: boxed, so that a store can be chosen at run time.
pub type StoreFuture<'a, T, E = StoreError> =
    Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// Where decisions are kept.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// The decision that holds in a cluster; `None` if none was ever made.
    fn load(&self, cluster: &ClusterName) -> StoreFuture<'_, Option<Record>>;

    /// Makes a decision durable, if the one that holds has the epoch `follows` (`None`: there is
    /// none), or is this very record: writing again is allowed.
    fn commit(&self, record: Record, follows: Option<Epoch>) -> StoreFuture<'_, (), CommitError>;

    /// What is kept of the nodes, over all clusters; of a node not in it nothing is.
    fn nodes(&self) -> StoreFuture<'_, NodeRecords>;

    /// Keeps what is known of a node in place of what was.
    fn keep_node(&self, node: NodeName, record: NodeRecord) -> StoreFuture<'_, ()>;
}

/// A store could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another instance runs on the same directory.
    #[error("state directory \"{0}\" is in use by another instance")]
    InUse(PathBuf),
    /// The file is not what was written. It is never guessed what it may have said.
    #[error("\"{file}\" is damaged: {what}")]
    Damaged {
        /// Which.
        file: PathBuf,
        /// How.
        what: &'static str,
    },
    /// The operating system said no.
    #[error("\"{file}\": {error}")]
    Io {
        /// Which.
        file: PathBuf,
        /// Its words.
        error: String,
    },
}

/// A decision was not made durable, or perhaps was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Certainly nothing changed.
    #[error("{0}")]
    NotWritten(StoreError),
    /// It may or may not survive a crash.
    #[error("{0}")]
    Unknown(StoreError),
    /// Another decision holds.
    #[error("epoch {0} was decided by somebody else")]
    Superseded(Epoch),
}

/// Where the nodes' records are.
const NODES_FILE: &str = "nodes.record";

/// Records in a directory of one instance.
///
/// Written to a temporary file, synced, renamed, and the directory synced. Up to the rename a
/// failure is certain; after it the outcome is unknown until the directory was synced.
#[derive(Debug, Clone)]
pub struct FileStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// One writer at a time.
    writing: Mutex<()>,
    /// Held locked as long as the store lives; the kernel lifts it when the process dies.
    _guard: File,
}

impl FileStore {
    /// Takes the directory for this instance; it is created if it does not exist.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(|e| io_error(dir, &e))?;
        let path = dir.join("lock");
        let mut guard = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| io_error(&path, &e))?;
        match guard.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(StoreError::InUse(dir.to_owned())),
            Err(fs::TryLockError::Error(e)) => return Err(io_error(&path, &e)),
        }
        // For people; the lock is what counts.
        let pid = format!("{}\n", std::process::id());
        guard
            .set_len(0)
            .and_then(|()| guard.write_all(pid.as_bytes()))
            .map_err(|e| io_error(&path, &e))?;
        let inner = Inner {
            dir: dir.to_owned(),
            writing: Mutex::new(()),
            _guard: guard,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

impl Store for FileStore {
    fn load(&self, cluster: &ClusterName) -> StoreFuture<'_, Option<Record>> {
        let cluster = cluster.clone();
        self.blocking(move |inner| inner.load(&cluster))
    }

    fn commit(&self, record: Record, follows: Option<Epoch>) -> StoreFuture<'_, (), CommitError> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            // Runs to its end even if nobody waits any more.
            let write = tokio::task::spawn_blocking(move || inner.commit(&record, follows));
            write.await.unwrap_or_else(|_| {
                let error = "the writer ended unexpectedly".to_owned();
                let file = PathBuf::new();
                Err(CommitError::Unknown(StoreError::Io { file, error }))
            })
        })
    }

    fn nodes(&self) -> StoreFuture<'_, NodeRecords> {
        self.blocking(Inner::nodes)
    }

    fn keep_node(&self, node: NodeName, record: NodeRecord) -> StoreFuture<'_, ()> {
        self.blocking(move |inner| inner.keep_node(node, record))
    }
}

impl FileStore {
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let result = tokio::task::spawn_blocking(move || work(&inner)).await;
            result.unwrap_or_else(|_| {
                let error = "the reader ended unexpectedly".to_owned();
                Err(StoreError::Io {
                    file: PathBuf::new(),
                    error,
                })
            })
        })
    }
}

impl Inner {
    fn record_file(&self, cluster: &ClusterName) -> PathBuf {
        let mut name = String::from("lead-");
        for byte in cluster.as_str().bytes() {
            // Whatever a cluster is called, its file stays in the directory.
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
                name.push(char::from(byte));
            } else {
                name.push('%');
                name.push(hex_digit(byte >> 4));
                name.push(hex_digit(byte & 15));
            }
        }
        name.push_str(".record");
        self.dir.join(name)
    }

    fn load(&self, cluster: &ClusterName) -> Result<Option<Record>, StoreError> {
        let file = self.record_file(cluster);
        let Some(text) = read_limited(&file)? else {
            return Ok(None);
        };
        let record = parse_record(&text).map_err(|what| StoreError::Damaged {
            file: file.clone(),
            what,
        })?;
        if record.cluster != *cluster {
            let what = "it is of another cluster";
            return Err(StoreError::Damaged { file, what });
        }
        Ok(Some(record))
    }

    fn commit(&self, record: &Record, follows: Option<Epoch>) -> Result<(), CommitError> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self
            .load(&record.cluster)
            .map_err(CommitError::NotWritten)?;
        let again = current.as_ref().is_some_and(|c| c == record);
        let current = current.map(|c| c.epoch);
        if current != follows && !again {
            return Err(CommitError::Superseded(current.unwrap_or_default()));
        }
        let file = self.record_file(&record.cluster);
        self.replace(&file, &print_record(record))
    }

    fn nodes(&self) -> Result<NodeRecords, StoreError> {
        let file = self.dir.join(NODES_FILE);
        match read_limited(&file)? {
            None => Ok(NodeRecords::new()),
            Some(text) => parse_nodes(&text).map_err(|what| StoreError::Damaged { file, what }),
        }
    }

    fn keep_node(&self, node: NodeName, record: NodeRecord) -> Result<(), StoreError> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = self.nodes()?;
        all.insert(node, record);
        let file = self.dir.join(NODES_FILE);
        self.replace(&file, &print_nodes(&all))
            .map_err(|error| match error {
                CommitError::NotWritten(error) | CommitError::Unknown(error) => error,
                CommitError::Superseded(_) => StoreError::Damaged {
                    file,
                    what: "unexpected",
                },
            })
    }

    fn replace(&self, file: &Path, text: &str) -> Result<(), CommitError> {
        let temporary = file.with_extension("tmp");
        let write = || -> io::Result<()> {
            let mut out = File::create(&temporary)?;
            out.write_all(text.as_bytes())?;
            out.sync_all()?;
            fs::rename(&temporary, file)
        };
        write().map_err(|e| CommitError::NotWritten(io_error(file, &e)))?;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|e| CommitError::Unknown(io_error(&self.dir, &e)))
    }
}

fn hex_digit(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16)
        .unwrap_or('0')
        .to_ascii_uppercase()
}

/// A state file is small; whatever is larger is not one of ours.
const LIMIT: u64 = 1 << 20;

fn read_limited(path: &Path) -> Result<Option<String>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error(path, &e)),
    };
    let mut bytes = Vec::new();
    file.take(LIMIT)
        .read_to_end(&mut bytes)
        .map_err(|e| io_error(path, &e))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(StoreError::Damaged {
            file: path.to_owned(),
            what: "it is not text",
        }),
    }
}

fn io_error(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Io {
        file: path.to_owned(),
        error: error.to_string(),
    }
}

#[cfg(test)]
#[path = "coordination_tests.rs"]
mod tests;
