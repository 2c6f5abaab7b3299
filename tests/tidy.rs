//! The architecture's rules as code: what is not enforced drifts. Each rule reads the sources, and
//! each has a test on planted text that shows that it fires.
//!
//! A rule that is in the way is changed here, in a commit that says why; it is not worked around.
#![allow(
    clippy::expect_used,
    clippy::case_sensitive_file_extension_comparisons,
    reason = "a test may panic; our own file names are lower case"
)]

#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/prose.rs"]
mod prose;
#[path = "tidy/sizes.rs"]
mod sizes;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/text.rs"]
mod text;

use sizes::{FILE_LINES_MAX, FUNCTION_LINES_MAX, LONG_FILES, LONG_FUNCTIONS, Ratchet};
use source::{Source, Violation, files, root, sources};

fn none(violations: &[Violation]) {
    let list: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(list.is_empty(), "\n{}\n", list.join("\n"));
}

/// Applies a rule to every file of the product.
fn in_src(rule: impl Fn(&Source) -> Vec<Violation>) {
    let all = sources("src");
    assert!(all.len() > 10, "src/ was not found");
    none(&all.iter().flat_map(rule).collect::<Vec<_>>());
}

/// Applies a rule to every Rust file.
fn everywhere(rule: impl Fn(&Source) -> Vec<Violation>) {
    let all = ["src", "tests", "benches", "fuzz/fuzz_targets"];
    let all = all.into_iter().flat_map(sources);
    none(&all.flat_map(|source| rule(&source)).collect::<Vec<_>>());
}

/// The rule finds exactly these lines in a planted file.
fn fires(rule: impl Fn(&Source) -> Vec<Violation>, path: &str, text: &str, lines: &[usize]) {
    let mut found: Vec<usize> = rule(&Source::new(path, text))
        .iter()
        .map(|v| v.line)
        .collect();
    found.sort_unstable();
    assert_eq!(found, lines, "{path}:\n{text}");
}

#[test]
fn imports_follow_the_layers() {
    let all = sources("src");
    let lib = all
        .iter()
        .find(|s| s.path == "src/lib.rs")
        .expect("src/lib.rs");
    let order = layers::order(lib);
    assert!(order.len() > 8, "src/lib.rs declares {order:?}");
    in_src(|source| layers::check(source, &order));
    in_src(layers::check_roots);
}

#[test]
fn a_wrong_import_is_found() {
    let lib = Source::new(
        "src/lib.rs",
        "pub mod wire;\npub mod cluster;\npub mod relay;\npub mod pool;\npub mod control;\n\
         pub mod session;\npub mod admin;\n",
    );
    let order = layers::order(&lib);
    let rule = |source: &Source| layers::check(source, &order);
    for (path, text, lines) in [
        (
            "src/relay/pump.rs",
            "use crate::wire::X;\nuse crate::pool::Pools;\n",
            &[2, 2][..],
        ),
        (
            "src/pool/gate.rs",
            "use crate::{\n  wire,\n  control::{A, B},\n};\n",
            &[1, 1, 1, 1],
        ),
        (
            "src/pool/gate.rs",
            "fn f() { super::super::control::go() }",
            &[1, 1],
        ),
        ("src/pool/gate.rs", "use super::checkout::Lease;", &[]),
        ("src/pool/mod.rs", "\nuse super::session::A;", &[2]),
        ("src/session/mod.rs", "use crate::control::Handle;", &[1]),
        (
            "src/control/mod.rs",
            "use crate::relay::StopReason;\nuse crate::relay::Pump;\n",
            &[2],
        ),
        (
            "src/control/mod.rs",
            "// use crate::session;\n#[cfg(test)]\nuse crate::session::X;\n",
            &[],
        ),
        (
            "src/admin/mod.rs",
            "use crate::{control::Handle, session::Clients, pool::Pools};",
            &[],
        ),
        ("src/lsn.rs", "use crate::wire::X;", &[]),
    ] {
        fires(rule, path, text, lines);
    }
    fires(
        layers::check_roots,
        "src/lib.rs",
        "pub mod a;\npub use a::B;\n",
        &[2],
    );
    let main = "use pgsluice::app::App;\nuse pgsluice::{config, pool::Pools};\n";
    fires(layers::check_roots, "src/main.rs", main, &[2]);
}

