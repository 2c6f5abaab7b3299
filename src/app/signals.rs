//! Signals.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin::ShutdownMode;

/// Signals and what they mean (PgBouncer's manual, "Signals").
pub(super) struct Signals {
    hup: Signal,
    term: Signal,
    int: Signal,
    quit: Signal,
    usr1: Signal,
    usr2: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Read the configuration again.
    Reload,
    /// End.
    Shutdown(ShutdownMode),
    /// PAUSE.
    Pause,
    /// RESUME.
    Resume,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            hup: signal(SignalKind::hangup())?,
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
        })
    }

    pub(super) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.hup.recv() => Wish::Reload,
            _ = self.term.recv() => Wish::Shutdown(ShutdownMode::WaitForClients),
            _ = self.int.recv() => Wish::Shutdown(ShutdownMode::WaitForServers),
            _ = self.quit.recv() => Wish::Shutdown(ShutdownMode::Immediate),
            _ = self.usr1.recv() => Wish::Pause,
            _ = self.usr2.recv() => Wish::Resume,
        }
    }
}
