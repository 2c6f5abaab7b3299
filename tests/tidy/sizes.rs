//! Files and functions that fit in a head. A ratchet: what is too long today is listed with its
//! figure, and the figure may only fall.

use super::source::{Source, Violation, is_word, item_end, words};

/// Most lines of a file, tests not counted.
pub(crate) const FILE_LINES_MAX: usize = 400;

/// Most lines of a function, from `fn` to its closing brace.
pub(crate) const FUNCTION_LINES_MAX: usize = 70;

/// Files over the limit: path, lines.
pub(crate) const LONG_FILES: &[(&str, usize)] = &[];

/// Functions over the limit: `path::name`, lines.
pub(crate) const LONG_FUNCTIONS: &[(&str, usize)] = &[];

/// What is longer than it may be.
#[derive(Debug)]
pub(crate) struct Ratchet<'a> {
    limit: usize,
    allowed: &'a [(&'a str, usize)],
}

impl<'a> Ratchet<'a> {
    /// A limit and what may exceed it, by how much.
    pub(crate) fn new(limit: usize, allowed: &'a [(&'a str, usize)]) -> Self {
        Self { limit, allowed }
    }

    /// What is wrong with `lines` for the thing of that name.
    fn judge(&self, name: &str, lines: usize) -> Option<String> {
        let limit = self.limit;
        match self.allowed.iter().find(|(n, _)| *n == name) {
            None if lines > limit => {
                Some(format!("{name}: {lines} lines, limit {limit}: split it"))
            }
            None => None,
            Some(_) if lines <= limit => Some(format!(
                "{name}: {lines} lines are within {limit}: take it off the list in tests/tidy/sizes.rs"
            )),
            Some((_, figure)) if lines == *figure => None,
            Some((_, figure)) if lines < *figure => Some(format!(
                "{name}: shrank from {figure} to {lines} lines: lower the figure in tests/tidy/sizes.rs"
            )),
            Some((_, figure)) => Some(format!(
                "{name}: grew from {figure} to {lines} lines, limit {limit}: split it"
            )),
        }
    }

    /// Entries whose thing is gone.
    pub(crate) fn stale(&self, names: &[String]) -> Vec<String> {
        let known = |name: &str| names.iter().any(|n| n == name);
        self.allowed
            .iter()
            .filter(|(name, _)| !known(name))
            .map(|(name, _)| {
                format!("{name}: is gone: take it off the list in tests/tidy/sizes.rs")
            })
            .collect()
    }
}

/// The file's length.
pub(crate) fn file(source: &Source, ratchet: &Ratchet<'_>) -> Vec<Violation> {
    let judged = ratchet.judge(&source.path, source.product_lines);
    judged
        .map(|what| source.violation("", 0, what))
        .into_iter()
        .collect()
}

/// The length of each function.
pub(crate) fn functions(source: &Source, ratchet: &Ratchet<'_>) -> Vec<Violation> {
    bodies(source)
        .filter_map(|(at, name, lines)| {
            let what = ratchet.judge(&format!("{}::{name}", source.path), lines)?;
            Some(source.violation(&source.product, at, what))
        })
        .collect()
}

/// `path::name` of every function.
pub(crate) fn function_names(source: &Source) -> Vec<String> {
    bodies(source)
        .map(|(_, name, _)| format!("{}::{name}", source.path))
        .collect()
}

/// Place, name and lines of every function with a body.
fn bodies(source: &Source) -> impl Iterator<Item = (usize, String, usize)> + '_ {
    let code = source.product.as_str();
    words(code, "fn").filter_map(move |at| {
        let name: String = code[at + 2..]
            .trim_start()
            .chars()
            .take_while(|&c| is_word(c))
            .collect();
        // `fn(u8)` is a type; a signature that ends in `;` has no body.
        let item = &code[at..at + item_end(&code[at..])];
        let is_body = !name.is_empty() && item.ends_with('}');
        is_body.then(|| (at, name, item.matches('\n').count() + 1))
    })
}
