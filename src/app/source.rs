//! Where the configuration comes from.

use std::fs;
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
        Ok(Loaded { config, users })
    }
}

fn lines<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}
