//! The reference of all settings, made from their table: `docs/settings.md`.

use std::fmt::Write;

use super::row::{Fallback, Reload, Row, Section};
use super::{ClusterConfig, DatabaseConfig, General, Listen, MonitorLogin, NodeConfig};

const INTRODUCTION: &str = "\
# Settings

Made from `src/config/settings.rs` (`UPDATE_DOCS=1 cargo test` rewrites it): do not edit.

The configuration is a TOML file; `pgsluice check FILE` names each mistake with its line.
`config/pgsluice.toml` is an example to copy.

- **Times** are texts with a unit (`\"300ms\"`, `\"10s\"`, `\"5min\"`, `\"1h\"`, `\"1d\"`) or bare numbers, which are
  seconds as in PgBouncer (fractions allowed; `tcp_user_timeout` is in milliseconds, as there).
- **Sizes** are texts with PostgreSQL's units (`\"16MB\"`; 1 kB = 1024 B) or bare numbers of bytes.
- **Booleans** are `true` and `false`, or PgBouncer's `1` and `0`.
- **Lists** are TOML lists of texts, or one text with commas.
- `${VARIABLE}` within a text stands for a variable of the environment; `$${` stands for a plain `${`.
- A **secret** may also be `\"file:/path\"`: the contents of that file without the last line end. Secrets
  are never shown in a log, in SHOW or in an error.
- *Change: RELOAD* takes effect at RELOAD or SIGHUP; *restart* at the next start. RELOAD takes a file
  with a mistake not at all, and names what waits for a restart.
";

/// The reference in Markdown.
pub fn reference() -> String {
    let mut text = INTRODUCTION.to_owned();
    section::<Listen>(&mut text);
    section::<General>(&mut text);
    section::<ClusterConfig>(&mut text);
    section::<MonitorLogin>(&mut text);
    section::<NodeConfig>(&mut text);
    section::<DatabaseConfig>(&mut text);
    text
}

fn section<S: Section>(text: &mut String) {
    // Writing to a String cannot fail.
    let _ = write!(text, "\n## `[{}]`\n\n{}\n", S::PATH, prose(S::DOC));
    for row in S::rows() {
        setting(text, row);
    }
}

fn setting(text: &mut String, row: &Row) {
    let default = match row.fallback {
        Fallback::Text("") => "empty".to_owned(),
        Fallback::Text(default) => format!("`{default}`"),
        Fallback::Unset(meaning) => meaning.to_owned(),
        Fallback::Required => "none, required".to_owned(),
    };
    let change = match row.reload {
        Reload::Live => "RELOAD",
        Reload::Restart => "restart",
    };
    let _ = write!(text, "\n### `{}`\n\n{}\n\n", row.key, prose(row.doc));
    let _ = writeln!(
        text,
        "- Value: {}\n- Default: {default}\n- Change: {change}",
        row.kind
    );
    if row.pgbouncer != row.key {
        let _ = writeln!(text, "- PgBouncer's name: `{}`", row.pgbouncer);
    }
}

/// Lines of doc comments as they are, without the space after the slashes.
fn prose(doc: &str) -> String {
    doc.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}
