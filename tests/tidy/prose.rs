//! The documents: links lead somewhere, decisions are numbered.

use std::path::Path;

use super::source::Violation;

/// Every `docs/….md` that is mentioned, and every relative Markdown link, exists.
pub(crate) fn links(file: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<Violation> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut targets = mentions(line);
        if file.ends_with(".md") {
            targets.extend(
                markdown_links(line)
                    .into_iter()
                    .map(|link| resolve(file, &link)),
            );
        }
        targets.sort();
        targets.dedup();
        for target in targets.into_iter().filter(|target| !exists(target)) {
            let (file, line) = (file.to_owned(), number + 1);
            let what = format!("`{target}` does not exist");
            found.push(Violation { file, line, what });
        }
    }
    found
}

/// Every file of the product is on the map of the architecture.
pub(crate) fn on_the_map(path: &str, map: &str) -> Option<Violation> {
    let missing = !map.contains(&format!("`{path}`"));
    missing.then(|| Violation {
        file: path.to_owned(),
        line: 0,
        what: "give it a line in docs/architecture.md".to_owned(),
    })
}

/// Decisions are `NNNN-words-like-this.md`, from 0001, without holes and without twins.
pub(crate) fn decisions(names: &[String]) -> Vec<Violation> {
    let mut found = Vec::new();
    for (expected, name) in (1..).zip(names) {
        let slug = name.strip_prefix(&format!("{expected:04}-"));
        let fits = slug.is_some_and(|slug| {
            slug.ends_with(".md")
                && slug
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || "-.0123456789".contains(c))
        });
        if !fits {
            let file = format!("docs/decisions/{name}");
            let what = format!("expected {expected:04}-some-words.md here");
            found.push(Violation {
                file,
                line: 0,
                what,
            });
        }
    }
    found
}

/// `docs/a/b.md` and the like, wherever they stand.
fn mentions(line: &str) -> Vec<String> {
    let in_path = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    let starts = line.match_indices("docs/").filter(|(at, _)| {
        // Not the tail of a longer path or of an address.
        !line[..*at].ends_with(in_path)
    });
    starts
        .filter_map(|(at, _)| {
            let path = &line[at..];
            let path = &path[..path.find(|c| !in_path(c)).unwrap_or(path.len())];
            let path = path.trim_end_matches('.');
            [".md", ".svg"]
                .iter()
                .any(|e| path.ends_with(e))
                .then(|| path.to_owned())
        })
        .collect()
}

fn markdown_links(line: &str) -> Vec<String> {
    line.match_indices("](")
        .filter_map(|(at, open)| {
            let target = &line[at + open.len()..];
            let target = &target[..target.find(')')?];
            let path = target.split('#').next().unwrap_or_default();
            let local = !path.is_empty() && !path.contains("://") && !path.starts_with("mailto:");
            local.then(|| path.to_owned())
        })
        .collect()
}

/// `link` as seen from `file`, from the root of the repository.
fn resolve(file: &str, link: &str) -> String {
    let here = Path::new(file).parent().unwrap_or(Path::new(""));
    let mut parts: Vec<&str> = here.iter().filter_map(|part| part.to_str()).collect();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
