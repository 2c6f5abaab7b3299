//! The operator's side of the pools: PgBouncer's verbs.

use std::sync::Arc;

use crate::config::DatabaseName;
use crate::relay::{Order, StopReason};

use super::Pools;
use super::checkout::Pool;
use super::database::Database;

/// The operator's verbs could not be done. Texts are PgBouncer's where tools match them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerbError {
    /// The database is not in the configuration (3D000).
    #[error("no such database: {0}")]
    NoSuchDatabase(DatabaseName),
    /// Already paused (55000).
    #[error("already suspended/paused")]
    AlreadyPaused,
    /// The database is not paused (55000).
    #[error("database {0} is not paused")]
    NotPaused(DatabaseName),
    /// Not everything is paused (55000).
    #[error("pooler is not paused/suspended")]
    PoolerNotPaused,
    /// `KILL_CLIENT` of an unknown id (22023).
    #[error("client not found")]
    NoSuchClient,
}

/// The operator's side. `None` means all databases.
impl Pools {
    /// New work waits from now on. Complete when no client has a server: [`Pools::paused`].
    pub fn pause(&self, database: Option<&DatabaseName>) -> Result<(), VerbError> {
        let changed = match database {
            None => self.shared().set_paused(true),
            Some(name) => self.known(name)?.set_paused(true),
        };
        if !changed {
            return Err(VerbError::AlreadyPaused);
        }
        self.visit(database, |pool| pool.close_idle_if(|_| true))?;
        self.bell()
            .send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }

    /// RECONNECT and PAUSE as one act: no session gets a new server in between, and sessions are
    /// stopped with 57P01 at their safe point.
    pub fn reconnect_and_pause(&self, database: Option<&DatabaseName>) -> Result<(), VerbError> {
        self.pause(database)?;
        self.reconnect(database)?;
        self.visit(database, |pool| {
            for leased in pool.lock().leased.values() {
                leased
                    .order
                    .raise(Order::StopWhenSafe(StopReason::Reconnect));
            }
        })
    }

    /// Waits until the pause is complete, or was lifted (`false`). Cancel safe.
    pub async fn paused(&self, database: Option<&DatabaseName>) -> bool {
        let mut changes = self.bell().subscribe();
        loop {
            let pools = self.in_scope(database);
            let still = match database {
                None => self.is_paused(),
                Some(name) => self.known(name).is_ok_and(|database| database.is_paused()),
            };
            if !still {
                return false;
            }
            let busy = |pool: &Arc<Pool>| {
                let state = pool.lock();
                state.leased.len() + state.dialing > 0
            };
            if !pools.iter().any(busy) {
                return true;
            }
            if changes.changed().await.is_err() {
                return false;
            }
        }
    }

    /// Lifts a pause.
    pub fn resume_operator(&self, database: Option<&DatabaseName>) -> Result<(), VerbError> {
        let changed = match database {
            None => self.shared().set_paused(false),
            Some(name) => self.known(name)?.set_paused(false),
        };
        if !changed {
            return Err(match database {
                Some(name) => VerbError::NotPaused(name.clone()),
                None => VerbError::PoolerNotPaused,
            });
        }
        self.visit(database, |pool| pool.wake())?;
        self.bell()
            .send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }

    /// Servers open now are closed when their session ends; idle ones at once.
    pub fn reconnect(&self, database: Option<&DatabaseName>) -> Result<(), VerbError> {
        match database {
            None => self
                .database_list()
                .iter()
                .for_each(|database| database.next_generation()),
            Some(name) => self.known(name)?.next_generation(),
        }
        self.visit(database, |pool| pool.close_idle_if(|_| true))
    }

    /// Waits until no server from before the last RECONNECT is left. Cancel safe.
    pub async fn closed(&self, database: Option<&DatabaseName>) -> Result<(), VerbError> {
        if let Some(name) = database {
            self.known(name)?;
        }
        let mut changes = self.bell().subscribe();
        loop {
            let stale = |pool: &Arc<Pool>| {
                let generation = pool.database.generation();
                let state = pool.lock();
                state
                    .leased
                    .values()
                    .any(|leased| leased.info.generation != generation)
                    || state
                        .idle
                        .iter()
                        .any(|idle| idle.server.info.generation != generation)
            };
            if !self.in_scope(database).iter().any(stale) || changes.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// PAUSE, and every server and the clients that have one are closed at once. Clients that wait
    /// go on waiting, for RESUME.
    pub fn kill(&self, database: Option<&DatabaseName>) -> Result<(), VerbError> {
        match self.pause(database) {
            Ok(()) | Err(VerbError::AlreadyPaused) => {}
            Err(error) => return Err(error),
        }
        self.visit(database, |pool| {
            for leased in pool.lock().leased.values() {
                leased.order.raise(Order::StopNow(StopReason::Kill));
            }
        })
    }

    /// New logins are refused (`true`) or taken again.
    pub fn disable(&self, database: &DatabaseName, disabled: bool) -> Result<(), VerbError> {
        self.known(database)?.set_disabled(disabled);
        Ok(())
    }

    fn known(&self, name: &DatabaseName) -> Result<Arc<Database>, VerbError> {
        self.database(name)
            .ok_or_else(|| VerbError::NoSuchDatabase(name.clone()))
    }

    fn in_scope(&self, database: Option<&DatabaseName>) -> Vec<Arc<Pool>> {
        let mut pools = self.all();
        if let Some(name) = database {
            pools.retain(|pool| pool.key.database == *name);
        }
        pools
    }

    fn visit(
        &self,
        database: Option<&DatabaseName>,
        act: impl Fn(&Arc<Pool>),
    ) -> Result<(), VerbError> {
        if let Some(name) = database {
            self.known(name)?;
        }
        self.in_scope(database).iter().for_each(act);
        Ok(())
    }
}