#[test]
fn pure_modules_are_pure() {
    in_src(text::purity);
}

#[test]
fn an_impure_line_is_found() {
    let planted = "use tokio::time;\nuse std::net::{IpAddr, TcpStream};\nlet now = Instant::now();\n\
                   fn ok(now: Instant, name: &'static str, addr: std::net::IpAddr) {}\n\
                   static X: u8 = 1;\nstd::fs::read(p);\n#[cfg(test)]\nmod tests { use tokio::x; }\n";
    fires(text::purity, "src/wire/frame.rs", planted, &[1, 2, 3, 5, 6]);
    fires(
        text::purity,
        "src/relay/txn.rs",
        "use std::time::SystemTime;\nSystemTime::now()",
        &[2],
    );
    fires(text::purity, "src/relay/pump.rs", planted, &[]);
    fires(text::purity, "src/lsn.rs", planted, &[1, 2, 3, 5, 6]);
    fires(text::purity, "src/pool/gate.rs", planted, &[2, 3, 5, 6]);
    fires(text::purity, "src/pool/gateway.rs", planted, &[]);
}

#[test]
fn nothing_is_unsafe() {
    everywhere(text::no_unsafe);
    let planted = "#![forbid(unsafe_code)]\nlet x = unsafe { y };\n// unsafe\n";
    fires(text::no_unsafe, "src/net.rs", planted, &[2]);
}

#[test]
fn there_is_no_process_wide_state() {
    in_src(text::no_statics);
    let planted = "const A: &'static str = \"static\";\nstatic B: Mutex<u8> = Mutex::new(0);\n";
    fires(text::no_statics, "src/net.rs", planted, &[2]);
}

#[test]
fn only_main_prints() {
    in_src(text::no_prints);
    let planted = "println!();\n#[cfg(test)]\nmod tests { fn f() { println!() } }\ndbg!(x);\n";
    fires(text::no_prints, "src/net.rs", planted, &[1, 4]);
    fires(text::no_prints, "src/main.rs", planted, &[]);
}

#[test]
fn every_import_is_named() {
    everywhere(text::no_globs);
    let planted = "use a::*;\nuse b::{c, d::*};\nlet x = y * z;\n// ::*\nuse super::*;\n\
                   #[cfg(test)]\nmod tests { use super::*; use a::prelude::*;\nuse b::*; }\n";
    fires(text::no_globs, "src/net.rs", planted, &[1, 2, 5, 8]);
}

#[test]
fn every_file_states_its_purpose() {
    everywhere(text::has_purpose);
    fires(
        text::has_purpose,
        "src/net.rs",
        "// Sockets.\nuse std::io;\n",
        &[1],
    );
    fires(text::has_purpose, "src/net.rs", "//! Sockets.\n", &[]);
    fires(
        text::has_purpose,
        "src/net_tests.rs",
        "use super::Net;\n",
        &[],
    );
}

#[test]
fn no_file_is_a_junk_drawer() {
    everywhere(text::has_a_name);
    fires(text::has_a_name, "src/util.rs", "", &[1]);
    fires(text::has_a_name, "src/pool/helpers/dial.rs", "", &[1]);
    fires(text::has_a_name, "src/pool/types.rs", "", &[1]);
    fires(text::has_a_name, "src/pool/gate.rs", "", &[]);
}

#[test]
fn files_fit_in_a_head() {
    let ratchet = Ratchet::new(FILE_LINES_MAX, LONG_FILES);
    in_src(|source| sizes::file(source, &ratchet));
    let paths: Vec<String> = sources("src").into_iter().map(|s| s.path).collect();
    assert_eq!(ratchet.stale(&paths), Vec::<String>::new());
}

#[test]
fn functions_fit_on_a_screen() {
    let ratchet = Ratchet::new(FUNCTION_LINES_MAX, LONG_FUNCTIONS);
    in_src(|source| sizes::functions(source, &ratchet));
    let names: Vec<String> = sources("src")
        .iter()
        .flat_map(sizes::function_names)
        .collect();
    assert!(names.len() > 50, "{names:?}");
    assert_eq!(ratchet.stale(&names), Vec::<String>::new());
}

