use std::time::SystemTime;

use super::*;
use crate::cluster::{BdrView, Behind, Epoch, Role, Wanted};
use crate::config::{Candidate, ClusterName};

const LIMITS: Thresholds = Thresholds {
    retained_max: Some(1000),
    lag_max: Some(Duration::from_mins(1)),
    patience: Duration::from_secs(3),
};

fn node(name: &str, observed: Observed) -> NodeView {
    NodeView {
        name: NodeName::new(name),
        host: String::new(),
        port: 5432,
        priority: 0,
        candidate: Candidate::Auto,
        role: Role::Shadow,
        wanted: Wanted::Ready,
        observed,
        since: SystemTime::UNIX_EPOCH,
        reason: String::new(),
        condition: "",
        fence: None,
        maintenance_since: None,
        server_version: None,
        system_identifier: None,
        in_recovery: None,
        lsn: None,
        probe_us: None,
        bdr: None,
    }
}

fn view(links: Vec<LinkView>) -> ClusterView {
    ClusterView {
        name: ClusterName::new("c"),
        epoch: Epoch(1),
        lead: None,
        lead_since: None,
        lead_reason: String::new(),
        previous: None,
        clients: "served",
        clients_why: String::new(),
        operation: None,
        nodes: vec![node("a", Observed::Up), node("b", Observed::Up)],
        links,
        slots: Vec::new(),
    }
}

fn link(state: &str) -> LinkView {
    LinkView {
        state: state.to_owned(),
        ..LinkView::streaming("a", "b")
    }
}

/// Shows one view after the other, at the given seconds, and notes what is told of each.
fn told(views: &[(u64, ClusterView)]) -> Vec<(u64, EventKind, bool)> {
    let start = Instant::now();
    let mut keeper = Watchkeeper::new(LIMITS);
    let mut all = Vec::new();
    for (at, view) in views {
        for found in keeper.note(view, start + Duration::from_secs(*at)) {
            all.push((*at, found.kind, found.success));
        }
    }
    all
}

fn states(states: &[(u64, &str)]) -> Vec<(u64, EventKind, bool)> {
    let views: Vec<_> = states
        .iter()
        .map(|(at, state)| match *state {
            "gone" => (*at, view(Vec::new())),
            state => (*at, view(vec![link(state)])),
        })
        .collect();
    told(&views)
}

#[test]
fn a_link_that_streamed_and_stops_is_told_once_and_so_is_its_return() {
    const BROKEN: EventKind = EventKind::ReplicationBroken;
    const BACK: EventKind = EventKind::ReplicationRestored;
    for (case, expected) in [
        // It never was.
        (vec![(0, "disconnected"), (9, "disconnected")], vec![]),
        (vec![(0, "copying"), (9, "streaming")], vec![]),
        // A worker that starts again by itself.
        (
            vec![(0, "streaming"), (1, "disconnected"), (3, "streaming")],
            vec![],
        ),
        (
            vec![
                (0, "streaming"),
                (1, "disconnected"),
                (4, "disconnected"),
                (9, "disconnected"),
                (10, "catchup"),
                (11, "streaming"),
            ],
            vec![(4, BROKEN, false), (11, BACK, true)],
        ),
        (
            vec![(0, "streaming"), (1, "disabled"), (4, "disabled")],
            vec![(4, BROKEN, false)],
        ),
        // The slot was dropped, or the subscription.
        (
            vec![
                (0, "streaming"),
                (1, "gone"),
                (4, "gone"),
                (9, "gone"),
                (10, "streaming"),
            ],
            vec![(4, BROKEN, false), (10, BACK, true)],
        ),
        // Not to be seen is not broken.
        (vec![(0, "streaming"), (1, "hidden"), (9, "hidden")], vec![]),
        (
            vec![(0, "streaming"), (1, "copying"), (9, "streaming")],
            vec![],
        ),
    ] {
        assert_eq!(states(&case), expected, "{case:?}");
    }
}

#[test]
fn a_node_that_is_down_is_not_told_as_broken_replication_too() {
    let mut down = view(vec![link("disconnected")]);
    down.nodes[1].observed = Observed::Down;
    let views = [
        (0, view(vec![link("streaming")])),
        (1, down.clone()),
        (60, down),
        (61, view(vec![link("disconnected")])),
        (63, view(vec![link("streaming")])),
    ];
    assert_eq!(told(&views), []);
}

