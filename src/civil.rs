//! Points in time as people read them. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `YYYY-MM-DD HH:MM:SS UTC`, as PgBouncer shows times.
pub fn utc(time: SystemTime) -> String {
    format!("{} UTC", date_and_time(time))
}

/// `YYYY-MM-DD HH:MM:SS+00`, as repmgr shows times.
pub fn with_offset(time: SystemTime) -> String {
    format!("{}+00", date_and_time(time))
}

fn date_and_time(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let (year, month, day) = civil_from_days(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// Gregorian date of a day counted from 1970-01-01. Years begin in March here, so that the leap day
/// is a year's last; 719 468 days lie between 0000-03-01 and 1970-01-01, 146 097 in 400 years.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// A length of time in its two largest units: `31 s`, `4 min 5 s`, `2 h 3 min`.
pub fn length(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::{civil_from_days, length, utc, with_offset};

    #[test]
    fn known_moments() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_795_305_600, "2026-11-22 00:00:00 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
        assert_eq!(with_offset(UNIX_EPOCH), "1970-01-01 00:00:00+00");
    }

    #[test]
    fn every_day_follows_the_day_before() {
        let mut before = civil_from_days(0);
        for days in 1..200_000 {
            let today = civil_from_days(days);
            let (year, month, day) = before;
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let last = match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let expected = match (day == last, month) {
                (false, _) => (year, month, day + 1),
                (true, 12) => (year + 1, 1, 1),
                (true, _) => (year, month + 1, 1),
            };
            assert_eq!(today, expected);
            before = today;
        }
    }

    #[test]
    fn lengths() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (31_000, "31 s"),
            (245_000, "4 min 5 s"),
            (7_380_000, "2 h 3 min"),
        ] {
            assert_eq!(length(Duration::from_millis(ms)), text);
        }
    }
}
