//! `${VARIABLE}` and `file:/path`: where texts come from that are not in the file.

use std::io;
use std::path::Path;

/// Looks up what a text refers to. No message holds what was found.
pub(super) struct Resolver<'a> {
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) read_file: &'a dyn Fn(&Path) -> io::Result<String>,
}

impl Resolver<'_> {
    /// Puts the environment's values in place of each `${VARIABLE}`; `$${` stands for `${`. What
    /// a variable holds is not expanded again.
    pub(super) fn expand(&self, text: &str) -> Result<String, String> {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                expanded.push_str(before);
                expanded.push_str("${");
                rest = after;
                continue;
            }
            expanded.push_str(before);
            let variable = after.split_once('}').filter(|(name, _)| is_variable(name));
            let Some((name, after)) = variable else {
                return Err(
                    "\"${\" without a variable's name and \"}\"; \"$${\" stands for \
                            a plain \"${\""
                        .to_owned(),
                );
            };
            match (self.env)(name) {
                Some(value) => expanded.push_str(&value),
                None => return Err(format!("environment variable {name} is not set")),
            }
            rest = after;
        }
        expanded.push_str(rest);
        Ok(expanded)
    }

    /// A secret: the text with its variables, or the contents of a file without its last line end.
    pub(super) fn secret(&self, text: &str) -> Result<String, String> {
        // Asked of the text as written: what a variable holds may begin with "file:" by chance.
        let Some(written) = text.strip_prefix("file:") else {
            return self.expand(text);
        };
        let path = self.expand(written)?;
        let path = Path::new(&path);
        if !path.is_absolute() {
            return Err("\"file:\" needs an absolute path".to_owned());
        }
        match (self.read_file)(path) {
            Ok(mut secret) => {
                let end = secret.trim_end_matches(['\r', '\n']).len();
                secret.truncate(end);
                Ok(secret)
            }
            Err(error) => Err(format!("cannot read the secret file {written}: {error}")),
        }
    }
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
