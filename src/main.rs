//! Command line to exit code: the only place that prints.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is the place that prints"
)]

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand};
use pgsluice::app::{self, AppError, FileSource, Source};
use tracing_subscriber::EnvFilter;

/// A PostgreSQL connection pooler that sees replication.
#[derive(Debug, Parser)]
#[command(
    name = "pgsluice",
    disable_version_flag = true,
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    /// Configuration file.
    config: Option<PathBuf>,
    /// Say more; may be repeated.
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    /// Say only warnings and errors.
    #[arg(short, long)]
    quiet: bool,
    /// Print the version and end.
    #[arg(short = 'V', long)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read a configuration and tell all that is wrong with it. Exit code 0: nothing.
    Check {
        /// The file.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.version {
        println!("pgsluice {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    if let Some(Command::Check { file }) = arguments.command {
        return check(&file);
    }
    let Some(config) = arguments.config else {
        eprintln!("pgsluice: which configuration file? Try: pgsluice --help");
        return ExitCode::FAILURE;
    };
    serve(config, arguments.verbose, arguments.quiet)
}

fn check(path: &Path) -> ExitCode {
    match (FileSource {
        path: path.to_owned(),
    })
    .load()
    {
        Ok(loaded) => {
            let (clusters, databases) =
                (loaded.config.clusters.len(), loaded.config.databases.len());
            let users = loaded.users.len();
            for warning in &loaded.warnings {
                eprintln!("warning: {warning}");
            }
            println!(
                "{}: ok ({clusters} clusters, {databases} databases, {users} users)",
                path.display()
            );
            ExitCode::SUCCESS
        }
        Err(mistakes) => {
            eprintln!("{mistakes}");
            ExitCode::FAILURE
        }
    }
}

fn serve(path: PathBuf, verbose: u8, quiet: bool) -> ExitCode {
    let level = match (quiet, verbose) {
        (true, _) => "warn",
        (false, 0) => log_level(&path),
        (false, 1) => "info,pgsluice=debug",
        (false, _) => "info,pgsluice=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let ready = |sockets: &pgsluice::listener::Sockets| {
        tracing::info!(addresses = ?sockets.tcp_addresses(), "listening");
    };
    match app::run(Box::new(FileSource { path }), ready) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// `log_level` of the file. A file that cannot be read is complained of later, by whoever runs it.
fn log_level(path: &Path) -> &'static str {
    let source = FileSource {
        path: path.to_owned(),
    };
    source
        .load()
        .map_or("info", |loaded| loaded.config.general.log_level.as_str())
}

/// The error and its causes, in one line (a wrong configuration: a line for each mistake).
fn complain(error: &AppError) {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(deeper) = cause {
        text.push_str(": ");
        text.push_str(&deeper.to_string());
        cause = deeper.source();
    }
    eprintln!("pgsluice: {text}");
}
