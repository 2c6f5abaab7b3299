//! What a statement answers, and its form on the wire (PostgreSQL manual, section 55.7). Pure.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{BufMut, BytesMut};

use super::failure::Failure;
use crate::wire::NoticeResponse;
use crate::wire::message::{ColumnType, write_message};
use crate::wire::tag::server;

/// Name and type of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: Cow<'static, str>,
    pub(super) kind: ColumnType,
}

impl Column {
    pub(super) fn new(name: impl Into<Cow<'static, str>>, kind: ColumnType) -> Self {
        Self {
            name: name.into(),
            kind,
        }
    }
}

/// One field of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Text(String),
    Int4(i32),
    Int8(i64),
    /// A numeric without fraction.
    Count(u64),
    /// A numeric with three digits of fraction: milliseconds.
    Millis(Duration),
    /// A numeric with three digits of fraction: seconds.
    Seconds(Duration),
    Bool(bool),
}

/// What a statement that was carried out answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) notices: Vec<NoticeResponse>,
    /// `Some`: a result set with the columns announced for the statement.
    pub(super) rows: Option<Vec<Vec<Value>>>,
    /// Command tag.
    pub(super) tag: Cow<'static, str>,
}

impl Answer {
    pub(super) fn tag(tag: &'static str) -> Self {
        Self {
            tag: Cow::Borrowed(tag),
            ..Self::default()
        }
    }

    pub(super) fn rows(tag: &'static str, rows: Vec<Vec<Value>>) -> Self {
        Self {
            rows: Some(rows),
            ..Self::tag(tag)
        }
    }

    pub(super) fn notices(self, notices: Vec<NoticeResponse>) -> Self {
        Self { notices, ..self }
    }
}

/// Result formats as Bind gives them: none means text, one is for all columns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Formats(pub(super) Vec<i16>);

impl Formats {
    fn of(&self, column: usize) -> i16 {
        match self.0.as_slice() {
            [] => 0,
            [all] => *all,
            each => each.get(column).copied().unwrap_or_default(),
        }
    }
}

/// Writes a `RowDescription`: columns of no table, in the formats asked for.
pub(super) fn row_description(columns: &[Column], formats: &Formats, out: &mut BytesMut) {
    write_message(server::ROW_DESCRIPTION, out, |out| {
        put_count(out, columns.len());
        for (at, column) in columns.iter().enumerate() {
            put_text(&column.name, out);
            out.put_u32(0);
            out.put_i16(0);
            out.put_u32(column.kind.oid());
            out.put_i16(size(column.kind));
            out.put_i32(-1);
            out.put_i16(formats.of(at));
        }
    });
}

/// `typlen`; -1 for what varies.
const fn size(kind: ColumnType) -> i16 {
    match kind {
        ColumnType::Bool => 1,
        ColumnType::Int4 => 4,
        ColumnType::Int8 => 8,
        ColumnType::Numeric | ColumnType::Text => -1,
    }
}

/// Writes a `DataRow` in the formats asked for.
pub(super) fn data_row(row: &[Value], formats: &Formats, out: &mut BytesMut) {
    write_message(server::DATA_ROW, out, |out| {
        put_count(out, row.len());
        for (at, value) in row.iter().enumerate() {
            if *value == Value::Null {
                out.put_i32(-1);
                continue;
            }
            let start = out.len();
            out.put_u32(0);
            if formats.of(at) == 1 {
                put_binary(out, value);
            } else {
                out.put_slice(text_form(value).as_bytes());
            }
            let length = u32::try_from(out.len() - start - 4).unwrap_or_default();
            if let Some(field) = out.get_mut(start..start + 4) {
                field.copy_from_slice(&length.to_be_bytes());
            }
        }
    });
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u16(u16::try_from(count).unwrap_or(u16::MAX));
}

/// As the type's output function prints it.
pub(super) fn text_form(value: &Value) -> Cow<'_, str> {
    match value {
        Value::Null => Cow::Borrowed(""),
        Value::Text(text) => Cow::Borrowed(text),
        Value::Int4(number) => Cow::Owned(number.to_string()),
        Value::Int8(number) => Cow::Owned(number.to_string()),
        Value::Count(number) => Cow::Owned(number.to_string()),
        Value::Millis(duration) => Cow::Owned(format!(
            "{}.{:03}",
            duration.as_millis(),
            duration.subsec_micros() % 1000
        )),
        Value::Seconds(duration) => Cow::Owned(format!(
            "{}.{:03}",
            duration.as_secs(),
            duration.subsec_millis()
        )),
        Value::Bool(yes) => Cow::Borrowed(if *yes { "t" } else { "f" }),
    }
}

