//! The files of the repository: examples, broken files, the reference.

use std::fs;

use super::{env, in_repository, read, read_file};
use crate::config::{Candidate, Mistake, Route, check, reference};

#[test]
fn examples_are_valid() {
    for (file, nodes) in [("config/pgsluice.toml", 2), ("config/minimal.toml", 2)] {
        let text = fs::read_to_string(in_repository(file)).unwrap();
        let config = check(&text, file, &env, &read_file)
            .unwrap_or_else(|found| panic!("{}", lines(&found)));
        let cluster = config.clusters.values().next().unwrap();
        assert_eq!(cluster.nodes.len(), nodes, "{file}");
        assert!(config.databases.contains_key("app"), "{file}");
    }
}

/// Two shards of two masters and one more node each, and a database per shard and route.
#[test]
fn the_worldwide_example_has_each_route_on_each_shard() {
    let file = "config/worldwide.toml";
    let text = fs::read_to_string(in_repository(file)).unwrap();
    let config =
        check(&text, file, &env, &read_file).unwrap_or_else(|found| panic!("{}", lines(&found)));
    for shard in ["shard1", "shard2"] {
        let cluster = &config.clusters[shard];
        let masters = cluster
            .nodes
            .iter()
            .filter(|node| node.candidate == Candidate::Auto);
        assert_eq!((cluster.nodes.len(), masters.count()), (3, 2));
        for (ending, route) in [
            ("", Route::Lead),
            ("_ro", Route::Read),
            ("_any", Route::Any),
        ] {
            let database = &config.databases[format!("{shard}{ending}").as_str()];
            assert_eq!((&database.cluster, database.route), (&cluster.name, route));
        }
        let here = config.general.datacenter.as_deref();
        assert!(
            cluster
                .nodes
                .iter()
                .any(|n| n.datacenter.as_deref() == here)
        );
    }
}

/// What the example has commented out is what it says: the default.
#[test]
fn commented_settings_of_the_example_are_the_defaults() {
    let text = fs::read_to_string(in_repository("config/pgsluice.toml")).unwrap();
    let not_defaults = ["marker_table", "node5"];
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest)
                if rest
                    .split_once(" = ")
                    .is_some_and(|(key, _)| !key.contains(' ') && !not_defaults.contains(&key)) =>
            {
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    assert_ne!(text, uncommented);
    assert_eq!(read(&text).unwrap(), read(&uncommented).unwrap());
}

/// The user list's form: comments, or two quoted words.
#[test]
fn example_user_list_has_two_quoted_words_per_line() {
    let text = fs::read_to_string(in_repository("config/userlist.txt")).unwrap();
    let users: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with(";;"))
        .collect();
    assert!(!users.is_empty());
    for line in users {
        let words: Vec<&str> = line.split('"').collect();
        assert!(
            matches!(words[..], ["", user, " ", _, ""] if !user.is_empty()),
            "{line}"
        );
    }
}

/// The unit starts the binary with the example's path, and keeps the state where the default is.
#[test]
fn unit_agrees_with_the_defaults() {
    let unit = fs::read_to_string(in_repository("config/pgsluice.service")).unwrap();
    let minimal = fs::read_to_string(in_repository("config/minimal.toml")).unwrap();
    let state_dir = read(&minimal).unwrap().general.state_dir;
    let value = |key: &str| {
        unit.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .unwrap()
    };
    assert_eq!(
        format!("/var/lib/{}", value("StateDirectory")),
        state_dir.to_str().unwrap()
    );
    assert_eq!(
        value("ExecStart"),
        "/usr/sbin/pgsluice /etc/pgsluice/pgsluice.toml"
    );
}

fn lines(mistakes: &[Mistake]) -> String {
    mistakes
        .iter()
        .map(|mistake| format!("{mistake}\n"))
        .collect::<Vec<_>>()
        .concat()
}

/// Each broken file yields exactly the messages beside it.
#[test]
fn broken_files_are_explained() {
    let mut files: Vec<_> = fs::read_dir(in_repository("tests/fixtures/config/invalid"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    assert!(files.len() >= 10);
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let mistakes = check(&text, name, &env, &read_file).expect_err(name);
        let got = lines(&mistakes);
        let expected = fs::read_to_string(path.with_extension("expected")).unwrap_or_default();
        assert!(
            got == expected,
            "{name}\n--- expected\n{expected}--- got\n{got}"
        );
        for secret in ["hunter2", "hun", "sesame", "12345678", "ter2"] {
            assert!(!got.contains(secret), "{name} shows {secret}");
        }
    }
}

/// `UPDATE_DOCS=1 cargo test` rewrites the file.
#[test]
fn reference_is_up_to_date() {
    let path = in_repository("docs/settings.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, reference()).unwrap();
    }
    let file = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        file == reference(),
        "docs/settings.md is out of date: UPDATE_DOCS=1 cargo test"
    );
}
