//! The rows of `SHOW CONFIG`.

use super::row::{Reload, Section};
use super::{Config, row::Setting};

/// One row of `SHOW CONFIG`: PgBouncer's four columns, times in seconds as it shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigRow {
    /// PgBouncer's name of the setting, or `clusters.NAME.setting`.
    pub key: String,
    /// The value in force.
    pub value: String,
    /// The value if the file did not say.
    pub default: String,
    /// Does RELOAD change it?
    pub changeable: bool,
}

/// The settings of the instance, then those of each cluster. Secrets are not among them.
pub fn show_config(config: &Config) -> Vec<ConfigRow> {
    let mut rows = section(&config.listen, "");
    rows.extend(section(&config.general, ""));
    for (name, cluster) in &config.clusters {
        rows.extend(section(&**cluster, &format!("clusters.{name}.")));
    }
    rows
}

fn section<S: Section>(section: &S, prefix: &str) -> Vec<ConfigRow> {
    let row = |setting: &Setting<S>| ConfigRow {
        key: format!("{prefix}{}", setting.row.pgbouncer),
        value: setting.row.kind.show(&(setting.get)(section)),
        default: setting
            .row
            .default()
            .map(|value| setting.row.kind.show(&value))
            .unwrap_or_default(),
        changeable: setting.row.reload == Reload::Live,
    };
    S::SETTINGS.iter().map(row).collect()
}
