//! What may not stand in the code, and what must.

use super::source::{Source, Violation, words};

/// Modules without tokio, I/O, clock and chance: a path, or a directory with `/` at its end.
pub(crate) const PURE: &[&str] = &[
    "src/lsn.rs",
    "src/wire/",
    "src/config/",
    "src/auth/scram.rs",
    "src/pool/gate.rs",
    "src/relay/txn.rs",
    "src/control/verdict.rs",
    "src/control/switchover.rs",
];

/// What a pure module does without.
const IMPURE: &[&str] = &[
    "tokio",
    "std::fs",
    "std::thread",
    "std::process",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "UnixStream",
    "UnixListener",
    "Instant::now",
    "SystemTime::now",
    "getrandom",
    "static",
];

/// Files that may contain `unsafe`, each with the argument why that is sound.
const UNSAFE_ALLOWED: &[(&str, &str)] = &[];

/// Files that may contain a `static`, each with the reason why it is not shared state.
const STATIC_ALLOWED: &[(&str, &str)] = &[];

/// File names that say nothing: such a file has no owner, is imported by all and closes cycles.
const JUNK_DRAWERS: &[&str] = &[
    "util",
    "utils",
    "common",
    "helper",
    "helpers",
    "types",
    "constants",
    "misc",
    "ext",
];

/// Pure modules are pure.
pub(crate) fn purity(source: &Source) -> Vec<Violation> {
    let listed = |entry: &str| {
        source.path == entry || entry.ends_with('/') && source.path.starts_with(entry)
    };
    if !PURE.iter().any(|entry| listed(entry)) {
        return Vec::new();
    }
    let what = |word: &str| format!("a pure module has no `{word}`: take it as an argument");
    occurrences(source, IMPURE, &source.product, what)
}

/// `unsafe` only where the list argues for it.
pub(crate) fn no_unsafe(source: &Source) -> Vec<Violation> {
    if UNSAFE_ALLOWED.iter().any(|(path, _)| source.path == *path) {
        return Vec::new();
    }
    occurrences(source, &["unsafe"], &source.code, |_| {
        "`unsafe` without an argued exception in tests/tidy/text.rs".to_owned()
    })
}

/// No process-wide state: a test may start ten instances in one process.
pub(crate) fn no_statics(source: &Source) -> Vec<Violation> {
    if STATIC_ALLOWED.iter().any(|(path, _)| source.path == *path) {
        return Vec::new();
    }
    occurrences(source, &["static"], &source.product, |_| {
        "`static`: use a `const`, or pass the value".to_owned()
    })
}

/// Only `main` prints.
pub(crate) fn no_prints(source: &Source) -> Vec<Violation> {
    if source.path == "src/main.rs" {
        return Vec::new();
    }
    let macros = ["println!", "eprintln!", "print!", "eprint!", "dbg!"];
    occurrences(source, &macros, &source.product, |word| {
        format!("`{word}`: only src/main.rs prints; use tracing, or return the text")
    })
}

/// The origin of every name can be read.
pub(crate) fn no_globs(source: &Source) -> Vec<Violation> {
    let stars = source.code.match_indices("::*");
    stars
        .map(|(at, _)| source.violation(&source.code, at, "glob import: name what you use"))
        .collect()
}

/// Every file says what it is for.
pub(crate) fn has_purpose(source: &Source) -> Vec<Violation> {
    if source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![source.violation(
        "",
        0,
        "begin with `//! ` and the file's purpose in a sentence",
    )]
}

/// Every file has a name that says what belongs into it.
pub(crate) fn has_a_name(source: &Source) -> Vec<Violation> {
    let parts = source
        .path
        .split('/')
        .map(|part| part.trim_end_matches(".rs"));
    parts
        .filter(|part| JUNK_DRAWERS.contains(part))
        .map(|part| source.violation("", 0, format!("`{part}` names no thing: who owns it?")))
        .collect()
}

fn occurrences(
    source: &Source,
    forbidden: &[&str],
    text: &str,
    what: impl Fn(&str) -> String,
) -> Vec<Violation> {
    let mut found = Vec::new();
    for word in forbidden {
        // `&'static str` is a lifetime, not an item.
        let places = words(text, word).filter(|&at| !text[..at].ends_with('\''));
        found.extend(places.map(|at| source.violation(text, at, what(word))));
    }
    found
}
