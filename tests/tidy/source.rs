//! A Rust source file as the rules see it: with comments and literals blanked out, and with the
//! test code told apart. Not a parser: enough of Rust's lexical structure to never mistake a word
//! in a comment or a string for code.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Something that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Path from the repository's root.
    pub(crate) file: String,
    /// From 1; 0 is the file as a whole.
    pub(crate) line: usize,
    /// What is wrong, and what to do.
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// One source file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Path from the repository's root, with `/`.
    pub(crate) path: String,
    /// As it is on disk.
    pub(crate) text: String,
    /// The same length in characters and lines, comments and literals replaced by spaces.
    pub(crate) code: String,
    /// `code` with the items under `#[cfg(test)]` blanked out too.
    pub(crate) product: String,
    /// Unit tests in a file of their own.
    pub(crate) is_test: bool,
    /// Lines that belong to the product.
    pub(crate) product_lines: usize,
}

impl Source {
    /// Takes a file apart.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = blank_comments_and_literals(text);
        let is_test = is_test_file(path);
        let (product, test_lines) = blank_tests(&code);
        let lines = text.lines().count();
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            product: if is_test { blank(&code) } else { product },
            product_lines: if is_test { 0 } else { lines - test_lines },
            code,
            is_test,
        }
    }

    /// A violation at the byte `at` of `code` or `product`.
    pub(crate) fn violation(&self, text: &str, at: usize, what: impl Into<String>) -> Violation {
        let line = text.get(..at).map_or(0, |head| head.matches('\n').count()) + 1;
        Violation {
            file: self.path.clone(),
            line,
            what: what.into(),
        }
    }
}

/// All Rust files under `directory` of the repository, sorted by path.
pub(crate) fn sources(directory: &str) -> Vec<Source> {
    files(directory, "rs")
        .into_iter()
        .map(|(path, text)| Source::new(&path, &text))
        .collect()
}

/// Path and text of all files with that extension under `directory`, sorted by path.
pub(crate) fn files(directory: &str, extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut todo = vec![root().join(directory)];
    while let Some(here) = todo.pop() {
        let Ok(entries) = fs::read_dir(&here) else {
            continue;
        };
        for path in entries.map(|entry| entry.expect("directory entry").path()) {
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                let text = fs::read_to_string(&path).expect("a text file in UTF-8");
                found.push((relative(&path), text));
            }
        }
    }
    found.sort();
    found
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn relative(path: &Path) -> String {
    let inside = path.strip_prefix(root()).expect("a path in the repository");
    inside.to_string_lossy().replace('\\', "/")
}

/// Sibling files of unit tests: `tests.rs`, `gate_tests.rs`, `tests/…`.
fn is_test_file(path: &str) -> bool {
    let in_src = path.strip_prefix("src/").unwrap_or(path);
    in_src.ends_with("_tests.rs") || in_src.ends_with("/tests.rs") || in_src.contains("/tests/")
}

fn blank(text: &str) -> String {
    text.chars().map(blanked).collect()
}

/// Keeps lines and bytes where they were.
fn blanked(c: char) -> char {
    if c == '\n' { '\n' } else { ' ' }
}

fn blank_comments_and_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skip_comment(&chars, at)
            .or_else(|| skip_raw_string(&chars, at))
            .or_else(|| skip_quoted(&chars, at));
        if let Some(end) = end {
            out.extend(chars[at..end].iter().map(|&c| blanked(c)));
            at = end;
        } else {
            // Only ASCII stays, so that bytes and characters count alike.
            out.push(if chars[at].is_ascii() { chars[at] } else { ' ' });
            at += 1;
        }
    }
    out
}

