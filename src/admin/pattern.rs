//! Matches a statement against the syntax line of a command. Pure.

use super::failure::Failure;
use super::lex::{Raw, Token, TokenKind};

/// What a statement gave for the variable parts of a syntax line.
#[derive(Debug, Default)]
pub(super) struct Captures<'s>(Vec<(String, Captured<'s>)>);

#[derive(Debug)]
enum Captured<'s> {
    /// A name, or the text of a time.
    Text(String),
    /// The keyword of `a|b` as the syntax line writes it.
    Choice(&'s str),
    /// An optional group of keywords only.
    Given,
}

impl Captures<'_> {
    /// A name that the syntax requires.
    pub(super) fn name(&self, key: &str) -> &str {
        self.optional(key).unwrap_or_default()
    }

    /// A name or time that may be left out. A time is found under the keywords before it.
    pub(super) fn optional(&self, key: &str) -> Option<&str> {
        self.find(key).and_then(|captured| match captured {
            Captured::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// The keyword chosen, under the keywords before it.
    pub(super) fn choice(&self, key: &str) -> Option<&str> {
        self.find(key).and_then(|captured| match captured {
            Captured::Choice(keyword) => Some(*keyword),
            _ => None,
        })
    }

    /// Was the optional group of these keywords there?
    pub(super) fn given(&self, key: &str) -> bool {
        matches!(self.find(key), Some(Captured::Given))
    }

    fn find(&self, key: &str) -> Option<&Captured<'_>> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, captured)| captured)
    }
}

/// Matches the whole statement.
///
/// # Errors
/// 42601 at the token that does not fit, with the syntax line as hint.
pub(super) fn match_syntax<'s>(syntax: &'s str, raw: &Raw<'_>) -> Result<Captures<'s>, Failure> {
    let (required, mut optional) = parts(syntax);
    let mut cursor = Cursor {
        tokens: &raw.tokens,
        captures: Captures::default(),
    };
    let wrong = |rest: &[Token]| unexpected(rest, raw).hint(format!("Syntax: {syntax}"));
    if !cursor.take_sequence(&required) {
        return Err(wrong(cursor.tokens));
    }
    // Groups that begin with a keyword go first: in PAUSE TIMEOUT '1s' the database is left out.
    optional.sort_by_key(|group| !group.first().is_some_and(|item| is_keyword(item)));
    while !cursor.tokens.is_empty() {
        let taken = optional.iter().position(|group| cursor.take_group(group));
        let Some(index) = taken else {
            return Err(wrong(cursor.tokens));
        };
        optional.remove(index);
    }
    Ok(cursor.captures)
}

type Group<'s> = Vec<&'s str>;

/// Required items, and the optional groups.
fn parts(syntax: &str) -> (Group<'_>, Vec<Group<'_>>) {
    let mut groups = syntax.split('[');
    let required = groups.next().unwrap_or_default();
    let optional = groups.map(|group| group.trim_end().trim_end_matches(']'));
    (
        required.split_whitespace().collect(),
        optional.map(|g| g.split_whitespace().collect()).collect(),
    )
}

fn is_keyword(item: &str) -> bool {
    item.contains('|') || item.starts_with(|c: char| c.is_ascii_uppercase())
}

struct Cursor<'t, 's> {
    tokens: &'t [Token],
    captures: Captures<'s>,
}

impl<'s> Cursor<'_, 's> {
    /// Takes all items and remembers how far it came if one is missing.
    fn take_sequence(&mut self, items: &[&'s str]) -> bool {
        let mut keywords = String::new();
        for item in items {
            if !self.take(item, &mut keywords) {
                return false;
            }
        }
        if items
            .iter()
            .all(|item| is_keyword(item) && !item.contains('|'))
        {
            self.captures.0.push((keywords, Captured::Given));
        }
        true
    }

    /// Takes the group or leaves everything as it was.
    fn take_group(&mut self, items: &[&'s str]) -> bool {
        let (tokens, captured) = (self.tokens, self.captures.0.len());
        let taken = self.take_sequence(items);
        if !taken {
            self.tokens = tokens;
            self.captures.0.truncate(captured);
        }
        taken
    }

    fn take(&mut self, item: &'s str, keywords: &mut String) -> bool {
        let Some((token, rest)) = self.tokens.split_first() else {
            return false;
        };
        let capture = if item.contains('|') {
            let chosen = item.split('|').find(|keyword| token.is(keyword));
            chosen.map(|keyword| Some((keywords.clone(), Captured::Choice(keyword))))
        } else if is_keyword(item) {
            token.is(item).then(|| {
                if !keywords.is_empty() {
                    keywords.push(' ');
                }
                keywords.push_str(item);
                None
            })
        } else {
            let text = if item.starts_with('\'') {
                time_text(token).map(|text| (keywords.clone(), text))
            } else {
                name_text(token).map(|text| (item.to_owned(), text))
            };
            text.map(|(key, text)| Some((key, Captured::Text(text))))
        };
        let Some(capture) = capture else { return false };
        self.captures.0.extend(capture);
        self.tokens = rest;
        true
    }
}

fn name_text(token: &Token) -> Option<String> {
    match &token.kind {
        TokenKind::Word(text) | TokenKind::Quoted(text) => Some(text.clone()),
        _ => None,
    }
}

fn time_text(token: &Token) -> Option<String> {
    match &token.kind {
        TokenKind::Word(text) | TokenKind::Literal(text) => Some(text.clone()),
        _ => None,
    }
}

fn unexpected(rest: &[Token], raw: &Raw<'_>) -> Failure {
    match rest.first() {
        Some(token) => Failure::syntax(
            format!("syntax error at or near \"{}\"", token.text()),
            token.at,
        ),
        None => Failure::syntax(
            "syntax error at end of input",
            raw.tokens
                .first()
                .map_or(0, |token| token.at + raw.text.len()),
        ),
    }
}
