//! A client that speaks the protocol byte by byte: what it sends is what the test says, and what
//! it gets is shown as it came.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::Login;

/// One message of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    /// Without tag and length.
    pub body: Vec<u8>,
}

impl Message {
    /// The field of an `ErrorResponse` or `NoticeResponse`, e.g. `b'C'` for the SQLSTATE.
    pub fn field(&self, code: u8) -> Option<String> {
        self.body
            .split(|byte| *byte == 0)
            .find(|field| field.first() == Some(&code))
            .map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
    }

    /// One word: the tag, and what matters most of the body.
    pub fn short(&self) -> String {
        let tag = char::from(self.tag);
        match self.tag {
            b'E' | b'N' => format!("{tag}:{}", self.field(b'C').unwrap_or_default()),
            b'Z' => format!("Z{}", self.body.first().copied().map_or('?', char::from)),
            b'R' => format!("R{}", self.body.get(3).copied().unwrap_or_default()),
            _ => tag.to_string(),
        }
    }
}

/// Messages as text, e.g. `1 2 D C ZI` or `E:22012 ZI`.
pub fn trace(messages: &[Message]) -> String {
    messages
        .iter()
        .map(Message::short)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A connection over TCP.
#[derive(Debug)]
pub struct RawConn {
    stream: TcpStream,
}

impl RawConn {
    /// Connected, nothing sent.
    pub async fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        Self { stream }
    }

    /// Logged in; gives everything that came up to the first ReadyForQuery or error.
    pub async fn login(port: u16, login: Login, dbname: &str) -> (Self, Vec<Message>) {
        let mut conn = Self::open(port).await;
        let parameters = [("user", login.user), ("database", dbname)];
        let messages = conn.startup(login, &parameters).await;
        (conn, messages)
    }

    /// Sends a StartupMessage with these parameters and answers what the server asks for.
    pub async fn startup(&mut self, login: Login, parameters: &[(&str, &str)]) -> Vec<Message> {
        let mut bytes = BytesMut::new();
        frontend::startup_message(parameters.iter().copied(), &mut bytes).expect("startup");
        self.send(&bytes).await;
        let mut scram = None;
        let mut messages = Vec::new();
        while let Some(message) = self.read().await {
            if message.tag == b'R' {
                self.authenticate(&message.body, login, &mut scram).await;
            }
            let end = matches!(message.tag, b'Z' | b'E');
            messages.push(message);
            if end {
                break;
            }
        }
        messages
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("send");
    }

    /// The same, where the other side may have closed.
    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends bytes one write each.
    pub async fn send_slowly(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.send(std::slice::from_ref(byte)).await;
            tokio::task::yield_now().await;
        }
    }

    /// The next message; `None` at the end of the connection.
    pub async fn read(&mut self) -> Option<Message> {
        let read = async {
            let mut head = [0; 5];
            self.stream.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            let mut body = vec![0; usize::try_from(length).ok()?.checked_sub(4)?];
            self.stream.read_exact(&mut body).await.ok()?;
            Some(Message { tag: head[0], body })
        };
        tokio::time::timeout(super::PATIENCE, read)
            .await
            .expect("a message in time")
    }

    /// Messages up to and with the `count`th ReadyForQuery, or the end of the connection.
    pub async fn read_until_ready(&mut self, count: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut ready = 0;
        while ready < count {
            let Some(message) = self.read().await else {
                break;
            };
            ready += usize::from(message.tag == b'Z');
            messages.push(message);
        }
        messages
    }

    /// Everything up to the end of the connection.
    pub async fn read_to_end(&mut self) -> Vec<Message> {
        self.read_until_ready(usize::MAX).await
    }

    /// Is there nothing to read for that long? Only to show that something held is still held.
    pub async fn is_silent(&mut self, time: Duration) -> bool {
        let mut byte = [0];
        tokio::time::timeout(time, self.stream.peek(&mut byte))
            .await
            .is_err()
    }

    /// Simple query; the trace of its answer.
    pub async fn query(&mut self, sql: &str) -> String {
        self.send(&query(sql)).await;
        trace(&self.read_until_ready(1).await)
    }

    /// Simple query; first column of its first row.
    pub async fn value(&mut self, sql: &str) -> Option<String> {
        self.send(&query(sql)).await;
        let messages = self.read_until_ready(1).await;
        let row = messages.iter().find(|message| message.tag == b'D')?;
        // Count of columns, length of the first one, and its text.
        let length = u32::from_be_bytes(row.body.get(2..6)?.try_into().ok()?);
        let text = row.body.get(6..)?.get(..usize::try_from(length).ok()?)?;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    /// Messages up to and with the first of that type, or the end of the connection.
    pub async fn read_until(&mut self, tag: u8) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.read().await {
            let found = message.tag == tag;
            messages.push(message);
            if found {
                break;
            }
        }
        messages
    }

    /// Reads the one byte that answers an encryption request.
    pub async fn skip_byte(&mut self, wanted: u8) {
        let read = tokio::time::timeout(super::PATIENCE, self.stream.read_u8()).await;
        assert_eq!(read.expect("a byte in time").ok(), Some(wanted));
    }

    /// Everything up to the end of the connection, as it came.
    pub async fn read_bytes_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A reset is an end, too.
        let _ = tokio::time::timeout(super::PATIENCE, self.stream.read_to_end(&mut bytes))
            .await
            .expect("an end in time");
        bytes
    }

    /// Ends the connection with a reset in place of an orderly end.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .expect("linger");
    }

    /// Ends what this side sends; the server may go on.
    pub async fn half_close(&mut self) {
        self.stream.shutdown().await.expect("shutdown");
    }

    async fn authenticate(&mut self, body: &[u8], login: Login, scram: &mut Option<ScramSha256>) {
        let mut bytes = BytesMut::new();
        let password = login.password.as_bytes();
        match (body.get(3), body.get(4..)) {
            (Some(3), _) => frontend::password_message(password, &mut bytes).expect("password"),
            (Some(5), Some(salt)) => {
                let salt = salt.try_into().expect("four bytes of salt");
                let hash = md5_hash(login.user.as_bytes(), password, salt);
                frontend::password_message(hash.as_bytes(), &mut bytes).expect("password");
            }
            (Some(10), _) => {
                let first = ScramSha256::new(password, ChannelBinding::unsupported());
                frontend::sasl_initial_response("SCRAM-SHA-256", first.message(), &mut bytes)
                    .expect("sasl");
                *scram = Some(first);
            }
            (Some(11), Some(challenge)) => {
                let scram = scram.as_mut().expect("SASL continues after its start");
                scram.update(challenge).expect("server's first message");
                frontend::sasl_response(scram.message(), &mut bytes).expect("sasl");
            }
            (Some(12), Some(proof)) => {
                scram
                    .as_mut()
                    .expect("SASL")
                    .finish(proof)
                    .expect("server's proof");
            }
            _ => {}
        }
        if !bytes.is_empty() {
            self.send(&bytes).await;
        }
    }
}

