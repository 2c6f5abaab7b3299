#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail loudly")]

use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use super::super::record::{AddedNode, Membership};
use super::*;
use crate::cluster::Wanted;
use crate::config::Candidate;

fn record(epoch: u64, node: &str) -> Record {
    Record {
        cluster: ClusterName::new("dc/a"),
        epoch: Epoch(epoch),
        node: NodeName::new(node),
        since: UNIX_EPOCH + Duration::from_millis(1_763_800_000_123),
        reason: "a reason\nof two lines \\".to_owned(),
        previous: (epoch > 1).then(|| NodeName::new("before")),
    }
}

#[tokio::test]
async fn a_decision_survives_and_follows_the_one_it_was_compared_with() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::open(dir.path()).unwrap();
    let name = ClusterName::new("dc/a");
    assert_eq!(store.load(&name).await.unwrap(), None);
    store.commit(record(1, "n1"), None).await.unwrap();
    store.commit(record(2, "n2"), Some(Epoch(1))).await.unwrap();
    // The same again is no conflict; another node under the same number is.
    store.commit(record(2, "n2"), Some(Epoch(1))).await.unwrap();
    for late in [record(2, "n1"), record(1, "n1"), record(3, "n1")] {
        let refused = store.commit(late, Some(Epoch(1))).await;
        assert_eq!(refused, Err(CommitError::Superseded(Epoch(2))));
    }
    drop(store);
    let store = FileStore::open(dir.path()).unwrap();
    assert_eq!(store.load(&name).await.unwrap(), Some(record(2, "n2")));
}

#[tokio::test]
async fn a_damaged_file_is_named_and_never_guessed() {
    let whole = print_record(&record(7, "n1"));
    let cut: Vec<String> = (0..whole.len()).map(|at| whole[..at].to_owned()).collect();
    let changed = whole.replace("epoch 7", "epoch 8");
    for text in cut.into_iter().chain([changed]) {
        assert!(parse_record(&text).is_err(), "{text:?} was taken");
    }
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::open(dir.path()).unwrap();
    store.commit(record(1, "n1"), None).await.unwrap();
    let file = dir.path().join("lead-dc%2Fa.record");
    fs::write(&file, "").unwrap();
    let error = store.load(&ClusterName::new("dc/a")).await.unwrap_err();
    assert!(error.to_string().contains("lead-dc%2Fa.record"), "{error}");
    // And it is not overwritten as if it had never been.
    let refused = store.commit(record(1, "n1"), None).await;
    assert!(
        matches!(refused, Err(CommitError::NotWritten(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_write_that_fails_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::open(dir.path()).unwrap();
    store.commit(record(1, "n1"), None).await.unwrap();
    // A directory in the way of the temporary file.
    fs::create_dir(dir.path().join("lead-dc%2Fa.tmp")).unwrap();
    let failed = store.commit(record(2, "n2"), Some(Epoch(1))).await;
    assert!(
        matches!(failed, Err(CommitError::NotWritten(_))),
        "{failed:?}"
    );
    let kept = store.load(&ClusterName::new("dc/a")).await.unwrap();
    assert_eq!(kept, Some(record(1, "n1")));
}

#[test]
fn one_instance_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = FileStore::open(dir.path()).unwrap();
    let second = FileStore::open(dir.path());
    assert!(matches!(second, Err(StoreError::InUse(_))), "{second:?}");
    drop(first);
    assert!(FileStore::open(dir.path()).is_ok());
}

#[tokio::test]
async fn what_is_kept_of_a_node_survives() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::open(dir.path()).unwrap();
    let word = |wanted| NodeRecord {
        wanted,
        ..NodeRecord::default()
    };
    let full = NodeRecord {
        wanted: Wanted::Drain,
        identity: Some(u64::MAX),
        candidate: Some(Candidate::Auto),
        maintenance_since: Some(UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)),
        membership: Membership::Added(AddedNode {
            cluster: ClusterName::new("dc/a"),
            host: "/var/run/post\ngresql".to_owned(),
            port: 5433,
            priority: -7,
        }),
    };
    let removed = NodeRecord {
        identity: Some(1),
        membership: Membership::Removed,
        ..NodeRecord::default()
    };
    for (name, record) in [
        ("n1", word(Wanted::Fenced)),
        ("n2", word(Wanted::Maint)),
        ("n2", word(Wanted::Ready)),
        ("n3", full.clone()),
        ("n4", removed.clone()),
    ] {
        store.keep_node(NodeName::new(name), record).await.unwrap();
    }
    let all = store.nodes().await.unwrap();
    assert_eq!(all.get("n1"), Some(&word(Wanted::Fenced)));
    assert_eq!(all.get("n2"), Some(&word(Wanted::Ready)));
    assert_eq!(all.get("n3"), Some(&full));
    assert_eq!(all.get("n4"), Some(&removed));
}
