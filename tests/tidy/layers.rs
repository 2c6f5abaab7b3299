//! Who may import whom.

use super::source::{Source, Violation, is_word, words};

/// Bans beyond the layer order: neighbours that must not know each other.
const BANS: &[Ban] = &[
    Ban {
        of: &["auth", "relay", "pool", "session"],
        on: &["control", "admin"],
        except: &[],
        why: "the data plane reports facts through cluster::Reports and is commanded through \
              pool::Pools; it never calls the control plane or the console",
    },
    Ban {
        of: &["control"],
        on: &["session", "relay", "listener"],
        // The reason that a client is told; pool's commands take it as an argument.
        except: &["relay::StopReason"],
        why: "the control plane commands sessions only through pool::Pools",
    },
    Ban {
        of: &["relay"],
        on: &["pool"],
        except: &[],
        why: "the relay knows two streams and an order, no pools and no names",
    },
];

struct Ban {
    of: &'static [&'static str],
    on: &'static [&'static str],
    except: &'static [&'static str],
    why: &'static str,
}

/// The modules in the order in which `src/lib.rs` declares them.
pub(crate) fn order(lib: &Source) -> Vec<String> {
    lib.product
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect()
}

/// Imports against the order, and imports that are banned.
pub(crate) fn check(source: &Source, order: &[String]) -> Vec<Violation> {
    let Some(own) = module_of(&source.path) else {
        return Vec::new();
    };
    let rank = |module: &str| order.iter().position(|m| m == module);
    let mut found = Vec::new();
    for (at, import) in imports(source) {
        let module = import.split("::").next().unwrap_or_default();
        let (Some(mine), Some(theirs)) = (rank(own), rank(module)) else {
            continue;
        };
        let mut say = |what| found.push(source.violation(&source.product, at, what));
        if theirs > mine {
            say(format!(
                "`{own}` imports `{import}`, but `{module}` is declared below it in src/lib.rs"
            ));
        }
        for ban in BANS {
            let banned = ban.of.contains(&own) && ban.on.contains(&module);
            if banned && !ban.except.contains(&import.as_str()) {
                say(format!("`{own}` imports `{import}`: {}", ban.why));
            }
        }
    }
    found
}

/// Nothing is re-exported at the root (a path through it would hide its layer), and `main` sees
/// only `app`, `config`, and `listener` (it tells where clients can come).
pub(crate) fn check_roots(source: &Source) -> Vec<Violation> {
    let product = &source.product;
    match source.path.as_str() {
        "src/lib.rs" => words(product, "use")
            .map(|at| source.violation(product, at, "lib.rs re-exports nothing: import by module"))
            .collect(),
        "src/main.rs" => words(product, "pgsluice::")
            .flat_map(|at| {
                paths(&product[at + "pgsluice::".len()..])
                    .into_iter()
                    .map(move |p| (at, p))
            })
            .filter(|(_, path)| {
                !matches!(path.split("::").next(), Some("app" | "config" | "listener"))
            })
            .map(|(at, path)| {
                source.violation(
                    product,
                    at,
                    format!("main imports `{path}`: only app, config and listener"),
                )
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// Top-level module of a path; `None` for the roots.
fn module_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let module = inside.split('/').next()?;
    let module = module.strip_suffix(".rs").unwrap_or(module);
    (!matches!(module, "lib" | "main")).then_some(module)
}

/// Every `module::Item` that is reached from the crate's root, with its place.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let product = &source.product;
    // From src/pool/gate.rs, `super::super::` is the root.
    let depth = source.path.matches('/').count() - usize::from(source.path.ends_with("/mod.rs"));
    let from_super = "super::".repeat(depth);
    ["crate::", from_super.as_str()]
        .into_iter()
        .flat_map(|root| {
            words(product, root).flat_map(move |at| {
                let tail = &product[at + root.len()..];
                paths(tail).into_iter().map(move |path| (at, path))
            })
        })
        .collect()
}

/// `a::B` and `{a::B, c::{D, E}}` as `a::B`, `c::D`, `c::E`: at most two steps deep.
fn paths(tail: &str) -> Vec<String> {
    let tail = tail.trim_start();
    if !tail.starts_with('{') {
        let first: String = tail.chars().take_while(|&c| is_word(c)).collect();
        let Some(rest) = tail[first.len()..].strip_prefix("::") else {
            return vec![first];
        };
        if rest.trim_start().starts_with('{') {
            let inner = paths(rest);
            return inner
                .iter()
                .map(|item| format!("{first}::{item}"))
                .collect();
        }
        let second: String = rest.chars().take_while(|&c| is_word(c)).collect();
        return vec![format!("{first}::{second}")];
    }
    let group = &tail[1..super::source::block_length(tail).max(2) - 1];
    split_at_top(group).into_iter().flat_map(paths).collect()
}

fn split_at_top(group: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0_usize, 0, Vec::new());
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&group[from..i]);
                from = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&group[from..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}
