//! Where password hashing runs: never on an I/O thread, and only so many at a time.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Runs slow derivations (PBKDF2) on blocking threads. Cheap to clone; all clones share one bound.
#[derive(Debug, Clone)]
pub struct Kdf {
    permits: Arc<Semaphore>,
}

/// The runtime is going down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("password hashing is not available: shutting down")]
pub struct KdfClosed;

impl Kdf {
    /// At most `parallel` derivations at a time, at least one.
    pub fn new(parallel: usize) -> Self {
        let permits = parallel.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            permits: Arc::new(Semaphore::new(permits)),
        }
    }

    /// Waits for its turn in order, then runs `derive`. The turn is the derivation's, not the
    /// caller's: one who gives up does not make room before the work has ended.
    pub async fn run<T: Send + 'static>(
        &self,
        derive: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, KdfClosed> {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|_| KdfClosed)?;
        let work = tokio::task::spawn_blocking(move || {
            let result = derive();
            drop(permit);
            result
        });
        work.await.map_err(|_| KdfClosed)
    }
}
