//! A database as the pools of all its users share it: its settings and the operator's word.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::config::{DatabaseConfig, DatabaseName};

use super::gate::Operator;
use super::routed::RouteMemory;
use super::shared::Shared;

/// See the module's text.
#[derive(Debug)]
pub struct Database {
    /// The name that clients use.
    pub name: DatabaseName,
    config: RwLock<Arc<DatabaseConfig>>,
    shared: Arc<Shared>,
    paused: AtomicBool,
    disabled: AtomicBool,
    /// Rises with every RECONNECT: servers of an older generation are closed at their release.
    generation: AtomicU64,
    /// Clients logged in or logging in.
    pub(super) logins: AtomicU64,
    /// Of `route = "read"` and `route = "any"`.
    pub(super) route_memory: Mutex<RouteMemory>,
}

impl Database {
    pub(super) fn new(config: Arc<DatabaseConfig>, shared: Arc<Shared>) -> Self {
        Self {
            name: config.name.clone(),
            config: RwLock::new(config),
            shared,
            paused: AtomicBool::new(false),
            disabled: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            logins: AtomicU64::new(0),
            route_memory: Mutex::default(),
        }
    }

    pub(super) fn config(&self) -> Arc<DatabaseConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_config(&self, config: Arc<DatabaseConfig>) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// Servers per user; 0: no limit.
    pub(super) fn pool_size(&self) -> usize {
        self.config()
            .pool_size
            .unwrap_or_else(|| self.shared.config().general.default_pool_size)
    }

    pub(super) fn dbname(&self) -> String {
        self.config().dbname.clone()
    }

    pub(super) fn operator(&self) -> Operator {
        if self.paused.load(Ordering::Acquire) || self.shared.is_paused() {
            Operator::Paused
        } else {
            Operator::Open
        }
    }

    /// `false`: it was so already.
    pub(super) fn set_paused(&self, paused: bool) -> bool {
        self.paused.swap(paused, Ordering::AcqRel) != paused
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// DISABLE: refuse new logins?
    pub fn is_disabled(&self) -> bool {
        self.disabled.load(Ordering::Acquire)
    }

    pub(super) fn set_disabled(&self, disabled: bool) {
        self.disabled.store(disabled, Ordering::Release);
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn next_generation(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// A client has logged in.
    pub fn count_login(&self) {
        self.logins.fetch_add(1, Ordering::Relaxed);
    }
}
