//! Result sets of the console: what describes, carries and ends them (manual, section 55.7).

use bytes::{BufMut, BytesMut};

use super::error::put_text;
use super::message::write_message;
use super::tag::server as tag;

/// Types of console columns, by their OIDs in `pg_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// `bool`.
    Bool,
    /// `int4`.
    Int4,
    /// `int8`.
    Int8,
    /// `numeric`.
    Numeric,
    /// `text`.
    Text,
}

impl ColumnType {
    /// Its OID.
    pub const fn oid(self) -> u32 {
        match self {
            Self::Bool => 16,
            Self::Int8 => 20,
            Self::Int4 => 23,
            Self::Text => 25,
            Self::Numeric => 1700,
        }
    }

    /// `typlen`; -1 for what varies.
    const fn size(self) -> i16 {
        match self {
            Self::Bool => 1,
            Self::Int4 => 4,
            Self::Int8 => 8,
            Self::Numeric | Self::Text => -1,
        }
    }
}

/// Appends a `RowDescription` of columns in text format that belong to no table.
pub fn row_description(columns: &[(&str, ColumnType)], out: &mut BytesMut) {
    write_message(tag::ROW_DESCRIPTION, out, |out| {
        out.put_u16(columns.len() as u16);
        for (name, column) in columns {
            put_text(name, out);
            out.put_u32(0);
            out.put_u16(0);
            out.put_u32(column.oid());
            out.put_i16(column.size());
            out.put_i32(-1);
            out.put_u16(0);
        }
    });
}

/// Appends a `DataRow` of text values; `None` is NULL.
pub fn data_row<T: AsRef<str>>(values: &[Option<T>], out: &mut BytesMut) {
    write_message(tag::DATA_ROW, out, |out| {
        out.put_u16(values.len() as u16);
        for value in values {
            match value {
                Some(text) => {
                    let text = text.as_ref().as_bytes();
                    out.put_u32(text.len() as u32);
                    out.put_slice(text);
                }
                None => out.put_i32(-1),
            }
        }
    });
}

/// Appends a `CommandComplete` with its tag, e.g. `SHOW`.
pub fn command_complete(command: &str, out: &mut BytesMut) {
    write_message(tag::COMMAND_COMPLETE, out, |out| put_text(command, out));
}

/// Appends a `ParameterDescription`.
pub fn parameter_description(type_oids: &[u32], out: &mut BytesMut) {
    write_message(tag::PARAMETER_DESCRIPTION, out, |out| {
        out.put_u16(type_oids.len() as u16);
        for oid in type_oids {
            out.put_u32(*oid);
        }
    });
}
