//! What every pool of an instance uses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::watch;

use crate::cluster::Reports;
use crate::config::Config;
use crate::net::TcpOptions;

/// One per instance.
#[derive(Debug)]
pub(super) struct Shared {
    config: watch::Receiver<Arc<Config>>,
    pub(super) reports: Reports,
    /// One count for clients and servers, as PgBouncer has it.
    ids: Arc<AtomicU64>,
    /// PAUSE without a database.
    paused: AtomicBool,
}

impl Shared {
    pub(super) fn new(
        config: watch::Receiver<Arc<Config>>,
        reports: Reports,
        ids: Arc<AtomicU64>,
    ) -> Self {
        Self { config, reports, ids, paused: AtomicBool::new(false) }
    }

    pub(super) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    pub(super) fn tcp_options(&self) -> TcpOptions {
        TcpOptions::from_config(&self.config.borrow().general)
    }

    pub(super) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// `false`: it was so already.
    pub(super) fn set_paused(&self, paused: bool) -> bool {
        self.paused.swap(paused, Ordering::AcqRel) != paused
    }
}
