//! Query string → statements ready to run. Pure.

use super::command::{Command, VERBS, Verb};
use super::driver::{self, Driver};
use super::failure::{Failure, probably, shorten};
use super::lex::{Raw, split};
use super::pattern::match_syntax;

/// One statement of a query string, ready to run.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    pub(super) text: String,
    pub(super) action: Action,
}

/// What it does.
#[derive(Debug, Clone)]
pub(super) enum Action {
    /// A row of the table.
    Command(&'static Verb, Command),
    /// What drivers send of their own accord.
    Driver(Driver),
}

/// Parses a query string. As in PostgreSQL, nothing of it runs if a part of it is wrong.
///
/// # Errors
/// The first mistake, its place counted in characters from 1.
pub(super) fn plan(query: &str) -> Result<Vec<Statement>, Failure> {
    let parsed = split(query).and_then(|raws| raws.iter().map(parse).collect());
    let mut statements: Vec<Statement> = parsed.map_err(|failure: Failure| Failure {
        at: failure.at.map(|at| {
            query
                .char_indices()
                .take_while(|(i, _)| *i < at)
                .count()
                .saturating_add(1)
        }),
        ..failure
    })?;
    fuse_reconnect_and_pause(&mut statements);
    Ok(statements)
}

/// `RECONNECT x; PAUSE x` side by side becomes one act: no session may get a server in between.
fn fuse_reconnect_and_pause(statements: &mut [Statement]) {
    for at in 1..statements.len() {
        let (before, after) = statements.split_at_mut(at);
        let (Some(first), Some(second)) = (before.last_mut(), after.first_mut()) else {
            continue;
        };
        if let (
            Action::Command(
                _,
                Command::Reconnect {
                    database: reconnected,
                    and_pause,
                },
            ),
            Action::Command(
                _,
                Command::Pause {
                    database, begun, ..
                },
            ),
        ) = (&mut first.action, &mut second.action)
            && reconnected == database
        {
            *and_pause = true;
            *begun = true;
        }
    }
}

fn parse(raw: &Raw<'_>) -> Result<Statement, Failure> {
    if let Some(parameter) = raw.tokens.iter().find(|token| token.is_symbol('$')) {
        return Err(Failure {
            at: Some(parameter.at),
            ..Failure::new("0A000", "the console takes no parameters")
        });
    }
    let action = match driver::parse(raw)? {
        Some(driver) => Action::Driver(driver),
        None => parse_command(raw)?,
    };
    Ok(Statement {
        text: raw.text.to_owned(),
        action,
    })
}

fn parse_command(raw: &Raw<'_>) -> Result<Action, Failure> {
    let unknown = || unknown_command(raw);
    let first = raw.tokens.first().ok_or_else(unknown)?;
    let mut with_word = VERBS
        .iter()
        .filter(|verb| first.is(first_word(verb.syntax)))
        .peekable();
    if with_word.peek().is_none() {
        return Err(unknown());
    }
    let mut nearest = None;
    for verb in with_word {
        match match_syntax(verb.syntax, raw) {
            Ok(captures) => {
                let command = (verb.build)(&captures).map_err(|failure| Failure {
                    at: failure.at.or(Some(first.at)),
                    ..failure
                })?;
                return Ok(Action::Command(verb, command));
            }
            Err(failure) => nearest = nearest.or(Some(failure)),
        }
    }
    Err(nearest.unwrap_or_else(unknown))
}

fn first_word(syntax: &str) -> &str {
    syntax.split(' ').next().unwrap_or_default()
}

fn unknown_command(raw: &Raw<'_>) -> Failure {
    let first = raw.tokens.first();
    let failure = Failure::syntax(
        format!("invalid command '{}', use SHOW HELP;", shorten(raw.text)),
        first.map_or(0, |token| token.at),
    );
    let meant = first.and_then(|token| {
        let verbs = VERBS.iter().map(|verb| first_word(verb.syntax));
        probably(&token.text(), verbs)
    });
    match meant {
        Some(word) => failure.hint(format!("Perhaps you meant {word}.")),
        None => failure,
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
