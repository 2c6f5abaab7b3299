//! What may not stand in the code, and what must.

use super::source::{Source, Violation, words};

/// Modules without tokio, I/O, clock and chance: `name` is `name.rs` and all that is in `name/`.
pub(crate) const PURE: &[&str] = &[
    "src/civil",
    "src/lsn",
    "src/wire",
    "src/config",
    "src/auth/scram",
    "src/pool/gate",
    "src/pool/route",
    "src/pool/balance",
    "src/relay/txn",
    "src/relay/guard",
    "src/control/lag",
    "src/control/links",
    "src/control/verdict",
    "src/control/watchkeeper",
    "src/control/routing",
    "src/control/switchover",
];

/// What a pure module may have all the same, and why.
const PURE_EXCEPT: &[(&str, &str, &str)] = &[(
    "src/pool/gate.rs",
    "tokio",
    "the watch channel that tells waiters of a change: no I/O and no clock in it",
)];

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
    let inside = |entry: &str| {
        let rest = source.path.strip_prefix(entry);
        rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    };
    if !PURE.iter().any(|entry| inside(entry)) {
        return Vec::new();
    }
    let allowed = |word: &str| {
        let mut exceptions = PURE_EXCEPT.iter();
        exceptions.any(|(path, except, _)| source.path == *path && *except == word)
    };
    let forbidden: Vec<&str> = IMPURE
        .iter()
        .copied()
        .filter(|word| !allowed(word))
        .collect();
    let what = |word: &str| format!("a pure module has no `{word}`: take it as an argument");
    occurrences(source, &forbidden, &source.product, what)
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

/// The origin of every name can be read. Only tests may take what they test, and a prelude, whole.
pub(crate) fn no_globs(source: &Source) -> Vec<Violation> {
    let stars = source.code.match_indices("::*").map(|(at, _)| at);
    stars
        .filter(|&at| {
            let (before, in_product) =
                (&source.code[..at], source.product[at..].starts_with("::*"));
            let is_test = !in_product || !source.path.starts_with("src/");
            !is_test || !(before.ends_with("super") || before.ends_with("::prelude"))
        })
        .map(|at| source.violation(&source.code, at, "glob import: name what you use"))
        .collect()
}

/// Every file says what it is for; of unit tests in a sibling file the name says it.
pub(crate) fn has_purpose(source: &Source) -> Vec<Violation> {
    if source.is_test || source.text.starts_with("//! ") {
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
