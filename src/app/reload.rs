//! RELOAD: what the console and SIGHUP ask for.

use std::sync::Arc;

use super::App;
use crate::config::{EventKind, diff};
use crate::control::events::News;

impl App {
    /// Reads the configuration again. The answer: what takes effect only at the next start; or all that
    /// is wrong.
    pub(super) fn reload(&mut self) -> Result<Vec<String>, String> {
        let result = self.apply();
        let (success, detail) = match &result {
            Ok(restart) if restart.is_empty() => (true, "all of it holds now".to_owned()),
            Ok(restart) => (true, restart.join("; ")),
            Err(error) => (false, format!("nothing was changed: {error}")),
        };
        self.journal.tell(News {
            cluster: None,
            node: None,
            kind: EventKind::Reloaded,
            success,
            detail,
        });
        result
    }

    /// All or nothing: what is wrong anywhere leaves everything as it was.
    fn apply(&mut self) -> Result<Vec<String>, String> {
        let loaded = self.source.load().inspect_err(|error| {
            tracing::error!("RELOAD failed, nothing was changed:\n{error}");
        })?;
        loaded.warn();
        let diff = diff(&self.core.config.borrow(), &loaded.config);
        self.core.users.send_replace(Arc::new(loaded.users));
        self.core.config.send_replace(Arc::new(diff.effective));
        self.core.pools.apply_config();
        for change in &diff.settings_changed {
            tracing::info!("reload: {change}");
        }
        let restart = diff.restart_required.iter();
        Ok(restart
            .map(|path| format!("{path}: takes effect at the next start"))
            .collect())
    }
}
