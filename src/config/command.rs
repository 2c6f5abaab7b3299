//! Programs that pgsluice runs: a program and its arguments, never a shell. An argument may have
//! places for values; what is put there stays within that argument, whatever is in it.

use super::field::{Field, words};
use super::kind::Value;

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// Path, or a name that is looked up in `PATH`.
    pub program: String,
    /// Each reaches the program as it is.
    pub arguments: Vec<String>,
}

/// repmgr's placeholders, by the letter after the percent sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholder {
    /// Id of the node that the event is about.
    NodeId,
    /// Id of the lead before.
    PreviousLeadId,
    /// The event.
    Event,
    /// 1 or 0.
    Success,
    /// When it happened.
    Time,
    /// Free text.
    Detail,
    /// Conninfo of the next available node.
    Conninfo,
    /// Name of the next available node.
    NextNode,
}
words!(Placeholder {
    NodeId = "n",
    PreviousLeadId = "p",
    Event = "e",
    Success = "s",
    Time = "t",
    Detail = "d",
    Conninfo = "c",
    NextNode = "a",
});

/// A command line with places for values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandTemplate {
    /// As it was written, split into words.
    words: Vec<String>,
    program: String,
    arguments: Vec<Vec<Piece>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Place(Placeholder),
}

impl CommandTemplate {
    /// Path of the program, or a name that is looked up in `PATH`.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Fills the places in. There are as many arguments as there were, whatever the values are.
    pub fn expand(&self, value: impl Fn(Placeholder) -> String) -> CommandLine {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Place(placeholder) => value(*placeholder),
        };
        let argument = |pieces: &Vec<Piece>| pieces.iter().map(piece).collect();
        CommandLine {
            program: self.program.clone(),
            arguments: self.arguments.iter().map(argument).collect(),
        }
    }

    fn new(words: &[String]) -> Result<Self, String> {
        let (first, rest) = words.split_first().ok_or("has no program")?;
        let program = match pieces(first)?.as_slice() {
            [Piece::Text(program)] => program.clone(),
            [] => return Err("the program's name is empty".to_owned()),
            _ => return Err("the program's name has a placeholder".to_owned()),
        };
        let arguments = rest.iter().map(|word| pieces(word));
        Ok(Self {
            words: words.to_vec(),
            program,
            arguments: arguments.collect::<Result<_, _>>()?,
        })
    }
}

/// Is this a command line? The error says what is wrong.
pub(super) fn check(words: &[String]) -> Result<(), String> {
    CommandTemplate::new(words).map(drop)
}

/// `x%ny` → text, place, text. Neighbouring texts are one.
fn pieces(word: &str) -> Result<Vec<Piece>, String> {
    let (mut pieces, mut text) = (Vec::new(), String::new());
    let mut rest = word.chars();
    while let Some(c) = rest.next() {
        let letter = match c {
            '%' => rest.next(),
            c => {
                text.push(c);
                continue;
            }
        };
        match letter {
            Some('%') => text.push('%'),
            letter => {
                let letter = letter.map(String::from).unwrap_or_default();
                let place = Placeholder::from_word(&letter).ok_or_else(|| unknown(&letter))?;
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                }
                pieces.push(Piece::Place(place));
            }
        }
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

fn unknown(letter: &str) -> String {
    let known = Placeholder::WORDS.join(", %");
    format!("no placeholder \"%{letter}\": there are %{known}; \"%%\" is a percent sign")
}

impl Field for CommandTemplate {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::List(words) => Self::new(&words).ok(),
            _ => None,
        }
    }

    fn to_value(&self) -> Value {
        Value::List(self.words.clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]

    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    use super::super::shell_words::split;
    use super::{CommandTemplate, Placeholder, check};

    fn template(text: &str) -> CommandTemplate {
        CommandTemplate::new(&split(text).unwrap()).unwrap()
    }

    /// The letter, in something that a shell would take apart.
    fn value(placeholder: Placeholder) -> String {
        format!("<{placeholder} '%d' \"x\" $y>")
    }

    #[test]
    fn each_value_stays_in_its_argument() {
        let v = |letter: &str| format!("<{letter} '%d' \"x\" $y>");
        for (text, arguments) in [
            ("/p", vec![]),
            ("/p %n %e", vec![v("n"), v("e")]),
            (r#"/p "%c" '%a'"#, vec![v("c"), v("a")]),
            (
                "/p --node=%n:%p",
                vec![format!("--node={}:{}", v("n"), v("p"))],
            ),
            (
                "/p 100%% %%n %%%s",
                vec!["100%".to_owned(), "%n".to_owned(), format!("%{}", v("s"))],
            ),
            (r#"/p "" "%t%d""#, vec![String::new(), v("t") + &v("d")]),
        ] {
            let command = template(text).expand(value);
            assert_eq!(
                (command.program.as_str(), command.arguments),
                ("/p", arguments),
                "{text}"
            );
        }
    }

    #[test]
    fn wrong_templates_are_explained() {
        let known = "there are %n, %p, %e, %s, %t, %d, %c, %a; \"%%\" is a percent sign";
        for (words, what) in [
            (&[][..], "has no program".to_owned()),
            (&["", "a"], "the program's name is empty".to_owned()),
            (&["/p%n"], "the program's name has a placeholder".to_owned()),
            (&["/p", "%x"], format!("no placeholder \"%x\": {known}")),
            (&["/p", "5%"], format!("no placeholder \"%\": {known}")),
            (&["/p", "%ä"], format!("no placeholder \"%ä\": {known}")),
        ] {
            let words: Vec<String> = words.iter().map(ToString::to_string).collect();
            assert_eq!(check(&words), Err(what), "{words:?}");
        }
    }

    proptest! {
        #[test]
        fn expansion_never_changes_the_number_of_arguments(
            written in prop::collection::vec("([a-z \"']|%[npestdca%]){0,8}", 0..6),
            text in any::<String>(),
        ) {
            let mut words = vec!["/p".to_owned()];
            words.extend(written.iter().cloned());
            let template = CommandTemplate::new(&words).unwrap();
            let command = template.expand(|_| text.clone());
            prop_assert_eq!(command.arguments.len(), written.len());
            // And what stands between the places is as it was.
            let plain = template.expand(|place| format!("%{place}"));
            let written: Vec<_> = written.iter().map(|word| word.replace("%%", "%")).collect();
            prop_assert_eq!(plain.arguments, written);
        }
    }
}