#[test]
fn the_ratchet_only_turns_one_way() {
    let text = "//! Four lines.\nfn long() {\n    a();\n}\nfn short() {}\nfn open(a: [u8; 2]);\n";
    let limit = |lines, list: &'static [(&'static str, usize)]| Ratchet::new(lines, list);
    for (ratchet, file_lines, function_lines) in [
        (limit(6, &[]), &[][..], &[][..]),
        (limit(2, &[]), &[1], &[2]),
        (
            limit(2, &[("src/a.rs", 6), ("src/a.rs::long", 3)]),
            &[],
            &[],
        ),
        (
            limit(2, &[("src/a.rs", 5), ("src/a.rs::long", 4)]),
            &[1],
            &[2],
        ),
        (
            limit(9, &[("src/a.rs", 6), ("src/a.rs::short", 1)]),
            &[1],
            &[5],
        ),
    ] {
        fires(|s| sizes::file(s, &ratchet), "src/a.rs", text, file_lines);
        fires(
            |s| sizes::functions(s, &ratchet),
            "src/a.rs",
            text,
            function_lines,
        );
    }
    let gone = limit(2, &[("src/gone.rs", 6)]);
    assert_eq!(gone.stale(&["src/a.rs".to_owned()]).len(), 1);
}

#[test]
fn links_lead_somewhere() {
    let exists = |path: &str| root().join(path).exists();
    let documents = [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
    ];
    let mut texts: Vec<(String, String)> = documents
        .into_iter()
        .map(|name| {
            let text = std::fs::read_to_string(root().join(name)).expect(name);
            (name.to_owned(), text)
        })
        .collect();
    texts.extend(files("docs", "md"));
    texts.extend(files("src", "rs"));
    let broken: Vec<Violation> = texts
        .iter()
        .flat_map(|(file, text)| prose::links(file, text, exists))
        .collect();
    none(&broken);
}

#[test]
fn a_broken_link_is_found() {
    let exists = |path: &str| path == "docs/console.md" || path == "README.md";
    let text = "see docs/console.md and docs/gone.md.\n[a](console.md#x) [b](gone.md)\n\
                [c](https://example.org/docs/other.md) [d](../README.md) [e](#here)\n";
    let found = prose::links("docs/a.md", text, exists);
    let lines: Vec<(usize, &str)> = found.iter().map(|v| (v.line, v.what.as_str())).collect();
    let gone = "`docs/gone.md` does not exist";
    assert_eq!(lines, [(1, gone), (2, gone)]);
}

#[test]
fn every_file_is_on_the_map() {
    let map = std::fs::read_to_string(root().join("docs/architecture.md")).expect("the map");
    let product = |source: &&Source| !source.is_test;
    let all = sources("src");
    let missing = all
        .iter()
        .filter(product)
        .filter_map(|s| prose::on_the_map(&s.path, &map));
    none(&missing.collect::<Vec<_>>());
    assert!(prose::on_the_map("src/pool/gone.rs", "| `src/pool/gate.rs` | x |").is_some());
    assert!(prose::on_the_map("src/pool/gate.rs", "| `src/pool/gate.rs` | x |").is_none());
}

#[test]
fn decisions_are_numbered_without_holes() {
    let names = |all: Vec<(String, String)>| -> Vec<String> {
        let last = |path: String| path.rsplit('/').next().map(str::to_owned);
        all.into_iter().filter_map(|(path, _)| last(path)).collect()
    };
    none(&prose::decisions(&names(files("docs/decisions", "md"))));
    for (planted, count) in [
        (&["0001-a.md", "0002-b-c.md"][..], 0),
        (&["0001-a.md", "0003-b.md"], 1),
        (&["0001-a.md", "0001-b.md"], 1),
        (&["0001-A b.md"], 1),
        (&["notes.md"], 1),
    ] {
        let planted: Vec<String> = planted.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(prose::decisions(&planted).len(), count, "{planted:?}");
    }
}
