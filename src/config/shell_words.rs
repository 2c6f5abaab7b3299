//! A command line as people write it → its words. The quoting is a POSIX shell's; what only a shell
//! could do is a mistake, since none runs it.

/// Outside of quotes these mean something to a shell. (`~` and `#` do so where a word begins.)
const MEANINGFUL: &[char] = &['|', '&', ';', '<', '>', '(', ')', '$', '`', '*', '?', '['];
/// And these within double quotes too.
const MEANINGFUL_IN_QUOTES: &[char] = &['$', '`'];

/// Splits `text` into words. The error says what is wrong, without repeating the text.
pub(super) fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    // `None` between words: a word may be empty ("").
    let mut word: Option<String> = None;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            c if c.is_ascii_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                single_quoted(&mut rest, word)?;
            }
            '"' => {
                let word = word.get_or_insert_default();
                double_quoted(&mut rest, word)?;
            }
            '\\' => match rest.next() {
                // A line that goes on.
                Some('\n') => {}
                Some(c) => word.get_or_insert_default().push(c),
                None => return Err("ends with a backslash".to_owned()),
            },
            '~' | '#' if word.is_none() => return Err(no_shell(c)),
            c if MEANINGFUL.contains(&c) => return Err(no_shell(c)),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match words.first() {
        Some(first) if sets_variable(first) => Err(
            "no shell runs it, so no variable can be set before the program; \
             \"env NAME=value program\" does that"
                .to_owned(),
        ),
        _ => Ok(words),
    }
}

fn single_quoted(rest: &mut impl Iterator<Item = char>, word: &mut String) -> Result<(), String> {
    for c in rest {
        if c == '\'' {
            return Ok(());
        }
        word.push(c);
    }
    Err("a single quote is not closed".to_owned())
}

fn double_quoted(rest: &mut impl Iterator<Item = char>, word: &mut String) -> Result<(), String> {
    while let Some(c) = rest.next() {
        match c {
            '"' => return Ok(()),
            '\\' => match rest.next() {
                Some('\n') => {}
                Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                Some(c) => word.extend(['\\', c]),
                None => break,
            },
            c if MEANINGFUL_IN_QUOTES.contains(&c) => return Err(no_shell(c)),
            c => word.push(c),
        }
    }
    Err("a double quote is not closed".to_owned())
}

fn no_shell(c: char) -> String {
    format!("no shell runs it, so \"{c}\" does nothing: write a script (as plain text: '{c}')")
}

/// `NAME=value`.
fn sets_variable(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

/// The text that [`split`] makes these words of.
pub(super) fn join(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| quote(word)).collect();
    quoted.join(" ")
}

fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "%+,-./:=@_".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]

    use proptest::prelude::{prop, prop_assert_eq, proptest};

    use super::{join, split};

    #[test]
    fn words_are_a_shells() {
        for (text, words) in [
            ("", &[][..]),
            (" \t\n ", &[]),
            ("a", &["a"]),
            ("  a  b\tc\n", &["a", "b", "c"]),
            (r#"a "b c" 'd e'"#, &["a", "b c", "d e"]),
            (r#"a "" '' b"#, &["a", "", "", "b"]),
            (r#"a"b"'c'd"#, &["abcd"]),
            (r"a\ b \'c \\", &["a b", "'c", r"\"]),
            (r#""a\"b\\c\d\$e\`""#, &[r#"a"b\c\d$e`"#]),
            (
                r#"'$HOME "x" `y` \z | > *'"#,
                &[r#"$HOME "x" `y` \z | > *"#],
            ),
            (r#""a|b;c>d*e?f[g]~#""#, &["a|b;c>d*e?f[g]~#"]),
            (
                "a~b c#d e=f {g,h} !i",
                &["a~b", "c#d", "e=f", "{g,h}", "!i"],
            ),
            ("a\\\nb", &["ab"]),
            ("env A=b c", &["env", "A=b", "c"]),
            ("./a=b/c", &["./a=b/c"]),
            ("müde \"Ä ö\"", &["müde", "Ä ö"]),
        ] {
            assert_eq!(split(text).unwrap(), words, "{text:?}");
        }
    }

    #[test]
    fn what_only_a_shell_could_do_is_a_mistake() {
        for (text, what) in [
            ("a >> log 2>&1", "\">\""),
            ("a 2>&1", "\">\""),
            ("a | b", "\"|\""),
            ("a && b", "\"&\""),
            ("a &", "\"&\""),
            ("a; b", "\";\""),
            ("a < b", "\"<\""),
            ("(a)", "\"(\""),
            ("a $HOME", "\"$\""),
            ("a \"$HOME\"", "\"$\""),
            ("a `b`", "\"`\""),
            ("a \"`b`\"", "\"`\""),
            ("a *.txt", "\"*\""),
            ("a b?", "\"?\""),
            ("a [b]", "\"[\""),
            ("~/a", "\"~\""),
            ("a #b", "\"#\""),
            ("A=b c", "env NAME=value program"),
            ("a 'b", "single quote"),
            ("a \"b", "double quote"),
            ("a \"b\\", "double quote"),
            ("a \\", "backslash"),
        ] {
            let error = split(text).unwrap_err();
            assert!(error.contains(what), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_joined_is_split_again(words in prop::collection::vec("[ -~äß\n\t]{0,8}", 0..6)) {
            // The first word stands for the program, which must not look like a variable.
            let words: Vec<String> = std::iter::once("program".to_owned()).chain(words).collect();
            prop_assert_eq!(split(&join(&words)).unwrap(), words);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let _ = split(&text);
        }
    }
}
