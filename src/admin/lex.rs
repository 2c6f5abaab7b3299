//! Query string → statements → tokens. Quotes and comments are PostgreSQL's (manual section 4.1);
//! a `;` inside them ends nothing. Pure.

use super::failure::Failure;

/// A piece of a statement and where it starts in the query string (bytes).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) at: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// Keyword, name or number, as written.
    Word(String),
    /// `"name"`: never a keyword.
    Quoted(String),
    /// `'text'`.
    Literal(String),
    /// Any other character.
    Symbol(char),
}

impl Token {
    /// Is it this keyword, in whatever case?
    pub(super) fn is(&self, keyword: &str) -> bool {
        matches!(&self.kind, TokenKind::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    pub(super) fn is_symbol(&self, symbol: char) -> bool {
        self.kind == TokenKind::Symbol(symbol)
    }

    /// As an error message names it.
    pub(super) fn text(&self) -> String {
        match &self.kind {
            TokenKind::Word(text) | TokenKind::Quoted(text) | TokenKind::Literal(text) => {
                text.clone()
            }
            TokenKind::Symbol(symbol) => symbol.to_string(),
        }
    }
}

/// One statement: its tokens, never empty, and its text without the `;`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raw<'a> {
    pub(super) text: &'a str,
    pub(super) tokens: Vec<Token>,
}

/// Splits a query string. Statements of nothing but blanks and comments vanish, as in PostgreSQL.
///
/// # Errors
/// A quote or comment that does not end, or an empty `""`.
pub(super) fn split(query: &str) -> Result<Vec<Raw<'_>>, Failure> {
    let mut statements = Vec::new();
    let mut tokens: Vec<Token> = Vec::new();
    let mut end = 0;
    let mut scanner = Scanner { query, at: 0 };
    while let Some(token) = scanner.next()? {
        if token.is_symbol(';') {
            finish(query, &mut tokens, end, &mut statements);
        } else {
            tokens.push(token);
            end = scanner.at;
        }
    }
    finish(query, &mut tokens, end, &mut statements);
    Ok(statements)
}

fn finish<'a>(query: &'a str, tokens: &mut Vec<Token>, end: usize, out: &mut Vec<Raw<'a>>) {
    let Some(first) = tokens.first() else { return };
    let text = query.get(first.at..end).unwrap_or_default();
    out.push(Raw {
        text,
        tokens: std::mem::take(tokens),
    });
}

struct Scanner<'a> {
    query: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        self.query.get(self.at..).unwrap_or_default()
    }

    fn next(&mut self) -> Result<Option<Token>, Failure> {
        self.skip_blanks_and_comments()?;
        let at = self.at;
        let Some(first) = self.rest().chars().next() else {
            return Ok(None);
        };
        let kind = match first {
            '"' => TokenKind::Quoted(self.quoted('"', "unterminated quoted identifier")?),
            '\'' => TokenKind::Literal(self.quoted('\'', "unterminated quoted string")?),
            c if is_word(c) => TokenKind::Word(self.word()),
            c => {
                self.at += c.len_utf8();
                TokenKind::Symbol(c)
            }
        };
        if kind == TokenKind::Quoted(String::new()) {
            return Err(Failure::syntax("zero-length delimited identifier", at));
        }
        Ok(Some(Token { kind, at }))
    }

    fn skip_blanks_and_comments(&mut self) -> Result<(), Failure> {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start().len();
            if blank > 0 {
                self.at += blank;
            } else if rest.starts_with("--") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                self.block_comment()?;
            } else {
                return Ok(());
            }
        }
    }

    /// Block comments nest.
    fn block_comment(&mut self) -> Result<(), Failure> {
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            let rest = self.rest();
            if rest.starts_with("/*") {
                depth += 1;
                self.at += 2;
            } else if rest.starts_with("*/") {
                depth -= 1;
                self.at += 2;
                if depth == 0 {
                    return Ok(());
                }
            } else if let Some(c) = rest.chars().next() {
                self.at += c.len_utf8();
            } else {
                return Err(Failure::syntax("unterminated /* comment", start));
            }
        }
    }

    /// Text between two quotes; a doubled quote stands for itself.
    fn quoted(&mut self, quote: char, unterminated: &str) -> Result<String, Failure> {
        let start = self.at;
        let mut text = String::new();
        self.at += 1;
        loop {
            let rest = self.rest();
            let Some(stop) = rest.find(quote) else {
                return Err(Failure::syntax(unterminated, start));
            };
            text.push_str(&rest[..stop]);
            self.at += stop + 1;
            if !self.rest().starts_with(quote) {
                return Ok(text);
            }
            text.push(quote);
            self.at += 1;
        }
    }

    /// A word ends before a comment: `a--b` is `a`.
    fn word(&mut self) -> String {
        let rest = self.rest();
        let end = rest
            .char_indices()
            .find(|(i, c)| !is_word(*c) || rest[*i..].starts_with("--"))
            .map_or(rest.len(), |(i, _)| i);
        self.at += end;
        rest[..end].to_owned()
    }
}

