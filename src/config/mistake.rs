//! One mistake of a configuration file, and the guess what was meant.

use std::fmt;

/// One mistake, where it is and what is wrong. Shown as `file:line: section.key: what is wrong`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The file's name as the caller gave it.
    pub file: String,
    /// The line, from 1 on.
    pub line: usize,
    /// The section and key, e.g. `clusters.dc_a.nodes.n2`; empty where TOML itself is broken.
    pub key: String,
    /// What is wrong. Never holds a secret.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

impl std::error::Error for Mistake {}

/// Where line numbers come from.
#[derive(Debug)]
pub(super) struct Lines(Vec<usize>);

impl Lines {
    /// Finds the line ends.
    pub(super) fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(offset, _)| offset).collect())
    }

    /// The line of a byte offset, from 1 on.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.0.partition_point(|end| *end < offset) + 1
    }
}

/// Of the `known` words, the one that `word` probably stands for: at most a third of its letters
/// are wrong.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // The table of distances grows with the product of both lengths.
    const LONGEST: usize = 64;
    let word: Vec<char> = word.to_lowercase().chars().take(LONGEST).collect();
    known
        .into_iter()
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A key's place: keys that TOML wants in quotes are quoted, so that a path has one meaning.
pub(super) fn join(path: &str, key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let quoted = if !key.is_empty() && key.chars().all(is_bare) {
        key.to_owned()
    } else {
        format!("{key:?}")
    };
    if path.is_empty() {
        quoted
    } else {
        format!("{path}.{quoted}")
    }
}

/// Levenshtein's distance, two swapped neighbours counted as one (optimal string alignment).
fn distance(word: &[char], candidate: &str) -> usize {
    let candidate: Vec<char> = candidate.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=word.len()).collect();
    for i in 0..candidate.len() {
        let mut row = vec![i + 1];
        for j in 0..word.len() {
            let replace = above[j] + usize::from(word[j] != candidate[i]);
            let mut best = replace.min(above[j + 1] + 1).min(row[j] + 1);
            let swapped =
                i > 0 && j > 0 && word[j] == candidate[i - 1] && word[j - 1] == candidate[i];
            if swapped {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(0)
}