fn skip_comment(chars: &[char], at: usize) -> Option<usize> {
    match (chars[at], chars.get(at + 1)?) {
        ('/', '/') => {
            let length = chars[at..].iter().position(|&c| c == '\n');
            Some(length.map_or(chars.len(), |n| at + n))
        }
        ('/', '*') => {
            let (mut depth, mut i) = (0, at);
            while i < chars.len() {
                match (chars[i], chars.get(i + 1)) {
                    ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
                    ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 {
                    break;
                }
            }
            Some(i)
        }
        _ => None,
    }
}

fn skip_raw_string(chars: &[char], at: usize) -> Option<usize> {
    let starts_word = |i: usize| i == 0 || !is_word(chars[i - 1]);
    let prefixed = at > 0 && matches!(chars[at - 1], 'b' | 'c') && starts_word(at - 1);
    if chars[at] != 'r' || !(starts_word(at) || prefixed) {
        return None;
    }
    let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
    let open = at + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let closes = |i: usize| chars[i] == '"' && (1..=hashes).all(|n| chars.get(i + n) == Some(&'#'));
    let end = (open + 1..chars.len()).find(|&i| closes(i))?;
    Some(end + 1 + hashes)
}

/// A string, or a character that is not a lifetime.
fn skip_quoted(chars: &[char], at: usize) -> Option<usize> {
    let quote = chars[at];
    let is_character =
        quote == '\'' && (chars.get(at + 1) == Some(&'\\') || chars.get(at + 2) == Some(&'\''));
    if quote != '"' && !is_character {
        return None;
    }
    let mut i = at + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            c if c == quote => return Some(i + 1),
            _ => i += 1,
        }
    }
    Some(chars.len())
}

/// Blanks out the items under `#[cfg(test)]`; says how many lines they take.
fn blank_tests(code: &str) -> (String, usize) {
    const MARK: &str = "#[cfg(test)]";
    let (mut out, mut rest, mut lines) = (String::new(), code, 0);
    while let Some(at) = rest.find(MARK) {
        let end = at + MARK.len() + item_end(&rest[at + MARK.len()..]);
        out.push_str(&rest[..at]);
        out.push_str(&blank(&rest[at..end]));
        lines += rest[at..end].matches('\n').count() + 1;
        rest = &rest[end..];
    }
    out.push_str(rest);
    (out, lines)
}

/// Where the item that `code` begins with ends: at its `;`, or at the brace that closes its body.
pub(crate) fn item_end(code: &str) -> usize {
    let mut nesting = 0_usize;
    for (i, c) in code.char_indices() {
        match c {
            '(' | '[' => nesting += 1,
            ')' | ']' => nesting = nesting.saturating_sub(1),
            ';' if nesting == 0 => return i + 1,
            '{' if nesting == 0 => return i + block_length(&code[i..]),
            _ => {}
        }
    }
    code.len()
}

/// Length of the block that `code` begins with, braces included.
pub(crate) fn block_length(code: &str) -> usize {
    let mut depth = 0_usize;
    for (i, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return i + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// Where `word` stands in `code` as a word of its own.
pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let ends_word = word.ends_with(is_word);
    code.match_indices(word).filter_map(move |(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let joined = before.is_some_and(is_word) || ends_word && after.is_some_and(is_word);
        (!joined).then_some(at)
    })
}

/// Can it be part of an identifier?
pub(crate) fn is_word(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

#[test]
fn comments_and_literals_are_not_code() {
    let text = r##"
        // unsafe
        /* unsafe /* unsafe */ unsafe */
        let a = "unsafe \" unsafe"; let b = r#"unsafe " unsafe"#; let c = b"unsafe";
        let d = '"'; let e: &'static str = "unsafe"; let f = '\''; let g = br"unsafe";
        real();
    "##;
    let source = Source::new("src/planted.rs", text);
    assert!(!source.code.contains("unsafe"), "{}", source.code);
    assert!(source.code.contains("&'static str"), "{}", source.code);
    assert!(source.code.contains("real();"), "{}", source.code);
    assert_eq!(source.code.lines().count(), text.lines().count());
}

#[test]
fn test_items_are_not_product() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { if x {} }\n}\nfn c() {}\n\
                #[cfg(test)]\nmod more;\n";
    let source = Source::new("src/planted.rs", text);
    assert!(source.product.contains("fn a") && source.product.contains("fn c"));
    assert!(!source.product.contains("fn b") && !source.product.contains("more"));
    assert_eq!(source.product_lines, 2);
    assert_eq!(Source::new("src/pool/tests.rs", text).product_lines, 0);
}