/// Host-like names need no quotes: `dc-a`, `10.0.0.1`.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::{TokenKind, split};

    fn words(query: &str) -> Vec<Vec<TokenKind>> {
        split(query)
            .unwrap()
            .into_iter()
            .map(|raw| raw.tokens.into_iter().map(|t| t.kind).collect())
            .collect()
    }

    fn word(text: &str) -> TokenKind {
        TokenKind::Word(text.to_owned())
    }

    #[test]
    fn quotes_and_comments_hide_semicolons() {
        assert_eq!(
            words("PAUSE \"a;\"\"b\" -- x;y\n TIMEOUT '1;''s' /* ; /* ; */ */;;resume dc-a--end"),
            [
                vec![
                    word("PAUSE"),
                    TokenKind::Quoted("a;\"b".to_owned()),
                    word("TIMEOUT"),
                    TokenKind::Literal("1;'s".to_owned()),
                ],
                vec![word("resume"), word("dc-a")],
            ]
        );
    }

    #[test]
    fn what_does_not_end_is_named_with_its_place() {
        for (query, message, at) in [
            ("show 'x", "unterminated quoted string", 5),
            ("show \"x", "unterminated quoted identifier", 5),
            ("a /* /* */", "unterminated /* comment", 2),
            ("pause \"\"", "zero-length delimited identifier", 6),
        ] {
            let failure = split(query).unwrap_err();
            assert_eq!((failure.message.as_str(), failure.at), (message, Some(at)));
        }
    }

    #[test]
    fn nothing_is_no_statement() {
        for query in ["", " ", ";", " ; ;\n", "-- ping", "/* x */;"] {
            assert_eq!(split(query).unwrap(), []);
        }
    }

    /// One statement that PostgreSQL's lexer would take as one.
    fn statement() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "[a-z0-9_.]{1,8}",
            "[^'\\\\\0]{0,8}".prop_map(|s| format!("'{s}'")),
            "[^\"\0]{1,8}".prop_map(|s| format!("\"{s}\"")),
            "[^*/\0]{0,8}".prop_map(|s| format!("/*{s}*/")),
            "[^\n\0]{0,8}".prop_map(|s| format!("--{s}\n")),
        ];
        (proptest::collection::vec(piece, 0..6))
            .prop_map(|pieces| format!("x {}", pieces.join(" ")))
    }

    proptest! {
        #[test]
        fn the_splitter_loses_no_statement(statements in proptest::collection::vec(statement(), 0..6)) {
            let joined = statements.join(";");
            let split_at_once = split(&joined).unwrap();
            prop_assert_eq!(split_at_once.len(), statements.len());
            for (raw, alone) in split_at_once.iter().zip(&statements) {
                let kinds = |raw: &super::Raw<'_>| {
                    raw.tokens.iter().map(|t| t.kind.clone()).collect::<Vec<_>>()
                };
                prop_assert_eq!(kinds(raw), kinds(&split(alone).unwrap()[0]));
            }
        }

        #[test]
        fn any_text_is_split_or_refused(query in any::<String>()) {
            if let Ok(statements) = split(&query) {
                for raw in statements {
                    prop_assert!(!raw.tokens.is_empty());
                    prop_assert!(query.contains(raw.text));
                }
            }
        }
    }
}
