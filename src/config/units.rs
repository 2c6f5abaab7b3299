//! Times and sizes as people write them: `10s`, `1.5 min`, `16MB`.

use std::time::Duration;

pub(super) const TIME_UNITS: &[(&str, f64)] = &[
    ("ms", 0.001),
    ("s", 1.0),
    ("min", 60.0),
    ("h", 3600.0),
    ("d", 86_400.0),
];

pub(super) const SIZE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1 << 10),
    ("MB", 1 << 20),
    ("GB", 1 << 30),
    ("TB", 1 << 40),
];

/// In the largest unit that leaves a whole number: `90s`, `5min`.
pub(super) fn human(time: Duration) -> String {
    let ms = time.as_millis();
    let unit = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("min", 60_000),
        ("s", 1000),
    ]
    .into_iter()
    .find(|(_, size)| ms >= *size && ms.is_multiple_of(*size));
    match unit {
        Some((unit, size)) => format!("{}{unit}", ms / size),
        None => format!("{ms}ms"),
    }
}

/// `1.5 min` → (1.5, `min`). Digits and one point only: neither sign nor exponent nor `inf`.
pub(super) fn split_unit(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

pub(super) fn unit_of<T: Copy>(units: &[(&str, T)], unit: &str) -> Option<T> {
    units
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, factor)| *factor)
}
