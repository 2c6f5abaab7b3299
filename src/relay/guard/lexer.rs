//! SQL text → tokens, as PostgreSQL's own scanner cuts it (`scan.l`): comments, quotes, dollar
//! quotes and escapes. What it cannot cut for certain is a [`Doubt`], and is refused. Pure.

/// A piece of a statement; comments and white space are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A key word or a name without quotes.
    Word(&'a [u8]),
    /// A name in double quotes, as it stands between them.
    Quoted(&'a [u8]),
    /// A plain literal, as it stands between its quotes.
    Text(&'a [u8]),
    /// Any other literal: `E''`, `U&''`, `B''`, `X''`, `N''`, `$$ $$`.
    Literal,
    /// Digits, as far as they go.
    Number(&'a [u8]),
    /// Anything else, one byte of it.
    Sign(u8),
}

/// Why a text cannot be cut for certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Doubt {
    #[error("a text with an open quote or comment")]
    Open,
    #[error("a name with Unicode escapes")]
    UnicodeName,
    #[error("an escape string that goes on in another line")]
    Continued,
    #[error("a dollar quote with letters beyond ASCII")]
    StrangeDollar,
    #[error("a backslash in a string while standard_conforming_strings is off")]
    Backslash,
}

/// Cuts one text.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    rest: &'a [u8],
    /// `standard_conforming_strings`.
    standard_strings: bool,
}

type Cut<'a> = Result<Option<Token<'a>>, Doubt>;

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [u8], standard_strings: bool) -> Self {
        Self {
            rest: text,
            standard_strings,
        }
    }

    /// The next token; `None` at the end.
    pub(super) fn next(&mut self) -> Cut<'a> {
        self.skip_blank()?;
        let Some(&first) = self.rest.first() else {
            return Ok(None);
        };
        match first {
            b'\'' => self.plain(),
            b'"' => self.quoted(),
            b'$' => self.dollar(),
            b'0'..=b'9' => Ok(Some(Token::Number(self.take_while(|b| b.is_ascii_digit())))),
            _ if starts_name(first) => self.name(),
            _ => {
                self.advance(1);
                Ok(Some(Token::Sign(first)))
            }
        }
    }

    fn advance(&mut self, count: usize) {
        self.rest = self.rest.get(count..).unwrap_or_default();
    }

    fn take_while(&mut self, fits: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|b| !fits(*b));
        let (taken, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// White space and comments; those within `/* */` are nested.
    fn skip_blank(&mut self) -> Result<(), Doubt> {
        loop {
            self.take_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C));
            if self.rest.starts_with(b"--") {
                self.take_while(|b| b != b'\n' && b != b'\r');
            } else if self.rest.starts_with(b"/*") {
                self.skip_comment()?;
            } else {
                return Ok(());
            }
        }
    }

    fn skip_comment(&mut self) -> Result<(), Doubt> {
        let mut depth = 0_u32;
        loop {
            if self.rest.starts_with(b"/*") {
                depth += 1;
                self.advance(2);
            } else if self.rest.starts_with(b"*/") {
                depth -= 1;
                self.advance(2);
            } else if self.rest.is_empty() {
                return Err(Doubt::Open);
            } else {
                self.advance(1);
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// What stands up to the closing `quote`; two of them are one that closes nothing.
    fn up_to(&mut self, quote: u8) -> Result<&'a [u8], Doubt> {
        self.advance(1);
        let start = self.rest;
        loop {
            self.take_while(|b| b != quote);
            if self.rest.is_empty() {
                return Err(Doubt::Open);
            }
            self.advance(1);
            if self.rest.first() != Some(&quote) {
                let length = start.len() - self.rest.len() - 1;
                return Ok(start.get(..length).unwrap_or_default());
            }
            self.advance(1);
        }
    }

    fn plain(&mut self) -> Cut<'a> {
        let inside = self.up_to(b'\'')?;
        if !self.standard_strings && inside.contains(&b'\\') {
            return Err(Doubt::Backslash);
        }
        Ok(Some(Token::Text(inside)))
    }

    fn quoted(&mut self) -> Cut<'a> {
        Ok(Some(Token::Quoted(self.up_to(b'"')?)))
    }

    fn name(&mut self) -> Cut<'a> {
        let name = self.take_while(|b| starts_name(b) || b.is_ascii_digit() || b == b'$');
        match (name, self.rest.first(), self.rest.get(1)) {
            (b"e" | b"E", Some(b'\''), _) => self.escaped(),
            (b"b" | b"B" | b"x" | b"X" | b"n" | b"N", Some(b'\''), _) => {
                self.plain()?;
                Ok(Some(Token::Literal))
            }
            (b"u" | b"U", Some(b'&'), Some(b'"')) => Err(Doubt::UnicodeName),
            (b"u" | b"U", Some(b'&'), Some(b'\'')) => {
                self.advance(1);
                self.plain()?;
                Ok(Some(Token::Literal))
            }
            _ => Ok(Some(Token::Word(name))),
        }
    }

    /// `E''`, with backslashes.
    fn escaped(&mut self) -> Cut<'a> {
        self.advance(1);
        loop {
            self.take_while(|b| b != b'\'' && b != b'\\');
            match (self.rest.first(), self.rest.get(1)) {
                (Some(b'\\'), Some(_)) | (Some(b'\''), Some(b'\'')) => self.advance(2),
                (Some(b'\''), _) => break,
                _ => return Err(Doubt::Open),
            }
        }
        self.advance(1);
        // Behind a line end it would go on, by the same rules.
        self.skip_blank()?;
        if self.rest.first() == Some(&b'\'') {
            return Err(Doubt::Continued);
        }
        Ok(Some(Token::Literal))
    }

    /// A parameter, a dollar quote, or a lone sign.
    fn dollar(&mut self) -> Cut<'a> {
        self.advance(1);
        if self.rest.first().is_some_and(u8::is_ascii_digit) {
            self.take_while(|b| b.is_ascii_digit());
            return Ok(Some(Token::Sign(b'$')));
        }
        let before = self.rest;
        let tag = self.take_while(|b| starts_name(b) || b.is_ascii_digit());
        if self.rest.first() != Some(&b'$') {
            self.rest = before;
            return Ok(Some(Token::Sign(b'$')));
        }
        if !tag.is_ascii() {
            return Err(Doubt::StrangeDollar);
        }
        self.advance(1);
        let end = [b"$", tag, b"$"].concat();
        let at = self.rest.windows(end.len()).position(|part| part == end);
        self.advance(at.ok_or(Doubt::Open)? + end.len());
        Ok(Some(Token::Literal))
    }
}

fn starts_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}
