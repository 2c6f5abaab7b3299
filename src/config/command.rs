//! Programs that pgsluice runs: a program and its arguments, never a shell.

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// Path, or a name that is looked up in `PATH`.
    pub program: String,
    /// Each reaches the program as it is.
    pub arguments: Vec<String>,
}
