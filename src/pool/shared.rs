//! What every pool of an instance uses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::watch;

use crate::auth::Kdf;
use crate::cluster::Reports;
use crate::config::Config;
use crate::net::TcpOptions;

use super::server::Dialer;

/// One per instance.
#[derive(Debug)]
pub(super) struct Shared {
    config: watch::Receiver<Arc<Config>>,
    pub(super) reports: Reports,
    kdf: Kdf,
    /// One count for clients and servers, as PgBouncer has it.
    ids: Arc<AtomicU64>,
    /// PAUSE without a database.
    paused: AtomicBool,
}

impl Shared {
    pub(super) fn new(
        config: watch::Receiver<Arc<Config>>,
        reports: Reports,
        kdf: Kdf,
        ids: Arc<AtomicU64>,
    ) -> Self {
        Self {
            config,
            reports,
            kdf,
            ids,
            paused: AtomicBool::new(false),
        }
    }

    pub(super) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    pub(super) fn dialer(&self) -> Dialer {
        let config = self.config.borrow();
        Dialer {
            options: TcpOptions::from_config(&config.general),
            kdf: self.kdf.clone(),
            limit: config.general.server_connect_timeout,
        }
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
