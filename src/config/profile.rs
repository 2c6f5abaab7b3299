//! Timings of a cluster's probes where the file does not say: from its profile, or from repmgr's
//! names for them.

use std::time::Duration;

use super::kind::Value;
use super::row::Values;

/// The keys of this file, with repmgr's name for each that has one.
const REPMGR: &[(&str, &str)] = &[
    ("monitor_interval", "monitor_interval_secs"),
    ("fall", "reconnect_attempts"),
    ("monitor_fast_interval", "reconnect_interval"),
];

/// Fills in what the file left out.
///
/// # Errors
/// A key that was given together with repmgr's name for it, and what is wrong.
pub(super) fn fill(values: &mut Values) -> Result<(), (&'static str, String)> {
    for (key, repmgr) in REPMGR {
        if !values.is_off(key) && !values.is_off(repmgr) {
            let what = format!("is repmgr's name for {key}, which is given too");
            return Err((repmgr, what));
        }
    }
    from_repmgr(values);
    let fast = values.is_text("profile", "fast");
    let (interval, connect, login, query) = if fast {
        (300, 400, 500, 400)
    } else {
        (1000, 2000, 2000, 2000)
    };
    let ms = |ms| Value::Time(Duration::from_millis(ms));
    values.put_if_off("monitor_interval", ms(interval));
    values.put_if_off("monitor_connect_timeout", ms(connect));
    values.put_if_off("monitor_login_timeout", ms(login));
    values.put_if_off("monitor_timeout", ms(query));
    values.put_if_off("fall", Value::Integer(3));
    if let Some(interval) = values.time("monitor_interval") {
        let least = Duration::from_millis(100).min(interval);
        let quick = (interval / 4).max(least);
        values.put_if_off("monitor_fast_interval", Value::Time(quick));
    }
    Ok(())
}

fn from_repmgr(values: &mut Values) {
    let seconds = |number: i64| {
        Value::Time(Duration::from_secs(
            u64::try_from(number).unwrap_or_default(),
        ))
    };
    if let Some(number) = values.integer("monitor_interval_secs") {
        values.put_if_off("monitor_interval", seconds(number));
    }
    if let Some(number) = values.integer("reconnect_interval") {
        values.put_if_off("monitor_fast_interval", seconds(number));
    }
    if let Some(number) = values.integer("reconnect_attempts") {
        // repmgr counts the tries after the first failure.
        values.put_if_off("fall", Value::Integer(number.saturating_add(1)));
    }
}
