//! A backend that answers at once, so that what is measured is the pooler. Connections of the user
//! `monitor` are passed on to the real PostgreSQL: whoever checks the node's health finds one.

use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Result, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

use crate::bytes;

/// Serves on `listener` for as long as the process lives, on a thread of its own.
pub(crate) fn spawn(listener: std::net::TcpListener, postgres_port: u16) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        LocalSet::new().block_on(&runtime, accept(listener, postgres_port));
    });
}

async fn accept(listener: std::net::TcpListener, postgres_port: u16) {
    listener.set_nonblocking(true).expect("non-blocking");
    let listener = TcpListener::from_std(listener).expect("a listener");
    let answers = Rc::new(Answers::new());
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let answers = Rc::clone(&answers);
        // A client that leaves in the middle ends its own task only.
        spawn_local(async move { serve(stream, &answers, postgres_port).await });
    }
}

/// Everything it can say, built once.
struct Answers {
    welcome: Vec<u8>,
    small: Vec<u8>,
    big: Vec<u8>,
    copy_in: Vec<u8>,
    copied: Vec<u8>,
    executed: Vec<u8>,
    reset: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        Self {
            welcome: bytes::welcome(),
            small: bytes::small_result(),
            big: bytes::big_result(),
            copy_in: bytes::copy_in(),
            copied: [bytes::complete("COPY 10240"), bytes::ready()].concat(),
            executed: bytes::executed(),
            reset: [bytes::complete("DISCARD ALL"), bytes::ready()].concat(),
        }
    }

    fn to_query(&self, sql: &[u8]) -> &[u8] {
        let starts = |text: &str| {
            sql.get(..text.len())
                .is_some_and(|s| s.eq_ignore_ascii_case(text.as_bytes()))
        };
        if starts("SELECT repeat") {
            &self.big
        } else if starts("SELECT") {
            &self.small
        } else if starts("COPY") {
            &self.copy_in
        } else {
            &self.reset
        }
    }
}

async fn serve(mut stream: TcpStream, answers: &Answers, postgres_port: u16) -> Result<()> {
    stream.set_nodelay(true)?;
    let startup = loop {
        let packet = untagged(&mut stream).await?;
        // SSLRequest and GSSENCRequest carry 1234 where the major version stands.
        if packet.get(4..6) != Some(&[0x04, 0xD2]) {
            break packet;
        }
        stream.write_all(b"N").await?;
    };
    if startup.windows(13).any(|w| w == b"user\0monitor\0") {
        let mut postgres = TcpStream::connect(("127.0.0.1", postgres_port)).await?;
        postgres.write_all(&startup).await?;
        copy_bidirectional(&mut stream, &mut postgres).await?;
        return Ok(());
    }
    stream.write_all(&answers.welcome).await?;
    relay_answers(stream, answers).await
}

/// A packet of the startup phase, its length included.
async fn untagged(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    let mut packet = vec![0; length.clamp(8, 10_000) as usize];
    packet[..4].copy_from_slice(&length.to_be_bytes());
    stream.read_exact(&mut packet[4..]).await?;
    Ok(packet)
}

async fn relay_answers(mut stream: TcpStream, answers: &Answers) -> Result<()> {
    let mut held = Vec::with_capacity(512);
    let mut out = Vec::new();
    let mut skip = 0;
    loop {
        stream.readable().await?;
        // Only a session that just got bytes has a buffer: 2,000 of them are open at a time.
        if held.capacity() == 0 {
            held.reserve(512);
        }
        let room = if skip > 0 { 256 * 1024 } else { 8192 };
        held.reserve(room);
        match stream.try_read_buf(&mut held) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        let mut at = skip.min(held.len());
        skip -= at;
        while let Some(&[tag, a, b, c, d]) = held.get(at..at + 5) {
            let length = u32::from_be_bytes([a, b, c, d]) as usize + 1;
            let body = held.get(at + 5..at + length);
            match (tag, body) {
                (b'd', _) => {}
                (_, None) => break,
                (b'Q', Some(sql)) => out.extend(answers.to_query(sql)),
                (b'P', _) => out.extend(bytes::message(b'1', &[])),
                (b'B', _) => out.extend(bytes::message(b'2', &[])),
                (b'E', _) => out.extend(&answers.executed),
                (b'S', _) => out.extend(bytes::ready()),
                (b'c', _) => out.extend(&answers.copied),
                (b'X', _) => return Ok(()),
                _ => {}
            }
            let end = at + length;
            at = end.min(held.len());
            skip = end - at;
        }
        held.drain(..at);
        if held.is_empty() {
            held = Vec::new();
        }
        if !out.is_empty() {
            stream.write_all(&out).await?;
            out.clear();
            out.shrink_to(4096);
        }
    }
}
