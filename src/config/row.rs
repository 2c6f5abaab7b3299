//! What a row of the table of settings is made of, and the macro that turns rows into structs.

use std::collections::BTreeMap;
use std::time::Duration;

use super::field::Field;
use super::kind::{Kind, Value};

/// When a changed setting takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reload {
    /// At RELOAD.
    Live,
    /// At the next start.
    Restart,
}

/// What holds when the file does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fallback {
    /// This text, read as if it stood in the file.
    Text(&'static str),
    /// Nothing; what that means, for the reference.
    Unset(&'static str),
    /// The file must say.
    Required,
}

/// A setting, whatever struct it is a field of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// Its name in TOML.
    pub(super) key: &'static str,
    /// Its name on the console and in `pgbouncer.ini`.
    pub(super) pgbouncer: &'static str,
    pub(super) kind: Kind,
    pub(super) fallback: Fallback,
    pub(super) reload: Reload,
    /// The field's doc comment.
    pub(super) doc: &'static str,
}

impl Row {
    /// The value that holds when the file does not say; `None`: the file must.
    pub(super) fn default(&self) -> Option<Value> {
        match self.fallback {
            Fallback::Text(text) => self.kind.parse(text).ok(),
            Fallback::Unset(_) => Some(Value::Off),
            Fallback::Required => None,
        }
    }
}

/// A row together with its field in `S`.
#[derive(Debug)]
pub(super) struct Setting<S> {
    pub(super) row: Row,
    pub(super) get: fn(&S) -> Value,
    /// Copies the field: (to, from).
    pub(super) copy: fn(&mut S, &S),
}

/// A struct made of settings.
pub(super) trait Section: Sized + 'static {
    /// Where it stands in the file, e.g. `clusters.NAME`.
    const PATH: &'static str;
    /// What it is, for the reference.
    const DOC: &'static str;
    /// Its rows.
    const SETTINGS: &'static [Setting<Self>];

    /// The rows without their fields.
    fn rows() -> impl Iterator<Item = &'static Row> {
        Self::SETTINGS.iter().map(|setting| &setting.row)
    }
}

/// Values by TOML key, complete: defaults are filled in.
#[derive(Debug, Default)]
pub(super) struct Values(BTreeMap<&'static str, Value>);

impl Values {
    /// Sets one.
    pub(super) fn put(&mut self, key: &'static str, value: Value) {
        self.0.insert(key, value);
    }

    /// Sets one that has no value yet.
    pub(super) fn put_if_absent(&mut self, key: &'static str, value: Value) {
        self.0.entry(key).or_insert(value);
    }

    /// Sets one whose default depends on something else.
    pub(super) fn put_if_off(&mut self, key: &'static str, value: Value) {
        let entry = self.0.entry(key).or_insert(Value::Off);
        if *entry == Value::Off {
            *entry = value;
        }
    }

    /// Was it not given, or given as "off"?
    pub(super) fn is_off(&self, key: &str) -> bool {
        self.0.get(key).is_none_or(|value| *value == Value::Off)
    }

    /// Is it this text?
    pub(super) fn is_text(&self, key: &str, text: &str) -> bool {
        matches!(self.0.get(key), Some(Value::Text(is)) if is == text)
    }

    /// The number, if it is one.
    pub(super) fn integer(&self, key: &str) -> Option<i64> {
        match self.0.get(key) {
            Some(Value::Integer(number)) => Some(*number),
            _ => None,
        }
    }

    /// The time, if it is one.
    pub(super) fn time(&self, key: &str) -> Option<Duration> {
        match self.0.get(key) {
            Some(Value::Time(time)) => Some(*time),
            _ => None,
        }
    }

    /// Takes one out. `None`: it is required and was not given.
    pub(super) fn take<T: Field>(&mut self, key: &str) -> Option<T> {
        T::from_value(self.0.remove(key)?)
    }
}

/// Declares a struct whose fields are settings.
///
/// The first braces hold fields that are no settings (names, nested sections); `build` wants them
/// as arguments. `[key "x"]` names the setting where it is not the field's name, `[pgbouncer "x"]`
/// gives PgBouncer's name for it.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident $path:literal {
            $($(#[doc = $part_doc:literal])+ $part:ident: $part_type:ty;)*
        } {
            $(
                $(#[doc = $doc:literal])+
                $field:ident $([$alias:ident $text:literal])?: $type:ty =
                    $kind:expr, $fallback:expr, $reload:expr;
            )+
        }
    ) => {
        #[doc = concat!("`[", $path, "]`:")]
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[doc = $part_doc])+ pub $part: $part_type,)*
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        impl $name {
            /// The struct of these values; `None`: a required one is missing.
            pub(super) fn build(mut values: Values, $($part: $part_type),*) -> Option<Self> {
                Some(Self {
                    $($part,)*
                    $($field: values.take(section!(@key $field $($alias $text)?))?,)+
                })
            }
        }

        impl Section for $name {
            const PATH: &'static str = $path;
            const DOC: &'static str = concat!($($about, "\n"),+);
            const SETTINGS: &'static [Setting<Self>] = &[$(Setting {
                row: Row {
                    key: section!(@key $field $($alias $text)?),
                    pgbouncer: section!(@pgbouncer $field $($alias $text)?),
                    kind: $kind,
                    fallback: $fallback,
                    reload: $reload,
                    doc: concat!($($doc, "\n"),+),
                },
                get: |section| crate::config::field::Field::to_value(&section.$field),
                copy: |to, from| to.$field.clone_from(&from.$field),
            }),+];
        }
    };
    (@key $field:ident key $text:literal) => { $text };
    (@key $field:ident $($other:tt)*) => { stringify!($field) };
    (@pgbouncer $field:ident $alias:ident $text:literal) => { $text };
    (@pgbouncer $field:ident) => { stringify!($field) };
}
pub(super) use section;