/// Query.
pub fn query(sql: &str) -> Vec<u8> {
    built(|bytes| frontend::query(sql, bytes))
}

/// Parse without parameter types.
pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    built(|bytes| frontend::parse(name, sql, std::iter::empty(), bytes))
}

/// Bind of text parameters.
pub fn bind(portal: &str, statement: &str, parameters: &[&str]) -> Vec<u8> {
    built(|bytes| {
        let write = |value: &&str, bytes: &mut BytesMut| {
            bytes.extend_from_slice(value.as_bytes());
            Ok(postgres_protocol::IsNull::No)
        };
        let none = std::iter::empty::<i16>();
        match frontend::bind(
            portal,
            statement,
            none.clone(),
            parameters,
            write,
            none,
            bytes,
        ) {
            Ok(()) => Ok(()),
            Err(_) => Err(std::io::Error::other("bind")),
        }
    })
}

/// Describe of a statement (`b'S'`) or portal (`b'P'`).
pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    built(|bytes| frontend::describe(kind, name, bytes))
}

/// Execute; 0 rows means all.
pub fn execute(portal: &str, rows: i32) -> Vec<u8> {
    built(|bytes| frontend::execute(portal, rows, bytes))
}

/// Close of a statement (`b'S'`) or portal (`b'P'`).
pub fn close(kind: u8, name: &str) -> Vec<u8> {
    built(|bytes| frontend::close(kind, name, bytes))
}

pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

pub fn flush() -> Vec<u8> {
    message(b'H', &[])
}

pub fn terminate() -> Vec<u8> {
    message(b'X', &[])
}

/// Any message of a client.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message");
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Bytes as a person can read them, for the message of a failed assertion.
pub fn printable(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{}", byte.escape_ascii());
        text
    })
}

fn built(build: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    build(&mut bytes).expect("a message");
    bytes.to_vec()
}
