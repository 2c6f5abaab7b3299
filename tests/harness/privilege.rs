//! What some faults need of the account that runs the tests.

use std::fs;

/// Says that tests which need root shall be left out. Without it they fail where they cannot run:
/// a proof that is skipped in silence is none.
const NO_ROOT: &str = "PGSLUICE_TEST_NO_ROOT";

/// What a fault needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// To drop and reject packets: `CAP_NET_ADMIN`.
    Packets,
    /// To mount a small file system: `CAP_SYS_ADMIN`.
    Mounts,
}

/// May a test that needs this go on? False only where the environment says to leave it out; panics
/// with what is missing otherwise.
#[must_use = "the test returns when it is false"]
pub fn may(need: Need) -> bool {
    if std::env::var_os(NO_ROOT).is_some_and(|value| value == "1") {
        eprintln!(
            "left out: {NO_ROOT}=1, and it needs {}",
            need.capability().0
        );
        return false;
    }
    require(need);
    true
}

/// Panics with what is missing.
pub fn require(need: Need) {
    let (name, bit) = need.capability();
    assert!(
        effective_capabilities() >> bit & 1 == 1,
        "this test {} and needs {name} for it: run it as root, or set {NO_ROOT}=1 to leave such \
         tests out",
        match need {
            Need::Packets => "drops packets with nft",
            Need::Mounts => "mounts a small tmpfs",
        }
    );
}

impl Need {
    /// Its name, and its bit (`linux/capability.h`).
    fn capability(self) -> (&'static str, u32) {
        match self {
            Self::Packets => ("CAP_NET_ADMIN", 12),
            Self::Mounts => ("CAP_SYS_ADMIN", 21),
        }
    }
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .expect("CapEff")
}
