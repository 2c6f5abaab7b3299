//! Bytes of a console client: whole messages in, answers out, and waits that notice a client who
//! cancels or leaves.

use std::future::{Future, pending};
use std::pin::Pin;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use super::ConsoleError;
use crate::wire::{MAX_CONSOLE_MESSAGE, RawMessage};

/// Answers are sent when this much has gathered.
const FLUSH_AT: usize = 32 * 1024;
/// What one read takes; all that an idle console holds.
const READ: usize = 512;

pub(super) struct Connection<S> {
    stream: S,
    input: BytesMut,
    pub(super) output: BytesMut,
    cancelled: watch::Receiver<u64>,
}

/// Why a wait ended early.
#[derive(Debug)]
pub(super) enum Interrupt {
    /// A cancel request came.
    Cancelled,
    /// The time given was over.
    TimedOut,
    /// The client closed its connection, or it broke.
    ClientLeft,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S, leftover: BytesMut, cancelled: watch::Receiver<u64>) -> Self {
        Self {
            stream,
            input: leftover,
            output: BytesMut::new(),
            cancelled,
        }
    }

    /// The next message; `None`: the client closed its connection.
    pub(super) async fn next(&mut self) -> Result<Option<RawMessage>, ConsoleError> {
        loop {
            if let Some(message) = RawMessage::take(&mut self.input, MAX_CONSOLE_MESSAGE)? {
                return Ok(Some(message));
            }
            if self.input.is_empty() {
                self.input = BytesMut::with_capacity(READ);
            }
            if self.read().await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn read(&mut self) -> std::io::Result<usize> {
        self.input.reserve(READ);
        self.stream.read_buf(&mut self.input).await
    }

    /// Sends what has gathered. Dropped in the middle, it can be called again and goes on where it
    /// was.
    pub(super) async fn flush(&mut self) -> Result<(), ConsoleError> {
        self.stream.write_all_buf(&mut self.output).await?;
        self.stream.flush().await?;
        self.output = BytesMut::new();
        Ok(())
    }

    /// Sends what has gathered if it is much.
    pub(super) async fn flush_if_full(&mut self) -> Result<(), ConsoleError> {
        if self.output.len() >= FLUSH_AT {
            self.flush().await?;
        }
        Ok(())
    }

    /// A cancel request that came before this was meant for an earlier statement.
    pub(super) fn begin_statement(&mut self) {
        self.cancelled.mark_unchanged();
    }

    /// Waits for `future`, at most `limit`, while the client stays and does not cancel. What it
    /// sends meanwhile is kept for later. The future is not dropped: the caller may go on with it.
    pub(super) async fn until<F: Future>(
        &mut self,
        mut future: Pin<&mut F>,
        limit: Option<Duration>,
    ) -> Result<F::Output, Interrupt> {
        let expired = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => pending().await,
            }
        };
        tokio::pin!(expired);
        // What is done already is not held up by a client that does not read.
        let now = std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx))).await;
        if let std::task::Poll::Ready(output) = now {
            return Ok(output);
        }
        // Earlier answers of the same query must not wait for this one.
        self.flush().await.map_err(|_| Interrupt::ClientLeft)?;
        loop {
            let full = self.input.len() > MAX_CONSOLE_MESSAGE;
            let (input, stream) = (&mut self.input, &mut self.stream);
            let read = async {
                if full {
                    return pending().await;
                }
                input.reserve(READ);
                stream.read_buf(input).await
            };
            tokio::select! {
                biased;
                output = future.as_mut() => return Ok(output),
                () = cancel(&mut self.cancelled) => return Err(Interrupt::Cancelled),
                () = &mut expired => return Err(Interrupt::TimedOut),
                read = read => if !matches!(read, Ok(1..)) {
                    return Err(Interrupt::ClientLeft);
                },
            }
        }
    }
}

async fn cancel(cancelled: &mut watch::Receiver<u64>) {
    if cancelled.changed().await.is_err() {
        // Nobody can cancel any more.
        pending::<()>().await;
    }
}
