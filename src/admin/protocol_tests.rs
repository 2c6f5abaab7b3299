//! Whole conversations over an in-memory stream.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::{Console, ConsoleError, ConsoleLogin, Privilege, Request, ShutdownMode, VERSION, serve};
use crate::config::{Config, DatabaseName, UserName};
use crate::wire::message::write_message;
use crate::wire::{BackendKey, RawMessage, Report};

/// A console client, and the parts behind the console that a test plays itself.
struct Client {
    stream: DuplexStream,
    input: BytesMut,
    cancel: watch::Sender<u64>,
    requests: mpsc::Receiver<Request>,
    server: JoinHandle<Result<(), ConsoleError>>,
}

impl Client {
    /// Logs in and reads the greeting.
    async fn new(privilege: Privilege) -> Self {
        let (stream, server) = duplex(1024);
        let (cancel, cancelled) = watch::channel(0);
        let (sender, requests) = mpsc::channel(1);
        let login = ConsoleLogin {
            user: UserName::new("dba"),
            database: DatabaseName::new("pgsluice"),
            privilege,
            key: BackendKey {
                pid: 4711,
                key: Bytes::from_static(b"1234"),
            },
            cancelled,
        };
        let console = console(sender);
        let server = tokio::spawn(async move {
            // The first message came together with the last one of the login.
            let leftover = BytesMut::from(&b"Q\0\0\0\x06;\0"[..]);
            serve(server, leftover, &console, login).await
        });
        let mut client = Self {
            stream,
            input: BytesMut::new(),
            cancel,
            requests,
            server,
        };
        let greeting = client.answers().await;
        for parameter in [
            "S server_version=14.0 (pgsluice 0.1.0)",
            "S client_encoding=UTF8",
            "S standard_conforming_strings=on",
            "S DateStyle=ISO, MDY",
            "S integer_datetimes=on",
        ] {
            assert!(greeting.iter().any(|line| line == parameter), "{parameter}");
        }
        assert_eq!(greeting[greeting.len() - 2..], ["K", "Z I"]);
        assert_eq!(client.answers().await, ["I", "Z I"]);
        client
    }

    async fn send(&mut self, messages: &[(u8, &[u8])]) {
        let mut bytes = BytesMut::new();
        for (tag, body) in messages {
            write_message(*tag, &mut bytes, |out| out.put_slice(body));
        }
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn send_query(&mut self, query: &str) {
        self.send(&[(b'Q', format!("{query}\0").as_bytes())]).await;
    }

    async fn query(&mut self, query: &str) -> Vec<String> {
        self.send_query(query).await;
        self.answers().await
    }

    async fn message(&mut self) -> Option<RawMessage> {
        loop {
            if let Some(message) = RawMessage::take(&mut self.input, usize::MAX).unwrap() {
                return Some(message);
            }
            if self.stream.read_buf(&mut self.input).await.unwrap() == 0 {
                return None;
            }
        }
    }

    /// Everything up to ReadyForQuery or the end, one line each.
    async fn answers(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(message) = self.message().await {
            lines.push(line(&message));
            if message.tag == b'Z' {
                break;
            }
        }
        lines
    }

    async fn ended(self) -> Result<(), ConsoleError> {
        drop(self.stream);
        self.server.await.unwrap()
    }
}

fn line(message: &RawMessage) -> String {
    let tag = char::from(message.tag);
    let body = &message.body;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\0', "=");
    match message.tag {
        b'E' | b'N' => {
            let report = Report::parse(body);
            format!("{tag} {:?} {}", report.code.unwrap(), report.message.unwrap())
        }
        b'S' => format!("S {}", text(body).trim_end_matches('=')),
        b'C' => format!("C {}", text(body).trim_end_matches('=')),
        b'Z' => format!("Z {}", text(body)),
        b'T' => format!("T {}", names(body).join(",")),
        b'D' => format!("D {}", fields(body).join(",")),
        _ => tag.to_string(),
    }
}

fn names(body: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = &body[2..];
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        names.push(String::from_utf8_lossy(&rest[..end]).into_owned());
        rest = &rest[end + 19..];
    }
    names
}

fn fields(body: &[u8]) -> Vec<String> {
    let mut fields = Vec::new();
    let mut rest = &body[2..];
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        fields.push(String::from_utf8_lossy(&after[..length]).into_owned());
        rest = &after[length..];
    }
    fields
}

fn console(requests: mpsc::Sender<Request>) -> Console {
    todo!()
}
