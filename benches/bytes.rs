//! Protocol 3 as fixed bytes: what the load sends, what the fake backend answers, and a scanner that
//! finds message boundaries in both.

/// Rows of the big result and their width; both backends give about 10 MB.
const BIG_ROWS: usize = 10_240;
const BIG_WIDTH: usize = 1000;

/// One small row.
pub(crate) const SMALL: &str = "SELECT 1";
/// About 10 MB.
pub(crate) const BIG: &str = "SELECT repeat('x', 1000) FROM generate_series(1, 10240)";
/// Takes [`copy_data`].
pub(crate) const COPY: &str = "COPY sink FROM STDIN";

/// A message: tag, length, body.
pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message");
    let mut bytes = vec![tag];
    bytes.extend(length.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// StartupMessage, protocol 3.0.
pub(crate) fn startup(user: &str, database: &str) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for text in ["user", user, "database", database, ""] {
        body.extend(text.as_bytes());
        body.push(0);
    }
    // The same as a message without its tag.
    message(0, &body)[1..].to_vec()
}

/// Query.
pub(crate) fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &zero_terminated(sql))
}

/// Parse of `SMALL` as statement `s`, and Sync.
pub(crate) fn prepare() -> Vec<u8> {
    let body = [&zero_terminated("s")[..], &zero_terminated(SMALL), &[0, 0]].concat();
    [message(b'P', &body), message(b'S', &[])].concat()
}

/// Bind of `s`, Execute, Sync.
pub(crate) fn execute() -> Vec<u8> {
    let bind = [&zero_terminated("")[..], &zero_terminated("s"), &[0; 6]].concat();
    let run = [&zero_terminated("")[..], &[0; 4]].concat();
    [
        message(b'B', &bind),
        message(b'E', &run),
        message(b'S', &[]),
    ]
    .concat()
}

/// Terminate.
pub(crate) fn terminate() -> Vec<u8> {
    message(b'X', &[])
}

/// About 10 MB of CopyData in messages of 64 KiB, and CopyDone.
pub(crate) fn copy_data() -> Vec<u8> {
    let line = [vec![b'x'; 1023], vec![b'\n']].concat();
    let chunk = message(b'd', &line.repeat(64));
    [chunk.repeat(160), message(b'c', &[])].concat()
}

/// What a server says from the StartupMessage to the first ReadyForQuery.
pub(crate) fn welcome() -> Vec<u8> {
    let mut bytes = message(b'R', &[0; 4]);
    for (name, value) in [
        ("application_name", ""),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("integer_datetimes", "on"),
        ("IntervalStyle", "postgres"),
        ("is_superuser", "off"),
        ("server_encoding", "UTF8"),
        ("server_version", "15.0"),
        ("session_authorization", "bench"),
        ("standard_conforming_strings", "on"),
        ("TimeZone", "UTC"),
    ] {
        let body = [zero_terminated(name), zero_terminated(value)].concat();
        bytes.extend(message(b'S', &body));
    }
    bytes.extend(message(b'K', &[0, 0, 0, 42, 1, 2, 3, 4]));
    bytes.extend(ready());
    bytes
}

/// The answer to [`SMALL`].
pub(crate) fn small_result() -> Vec<u8> {
    [
        row_description(),
        data_row(b"1"),
        complete("SELECT 1"),
        ready(),
    ]
    .concat()
}

/// The answer to [`BIG`].
pub(crate) fn big_result() -> Vec<u8> {
    let rows = data_row(&[b'x'; BIG_WIDTH]).repeat(BIG_ROWS);
    [row_description(), rows, complete("SELECT 10240"), ready()].concat()
}

/// CopyInResponse: text, one column.
pub(crate) fn copy_in() -> Vec<u8> {
    message(b'G', &[0, 0, 1, 0, 0])
}

/// The answer to Execute.
pub(crate) fn executed() -> Vec<u8> {
    [data_row(b"1"), complete("SELECT 1")].concat()
}

/// CommandComplete.
pub(crate) fn complete(tag: &str) -> Vec<u8> {
    message(b'C', &zero_terminated(tag))
}

/// ReadyForQuery, idle.
pub(crate) fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

fn row_description() -> Vec<u8> {
    let mut body = vec![0, 1];
    body.extend(zero_terminated("?column?"));
    // No table, no column, int4, 4 bytes, no modifier, text.
    body.extend([
        0, 0, 0, 0, 0, 0, 0, 0, 0, 23, 0, 4, 255, 255, 255, 255, 0, 0,
    ]);
    message(b'T', &body)
}

fn data_row(value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).expect("a short value");
    let body = [&[0, 1][..], &length.to_be_bytes(), value].concat();
    message(b'D', &body)
}

fn zero_terminated(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// Walks over messages that arrive in pieces; bodies are skipped, not gathered.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    header: [u8; 5],
    have: usize,
    body: usize,
}

impl Scanner {
    /// Calls `seen` with the tag of each message whose header is complete by now. True when
    /// nothing is half-read.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut seen: impl FnMut(u8)) -> bool {
        while !bytes.is_empty() {
            let skipped = self.body.min(bytes.len());
            self.body -= skipped;
            bytes = &bytes[skipped..];
            let taken = bytes.len().min(5 - self.have);
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == 5 {
                let [tag, length @ ..] = self.header;
                self.have = 0;
                self.body = (u32::from_be_bytes(length) as usize).saturating_sub(4);
                seen(tag);
            }
        }
        self.have == 0 && self.body == 0
    }
}
