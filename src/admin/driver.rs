//! What drivers and tools send of their own accord, answered politely: transactions, SET, liveness
//! checks, questions about the server. Nothing here changes anything. Pure.

use super::SERVER_VERSION;
use super::failure::Failure;
use super::lex::{Raw, Token, TokenKind};
use super::show;

/// A statement of a driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Driver {
    /// BEGIN, START TRANSACTION: the status byte says `T` from now on.
    Begin(&'static str),
    /// COMMIT, ROLLBACK and their like. Console commands took effect at once, whatever follows.
    End(&'static str),
    /// Accepted, and means nothing here.
    Ignored(&'static str),
    /// DEALLOCATE: `None` is ALL.
    Deallocate(Option<String>, &'static str),
    /// One row of constants.
    Row(&'static str, Vec<(String, Constant)>),
}

/// A value that SELECT or SHOW gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Constant {
    Text(String),
    Int(i32),
    Bool(bool),
    Null,
    /// Name of the user who asks.
    User,
    /// Name of the admin database.
    Database,
    /// The pid of `BackendKeyData`.
    Pid,
}

/// Run-time parameters that drivers set or ask for, and what SHOW says.
const PARAMETERS: &[(&str, &str)] = &[
    ("application_name", ""),
    ("bytea_output", "hex"),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("extra_float_digits", "1"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("intervalstyle", "postgres"),
    ("is_superuser", "on"),
    ("jit", "off"),
    ("lock_timeout", "0"),
    ("max_identifier_length", "63"),
    ("max_index_keys", "32"),
    ("row_security", "off"),
    ("search_path", "public"),
    ("server_encoding", "UTF8"),
    ("server_version", SERVER_VERSION),
    ("server_version_num", "140000"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("timezone", "UTC"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "off"),
];

/// `None`: not a driver's statement.
///
/// # Errors
/// It begins like one, but must not pass as done: SET of anything else.
pub(super) fn parse(raw: &Raw<'_>) -> Result<Option<Driver>, Failure> {
    let Some((first, rest)) = raw.tokens.split_first() else {
        return Ok(None);
    };
    let TokenKind::Word(word) = &first.kind else {
        return Ok(None);
    };
    let alone = rest.is_empty();
    Ok(match word.to_ascii_uppercase().as_str() {
        "BEGIN" => Some(Driver::Begin("BEGIN")),
        "START" if rest.first().is_some_and(|t| t.is("TRANSACTION")) => {
            Some(Driver::Begin("START TRANSACTION"))
        }
        "COMMIT" | "END" => Some(Driver::End("COMMIT")),
        "ROLLBACK" if rest.iter().any(|t| t.is("TO")) => Some(Driver::Ignored("ROLLBACK")),
        "ROLLBACK" => Some(Driver::End("ROLLBACK")),
        "ABORT" if alone => Some(Driver::End("ROLLBACK")),
        "SAVEPOINT" => Some(Driver::Ignored("SAVEPOINT")),
        "RELEASE" => Some(Driver::Ignored("RELEASE")),
        "RESET" => Some(Driver::Ignored("RESET")),
        "UNLISTEN" => Some(Driver::Ignored("UNLISTEN")),
        "CLOSE" => Some(Driver::Ignored("CLOSE CURSOR")),
        "DISCARD" if rest.first().is_some_and(|t| t.is("ALL")) => {
            Some(Driver::Deallocate(None, "DISCARD ALL"))
        }
        "DISCARD" => Some(Driver::Ignored("DISCARD")),
        "DEALLOCATE" => Some(deallocate(rest)),
        // A command of ours: SET NODE n ELIGIBLE.
        "SET" if rest.first().is_some_and(|t| t.is("NODE")) => None,
        "SET" => Some(set(rest, first.at)?),
        "SHOW" => show_parameter(rest),
        "SELECT" => Some(select(rest, first.at)?),
        _ => None,
    })
}

fn deallocate(rest: &[Token]) -> Driver {
    let name = rest.iter().rfind(|token| !token.is("ALL"));
    Driver::Deallocate(
        name.filter(|token| !token.is("PREPARE")).map(Token::text),
        if name.is_some() {
            "DEALLOCATE"
        } else {
            "DEALLOCATE ALL"
        },
    )
}

/// A typo in a setting's name must not look as if it had worked.
fn set(rest: &[Token], at: usize) -> Result<Driver, Failure> {
    let rest = match rest.split_first() {
        Some((scope, rest)) if scope.is("SESSION") || scope.is("LOCAL") => rest,
        _ => rest,
    };
    let Some(name) = rest.first() else {
        return Err(Failure::syntax("syntax error at end of input", at));
    };
    let special = ["TRANSACTION", "CHARACTERISTICS", "NAMES", "TIME"];
    let text = name.text();
    if special.iter().any(|word| name.is(word)) || parameter(&text).is_some() {
        return Ok(Driver::Ignored("SET"));
    }
    Err(
        Failure::new("0A000", format!("cannot SET \"{text}\" on the console"))
            .hint("Change it in the configuration file, then RELOAD."),
    )
}

fn show_parameter(rest: &[Token]) -> Option<Driver> {
    let first = rest.first()?;
    let name = if first.is("TRANSACTION") && rest.get(1).is_some_and(|t| t.is("ISOLATION")) {
        "transaction_isolation".to_owned()
    } else if first.is("TIME") && rest.get(1).is_some_and(|t| t.is("ZONE")) {
        "timezone".to_owned()
    } else if rest.len() == 1 {
        first.text()
    } else {
        return None;
    };
    if show::find(&name).is_some() {
        return None;
    }
    let (name, value) = parameter(&name)?;
    let value = Constant::Text((*value).to_owned());
    Some(Driver::Row("SHOW", vec![((*name).to_owned(), value)]))
}

fn parameter(name: &str) -> Option<&'static (&'static str, &'static str)> {
    PARAMETERS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
}

/// A list of constants and of functions that ask about the server, each with an alias or not.
fn select(tokens: &[Token], at: usize) -> Result<Driver, Failure> {
    let mut row = Vec::new();
    let mut rest = tokens;
    loop {
        let (name, value, after) = item(rest, at)?;
        let (alias, after) = alias(after);
        row.push((alias.unwrap_or(name), value));
        match after.split_first() {
            None => return Ok(Driver::Row("SELECT 1", row)),
            Some((comma, after)) if comma.is_symbol(',') => rest = after,
            Some((token, _)) => return Err(no_sql(token.at)),
        }
    }
}

fn no_sql(at: usize) -> Failure {
    Failure {
        at: Some(at),
        ..Failure::new("0A000", "the console has no tables and runs no SQL").hint(
            "Use SHOW HELP; to see what it knows. To reach a database, connect to it by its name.",
        )
    }
}

type Item<'t> = (String, Constant, &'t [Token]);

fn item(tokens: &[Token], at: usize) -> Result<Item<'_>, Failure> {
    let Some((first, rest)) = tokens.split_first() else {
        return Err(no_sql(at));
    };
    let unnamed = "?column?".to_owned();
    let word = match &first.kind {
        TokenKind::Literal(text) => return Ok((unnamed, Constant::Text(text.clone()), rest)),
        TokenKind::Word(word) => word.to_ascii_lowercase(),
        _ => return Err(no_sql(first.at)),
    };
    if let Ok(number) = word.parse() {
        return Ok((unnamed, Constant::Int(number), rest));
    }
    let name = word.strip_prefix("pg_catalog.").unwrap_or(&word);
    let (arguments, rest) = arguments(rest).ok_or_else(|| no_sql(first.at))?;
    let value = function(name, arguments).ok_or_else(|| no_sql(first.at))?;
    Ok((name.to_owned(), value, rest))
}

fn function(name: &str, arguments: &[Token]) -> Option<Constant> {
    Some(match name {
        "version" => Constant::Text(format!("PostgreSQL {SERVER_VERSION}, console")),
        "current_database" | "current_catalog" => Constant::Database,
        "current_user" | "session_user" | "user" => Constant::User,
        "current_schema" => Constant::Text("public".to_owned()),
        "pg_backend_pid" => Constant::Pid,
        "pg_is_in_recovery" => Constant::Bool(false),
        "txid_current" | "inet_server_addr" | "inet_client_addr" | "pg_advisory_unlock_all" => {
            Constant::Null
        }
        "set_config" => Constant::Text(arguments.get(2).map(Token::text).unwrap_or_default()),
        "current_setting" => Constant::Text(parameter(&arguments.first()?.text())?.1.to_owned()),
        "true" => Constant::Bool(true),
        "null" => Constant::Null,
        _ => return None,
    })
}

/// `( ... )`, if there is one, and what follows. `None`: it does not end.
fn arguments(tokens: &[Token]) -> Option<(&[Token], &[Token])> {
    match tokens.split_first() {
        Some((open, rest)) if open.is_symbol('(') => {
            let close = rest.iter().position(|token| token.is_symbol(')'))?;
            Some((rest.get(..close)?, rest.get(close + 1..)?))
        }
        _ => Some((&[], tokens)),
    }
}

fn alias(tokens: &[Token]) -> (Option<String>, &[Token]) {
    match tokens {
        [keyword, name, rest @ ..] if keyword.is("AS") => (Some(name.text()), rest),
        _ => (None, tokens),
    }
}
