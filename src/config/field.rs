//! Between a [`Value`] and the Rust type of a struct's field.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use super::Secret;
use super::kind::Value;
use super::names::ClusterName;

/// A type that a setting's field may have.
pub(super) trait Field: Sized {
    /// `None`: the value is of another type, which is a mistake of the table of settings.
    fn from_value(value: Value) -> Option<Self>;
    /// The value that makes this field.
    fn to_value(&self) -> Value;
}

/// An enum whose variants are words in the file.
pub(super) trait Words: Sized + Copy {
    /// The variant's word.
    fn word(self) -> &'static str;
    /// The word's variant.
    fn from_word(word: &str) -> Option<Self>;
}

/// Pairs each variant of an enum with its word.
macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $name {
            /// All words, in the order of the reference.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word in the configuration and on the console.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }

            /// The variant of a word; `None`: no such word.
            pub fn from_word(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl crate::config::field::Words for $name {
            fn word(self) -> &'static str {
                self.as_str()
            }

            fn from_word(word: &str) -> Option<Self> {
                Self::from_word(word)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(super) use words;

impl<T: Words> Field for T {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Text(word) => T::from_word(&word),
            _ => None,
        }
    }

    fn to_value(&self) -> Value {
        Value::Text(self.word().to_owned())
    }
}

/// Zero, empty and absent are "off".
impl<T: Field> Field for Option<T> {
    fn from_value(value: Value) -> Option<Self> {
        let off = match &value {
            Value::Off | Value::Integer(0) | Value::Size(0) | Value::Time(Duration::ZERO) => true,
            Value::Text(text) => text.is_empty(),
            _ => false,
        };
        if off {
            Some(None)
        } else {
            T::from_value(value).map(Some)
        }
    }

    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::Off, Field::to_value)
    }
}

impl<T: for<'a> From<&'a str> + Display> Field for Vec<T> {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::List(list) => Some(list.iter().map(|text| T::from(text.as_str())).collect()),
            _ => None,
        }
    }

    fn to_value(&self) -> Value {
        Value::List(self.iter().map(ToString::to_string).collect())
    }
}

macro_rules! integer_field {
    ($($type:ty),+) => {$(
        impl Field for $type {
            fn from_value(value: Value) -> Option<Self> {
                match value {
                    Value::Integer(number) => Self::try_from(number).ok(),
                    _ => None,
                }
            }

            fn to_value(&self) -> Value {
                // The table's ranges fit into i64.
                Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
            }
        }
    )+};
}
integer_field!(u16, u32, i32, usize);

/// One plain type per kind of value.
macro_rules! plain_field {
    ($($variant:ident($value:ident) -> $type:ty = $from:expr, $to:expr;)+) => {$(
        impl Field for $type {
            fn from_value(value: Value) -> Option<Self> {
                match value {
                    Value::$variant($value) => Some($from),
                    _ => None,
                }
            }

            fn to_value(&self) -> Value {
                let $value = self;
                Value::$variant($to)
            }
        }
    )+};
}
plain_field! {
    Flag(flag) -> bool = flag, *flag;
    Time(time) -> Duration = time, *time;
    Size(size) -> u64 = size, *size;
    Text(text) -> String = text, text.clone();
    Text(text) -> PathBuf = PathBuf::from(text), text.to_string_lossy().into_owned();
    Text(text) -> ClusterName = ClusterName::new(&text), text.as_str().to_owned();
    Secret(secret) -> Secret = secret, secret.clone();
}
