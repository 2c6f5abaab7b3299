//! How far behind a consumer is, in time: told by positions and not by timestamps, so that an idle
//! node is not behind and a link that stands still falls behind with every change at its origin.
//! Pure.

use std::collections::VecDeque;
use std::time::Instant;

use crate::cluster::Behind;
use crate::lsn::Lsn;

/// Most samples of one node. With one a second and none thinned out: 17 minutes of writing.
const SAMPLES: usize = 1024;

/// When a node's WAL had come to which position: a rising sequence of positions, each with the
/// first moment that it was seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Positions {
    samples: VecDeque<(Instant, Lsn)>,
}

impl Positions {
    /// Takes in what a probe saw.
    pub(super) fn note(&mut self, at: Instant, lsn: Lsn) {
        let lsn = written(lsn);
        match self.samples.back() {
            Some((_, last)) if *last == lsn => return,
            // Another history: restored, or made anew.
            Some((_, last)) if *last > lsn => self.samples.clear(),
            _ => {}
        }
        if self.samples.len() >= SAMPLES {
            self.thin_out();
        }
        self.samples.push_back((at, lsn));
    }

    /// Since when something has been written that lies beyond `confirmed`.
    pub(super) fn behind(&self, confirmed: Option<Lsn>) -> Behind {
        let (Some(confirmed), false) = (confirmed, self.samples.is_empty()) else {
            return Behind::Unknown;
        };
        let there = self.samples.partition_point(|(_, lsn)| *lsn <= confirmed);
        match self.samples.get(there) {
            None => Behind::Nothing,
            Some((at, _)) => Behind::Since(*at),
        }
    }

    /// Every other one of the older half goes: what was long ago need not be known to the second.
    /// The first stays, since how long a broken link has been so is counted from it.
    fn thin_out(&mut self) {
        let half = SAMPLES / 2;
        let mut at = 0;
        self.samples.retain(|_| {
            at += 1;
            at > half || at % 2 == 1
        });
    }
}

/// The insert position at the beginning of a page counts the page's header, which is not written
/// before a record follows: nobody will confirm it while the node is idle. A record never ends
/// there. (24 bytes; 40 on a segment's first page.)
pub(super) fn written(lsn: Lsn) -> Lsn {
    // Of PostgreSQL's default size. With another one the age of an idle node's link is not 0 now
    // and then, no more.
    const PAGE: u64 = 8192;
    match lsn.0 % PAGE {
        header @ (24 | 40) => Lsn(lsn.0 - header),
        _ => lsn,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn behind_is_the_first_moment_of_what_is_not_confirmed() {
        let start = Instant::now();
        let mut positions = Positions::default();
        assert_eq!(positions.behind(Some(Lsn(5))), Behind::Unknown);
        for (at, lsn) in [(0, 100), (1, 100), (2, 200), (3, 300), (9, 300)] {
            positions.note(start + seconds(at), Lsn(lsn));
        }
        for (confirmed, expected) in [
            (Some(99), Behind::Since(start)),
            (Some(100), Behind::Since(start + seconds(2))),
            (Some(150), Behind::Since(start + seconds(2))),
            (Some(299), Behind::Since(start + seconds(3))),
            // Idle since then: not behind, however long ago that was.
            (Some(300), Behind::Nothing),
            (Some(999), Behind::Nothing),
            (None, Behind::Unknown),
        ] {
            assert_eq!(
                positions.behind(confirmed.map(Lsn)),
                expected,
                "{confirmed:?}"
            );
        }
        let later = start + seconds(60);
        assert_eq!(Behind::Since(start).age(later), Some(seconds(60)));
        assert_eq!(Behind::Nothing.age(later), Some(Duration::ZERO));
        assert_eq!(Behind::Unknown.age(later), None);
    }

    #[test]
    fn an_idle_node_at_the_beginning_of_a_page_is_not_behind() {
        let mut positions = Positions::default();
        positions.note(Instant::now(), Lsn(0x0200_0028));
        assert_eq!(positions.behind(Some(Lsn(0x0200_0000))), Behind::Nothing);
        positions.note(Instant::now(), Lsn(0x0200_2018));
        assert_eq!(positions.behind(Some(Lsn(0x0200_2000))), Behind::Nothing);
        positions.note(Instant::now(), Lsn(0x0200_2048));
        assert!(matches!(
            positions.behind(Some(Lsn(0x0200_2000))),
            Behind::Since(_)
        ));
    }

    #[test]
    fn a_history_is_bounded_and_keeps_its_beginning() {
        let start = Instant::now();
        let mut positions = Positions::default();
        for n in 0..100_000 {
            positions.note(start + seconds(n), Lsn(n * 8192 + 100));
        }
        assert!(positions.samples.len() <= SAMPLES);
        assert_eq!(positions.behind(Some(Lsn(0))), Behind::Since(start));
        // What is recent is known to the second.
        let recent = Lsn(99_900 * 8192 + 100);
        assert_eq!(
            positions.behind(Some(recent)),
            Behind::Since(start + seconds(99_901))
        );
        // Made anew, with another history.
        positions.note(start, Lsn(7));
        assert_eq!(positions.behind(Some(Lsn(7))), Behind::Nothing);
    }
}