#[test]
fn lag_is_told_when_it_begins_and_when_it_is_half_gone() {
    let start = Instant::now();
    let mut keeper = Watchkeeper::new(LIMITS);
    let mut seen = Vec::new();
    for (at, since) in [
        (0, None),
        (59, Some(0)),
        (60, Some(0)),
        (90, Some(0)),
        (91, Some(32)),
        (95, Some(80)),
        (96, None),
        (160, Some(100)),
    ] {
        let behind = since.map_or(Behind::Nothing, |s| {
            Behind::Since(start + Duration::from_secs(s))
        });
        let link = LinkView {
            behind,
            ..link("streaming")
        };
        for found in keeper.note(&view(vec![link]), start + Duration::from_secs(at)) {
            assert_eq!(found.kind, EventKind::ReplicationLag);
            seen.push((at, found.success));
        }
    }
    assert_eq!(seen, [(60, false), (95, true), (160, false)]);
}

#[test]
fn a_slot_that_keeps_back_too_much_is_told_once_whoever_it_is_for() {
    let kept = |owner: &SlotOwner, bytes: Option<u64>| {
        let mut view = view(Vec::new());
        view.slots.push(SlotView {
            node: NodeName::new("a"),
            slot: "barman".to_owned(),
            owner: owner.clone(),
            slot_type: Some("physical".to_owned()),
            plugin: None,
            database: None,
            temporary: false,
            active: false,
            restart_lsn: None,
            confirmed_lsn: None,
            retained_bytes: bytes,
            wal_status: None,
            safe_wal_bytes: None,
        });
        view
    };
    let member = SlotOwner::Member(NodeName::new("b"));
    for owner in [SlotOwner::Foreign, SlotOwner::Unknown, member] {
        let views = [
            (0, kept(&owner, Some(1000))),
            (1, kept(&owner, Some(1001))),
            (2, kept(&owner, Some(5000))),
            // Around the limit it does not chatter.
            (3, kept(&owner, Some(900))),
            (4, kept(&owner, Some(1100))),
            (5, kept(&owner, Some(799))),
            (6, kept(&owner, Some(2000))),
            (7, view(Vec::new())),
        ];
        let kind = EventKind::SlotRetainsWal;
        let expected = [
            (1, kind, false),
            (5, kind, true),
            (6, kind, false),
            (7, kind, true),
        ];
        assert_eq!(told(&views), expected);
    }
}

#[test]
fn counters_are_told_when_they_grow_and_at_most_once_a_minute() {
    let counted = |errors: Option<u64>, conflicts: Option<u64>| {
        view(vec![LinkView {
            apply_errors: errors,
            conflicts,
            ..link("streaming")
        }])
    };
    let views = [
        // What was there before us is not news.
        (0, counted(Some(7), None)),
        (5, counted(Some(8), Some(3))),
        (10, counted(Some(9), Some(4))),
        (15, counted(Some(10), Some(5))),
        (66, counted(Some(10), Some(5))),
        // Reset.
        (200, counted(Some(0), None)),
        (300, counted(Some(1), None)),
    ];
    let (error, conflict) = (EventKind::ApplyError, EventKind::ReplicationConflict);
    assert_eq!(
        told(&views),
        [
            (5, error, false),
            (10, conflict, false),
            (66, error, false),
            (300, error, false)
        ]
    );
}

#[test]
fn a_group_without_a_raft_leader_is_told_when_no_election_can_take_so_long() {
    let raft = |state: &str, has_leader| {
        let mut view = view(Vec::new());
        view.nodes[0].bdr = Some(BdrView {
            name: "a".to_owned(),
            kind: "data".to_owned(),
            state: "ACTIVE".to_owned(),
            raft: Some(state.to_owned()),
            has_raft_leader: has_leader,
        });
        view
    };
    let candidate = raft("RAFT_CANDIDATE", Some(false));
    let leader = raft("RAFT_LEADER", Some(true));
    let views = [
        (0, leader.clone()),
        (1, candidate.clone()),
        (6, leader.clone()),
        (20, candidate.clone()),
        (29, candidate.clone()),
        (30, candidate.clone()),
        (40, candidate),
        (41, leader),
        (42, raft("", None)),
    ];
    assert_eq!(
        told(&views),
        [
            (30, EventKind::ConsensusLost, false),
            (41, EventKind::ConsensusRestored, true)
        ]
    );
}