/// As the type's send function writes it.
fn put_binary(out: &mut BytesMut, value: &Value) {
    match value {
        Value::Null => {}
        Value::Text(text) => out.put_slice(text.as_bytes()),
        Value::Int4(number) => out.put_i32(*number),
        Value::Int8(number) => out.put_i64(*number),
        Value::Count(number) => put_numeric(out, u128::from(*number), 0, 0),
        Value::Millis(duration) => {
            // One digit group holds four decimals: 12.345 is 12 and 3450.
            let fraction = duration.subsec_micros() % 1000 * 10;
            put_numeric(out, duration.as_millis(), fraction as u16, 3);
        }
        Value::Seconds(duration) => {
            let fraction = duration.subsec_millis() * 10;
            put_numeric(out, u128::from(duration.as_secs()), fraction as u16, 3);
        }
        Value::Bool(yes) => out.put_u8(u8::from(*yes)),
    }
}

/// `numeric_send`: number of base-10000 digits, weight of the first, sign, decimals shown, digits.
fn put_numeric(out: &mut BytesMut, whole: u128, fraction: u16, decimals: u16) {
    const BASE: u128 = 10_000;
    let mut digits = Vec::new();
    let mut rest = whole;
    while rest > 0 {
        digits.push((rest % BASE) as u16);
        rest /= BASE;
    }
    digits.reverse();
    // At most ten digits: a u128 of 39 decimals.
    let weight = i16::try_from(digits.len()).unwrap_or_default() - 1;
    if decimals > 0 {
        digits.push(fraction);
    }
    put_count(out, digits.len());
    out.put_i16(weight);
    out.put_u16(0);
    out.put_u16(decimals);
    for digit in digits {
        out.put_u16(digit);
    }
}

/// Writes an `ErrorResponse`; unlike [`crate::wire::ErrorResponse`] it can point into the query.
pub(super) fn error(failure: &Failure, out: &mut BytesMut) {
    write_message(server::ERROR, out, |out| {
        put_fields("ERROR", failure.sqlstate, &failure.message, out);
        let position = failure.at.map(|at| at.to_string());
        for (code, text) in [
            (b'D', failure.detail.as_deref()),
            (b'H', failure.hint.as_deref()),
            (b'P', position.as_deref()),
        ] {
            if let Some(text) = text {
                out.put_u8(code);
                put_text(text, out);
            }
        }
        out.put_u8(0);
    });
}

fn put_fields(severity: &str, sqlstate: &str, text: &str, out: &mut BytesMut) {
    for (code, text) in [
        (b'S', severity),
        (b'V', severity),
        (b'C', sqlstate),
        (b'M', text),
    ] {
        out.put_u8(code);
        put_text(text, out);
    }
}

/// A C string: what follows a NUL would be taken for the next field.
fn put_text(text: &str, out: &mut BytesMut) {
    out.put_slice(text.split('\0').next().unwrap_or_default().as_bytes());
    out.put_u8(0);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::BytesMut;

    use super::{Formats, Value, data_row, put_binary, text_form};

    #[test]
    fn numerics_are_postgresql_s() {
        // What select '...'::numeric sends in binary.
        for (value, text, binary) in [
            (Value::Count(0), "0", vec![0_i16, -1, 0, 0]),
            (Value::Count(1), "1", vec![1, 0, 0, 0, 1]),
            (Value::Count(10_000), "10000", vec![2, 1, 0, 0, 1, 0]),
            (
                Value::Count(123_456_789),
                "123456789",
                vec![3, 2, 0, 0, 1, 2345, 6789],
            ),
            (
                Value::Millis(Duration::from_micros(12_345)),
                "12.345",
                vec![2, 0, 0, 3, 12, 3450],
            ),
            (
                Value::Millis(Duration::from_micros(7)),
                "0.007",
                vec![1, -1, 0, 3, 70],
            ),
            (
                Value::Millis(Duration::from_millis(61_001)),
                "61001.000",
                vec![3, 1, 0, 3, 6, 1001, 0],
            ),
        ] {
            let mut out = BytesMut::new();
            put_binary(&mut out, &value);
            let words: Vec<i16> = out
                .chunks(2)
                .map(|pair| i16::from_be_bytes([pair[0], pair[1]]))
                .collect();
            assert_eq!(words, binary, "{text}");
            assert_eq!(text_form(&value), text);
        }
    }

    #[test]
    fn each_column_has_the_format_that_was_asked_for() {
        let mut out = BytesMut::new();
        let row = [Value::Int4(7), Value::Int4(7), Value::Null];
        data_row(&row, &Formats(vec![0, 1, 1]), &mut out);
        let body = b"\0\x03\0\0\0\x017\0\0\0\x04\0\0\0\x07\xFF\xFF\xFF\xFF";
        assert_eq!(&out[5..], body);
    }
}
