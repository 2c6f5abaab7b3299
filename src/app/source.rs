//! Where the configuration comes from.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::auth::UserList;
use crate::config::{Config, check};

/// Where the configuration comes from. Asked at the start and at every RELOAD.
pub trait Source: Send {
    /// Reads and checks everything. On error: all that is wrong, one mistake a line.
    fn load(&self) -> Result<Loaded, String>;
}

/// A configuration and the users it names.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The content of `auth_file`.
    pub users: UserList,
    /// What is worth a word and no reason not to serve, one line each.
    pub warnings: Vec<String>,
}

impl Loaded {
    pub(super) fn warn(&self) {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
    }
}

/// The usual source: a file, and the files it names.
#[derive(Debug)]
pub struct FileSource {
    /// The configuration file.
    pub path: PathBuf,
}

impl Source for FileSource {
    fn load(&self) -> Result<Loaded, String> {
        let named = |path: &Path| {
            let text = fs::read_to_string(path);
            text.map_err(|error| format!("{}: {error}", path.display()))
        };
        let text = named(&self.path)?;
        let name = self.path.display().to_string();
        let env = |variable: &str| std::env::var(variable).ok();
        let config = check(&text, &name, &env, &|path| fs::read_to_string(path))
            .map_err(|mistakes| lines(&mistakes))?;
        let users = match &config.general.auth_file {
            None => UserList::default(),
            Some(path) => {
                let list =
                    named(path).map_err(|why| format!("{name}: pgsluice.auth_file: {why}"))?;
                UserList::parse(&list)
                    .map_err(|error| format!("{}:{}: {}", path.display(), error.line, error.kind))?
            }
        };
        let warnings = missing_program(&config).map(|why| format!("{name}: {why}"));
        Ok(Loaded {
            config,
            users,
            warnings: warnings.into_iter().collect(),
        })
    }
}

/// Can the notification command be run? A pooler without it serves all the same.
fn missing_program(config: &Config) -> Option<String> {
    let command = config.general.event_notification_command.as_ref()?;
    let program = Path::new(command.program());
    let is_program = |path: &Path| {
        let file = fs::metadata(path);
        file.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    // A name without a slash is looked up, as when it is run.
    let found = if command.program().contains('/') {
        is_program(program)
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| is_program(&directory.join(program)))
    };
    (!found).then(|| {
        let program = program.display();
        format!("pgsluice.event_notification_command: {program} is not an executable file")
    })
}

fn lines<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}
