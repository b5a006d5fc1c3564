//! Word expansion (POSIX.1-2017, XCU section 2.6): tilde, parameters, commands and arithmetic; then the results of
//! unquoted expansions are split into fields, and fields that are patterns become the paths that match.
//!
//! A field is built in pattern form: bytes that were quoted are preceded by a backslash if they could mean something
//! in a pattern. That one representation serves path expansion, `case` and `${v#pattern}`.

use super::parse::{Op, Part, Word};
use super::{Flow, Shell};
use crate::pattern;
use alloc::string::ToString;
use alloc::vec::Vec;

type Result<T> = core::result::Result<T, Flow>;

/// Fields under construction.
struct Fields {
    done: Vec<Vec<u8>>,
    current: Vec<u8>,
    /// Whether the current field exists even if it stays empty.
    exists: bool,
    /// Whether the last thing seen was white space that ended a field.
    after_space: bool,
}

impl Fields {
    fn end(&mut self) {
        self.done.push(core::mem::take(&mut self.current));
        self.exists = false;
    }
}

fn escape(text: &[u8], into: &mut Vec<u8>) {
    for byte in text {
        if b"\\*?[]-!^".contains(byte) {
            into.push(b'\\');
        }
        into.push(*byte);
    }
}

impl Shell {
    /// Expands words to fields: arguments of a command.
    pub fn fields(&mut self, words: &[Word]) -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::with_capacity(words.len());
        for word in words {
            // Most words are plain text.
            if let [Part::Bare(text)] = word.as_slice()
                && !text.iter().any(|b| b"*?[~\\".contains(b))
            {
                all.push(text.clone());
                continue;
            }
            let mut fields = Fields { done: Vec::new(), current: Vec::new(), exists: false, after_space: false };
            self.expand(word, true, &mut fields)?;
            if fields.exists || !fields.current.is_empty() {
                fields.end();
            }
            for field in fields.done {
                if !self.options.no_glob && pattern::is_pattern(&field) {
                    let paths = pattern::paths(&field);
                    if !paths.is_empty() {
                        all.extend(paths);
                        continue;
                    }
                }
                all.push(pattern::unescape(&field));
            }
        }
        Ok(all)
    }

    /// Expands a word to one field that is not split: an assignment, a redirection, a here-document.
    pub fn single(&mut self, word: &[Part]) -> Result<Vec<u8>> {
        match word {
            [Part::Bare(text)] if !text.contains(&b'~') => Ok(text.clone()),
            [Part::Quoted(text)] => Ok(text.clone()),
            _ => Ok(pattern::unescape(&self.pattern(word)?)),
        }
    }

    /// Expands a word to a pattern.
    pub fn pattern(&mut self, word: &[Part]) -> Result<Vec<u8>> {
        let mut fields = Fields { done: Vec::new(), current: Vec::new(), exists: false, after_space: false };
        self.expand(word, false, &mut fields)?;
        // "$@" where no fields are wanted: joined by blanks.
        let mut joined = Vec::new();
        for field in fields.done {
            joined.extend(field);
            joined.push(b' ');
        }
        joined.extend(fields.current);
        Ok(joined)
    }

    fn expand(&mut self, word: &[Part], split: bool, fields: &mut Fields) -> Result<()> {
        for (index, part) in word.iter().enumerate() {
            match part {
                Part::Bare(text) => {
                    let mut text = text.as_slice();
                    if index == 0 && text.starts_with(b"~") {
                        text = self.tilde(text, word.len() == 1, fields);
                    }
                    // A lone backslash at the end of the text stands for itself.
                    for byte in text {
                        if *byte == b'\\' {
                            fields.current.push(b'\\');
                        }
                        fields.current.push(*byte);
                    }
                    fields.after_space &= text.is_empty();
                }
                Part::Quoted(text) => {
                    escape(text, &mut fields.current);
                    fields.exists = true;
                    fields.after_space = false;
                }
                Part::Parameter { name, op, word, quoted } => {
                    self.parameter(name, *op, word, *quoted, split, fields)?
                }
                Part::Command { list, quoted } => {
                    let mut output = self.capture(list)?;
                    while output.last() == Some(&b'\n') {
                        output.pop();
                    }
                    self.insert(&output, *quoted, split, fields);
                }
                Part::Arithmetic { word, quoted } => {
                    let expression = self.single(word)?;
                    let value = super::arithmetic::evaluate(self, &expression)?;
                    self.insert(value.to_string().as_bytes(), *quoted, split, fields);
                }
            }
        }
        Ok(())
    }

    fn tilde<'a>(&mut self, text: &'a [u8], alone: bool, fields: &mut Fields) -> &'a [u8] {
        let end = text.iter().position(|b| *b == b'/');
        let user = &text[1..end.unwrap_or(text.len())];
        // `~"x"` is no user's home.
        let home = match (user.is_empty(), end.is_some() || alone) {
            (_, false) => None,
            (true, _) => self.get(b"HOME"),
            (false, _) => crate::users::by_name(user).map(|u| u.home),
        };
        let Some(home) = home else { return text };
        escape(&home, &mut fields.current);
        fields.exists = true;
        &text[1 + user.len()..]
    }

    /// Adds the result of an expansion: split unless it was quoted.
    fn insert(&mut self, value: &[u8], quoted: bool, split: bool, fields: &mut Fields) {
        if quoted {
            escape(value, &mut fields.current);
            fields.exists = true;
            fields.after_space = false;
            return;
        }
        if !split {
            // Not split, but unquoted: still a pattern in `case` and `${v#$p}`.
            fields.current.extend_from_slice(value);
            return;
        }
        let separators = self.get(b"IFS").unwrap_or_else(|| b" \t\n".to_vec());
        for byte in value {
            if !separators.contains(byte) {
                if *byte == b'\\' {
                    fields.current.push(b'\\');
                }
                fields.current.push(*byte);
                fields.after_space = false;
            } else if byte.is_ascii_whitespace() {
                if fields.exists || !fields.current.is_empty() {
                    fields.end();
                    fields.after_space = true;
                }
            } else if fields.after_space {
                fields.after_space = false;
            } else {
                fields.end();
            }
        }
    }

    fn parameter(
        &mut self,
        name: &[u8],
        op: Op,
        word: &[Part],
        quoted: bool,
        split: bool,
        fields: &mut Fields,
    ) -> Result<()> {
        let all = name == b"@" || name == b"*";
        if all && op == Op::Value {
            self.all_arguments(name == b"@", quoted, split, fields);
            return Ok(());
        }
        let value = if all { (!self.arguments.is_empty()).then(|| self.arguments.join(&b' ')) } else { self.get(name) };
        match op {
            Op::Unset(operator, colon) => {
                let missing = value.as_ref().is_none_or(|v| colon && v.is_empty());
                match (operator, missing) {
                    (b'+', true) => self.insert(b"", quoted, split, fields),
                    (b'-', true) | (b'+', false) => {
                        if quoted && word.is_empty() {
                            fields.exists = true;
                        }
                        self.substitute(word, split, fields)?;
                    }
                    (b'=', true) => {
                        let value = self.single(word)?;
                        if !super::parse::is_name(name) {
                            return self.fail(name, "bad variable name", 2);
                        }
                        self.set(name, value.clone())?;
                        self.insert(&value, quoted, split, fields);
                    }
                    (b'?', true) => {
                        let mut message = self.single(word)?;
                        if message.is_empty() {
                            message = if colon {
                                b"parameter not set or null".to_vec()
                            } else {
                                b"parameter not set".to_vec()
                            };
                        }
                        let message = alloc::string::String::from_utf8_lossy(&message).into_owned();
                        return self.fail(name, &message, 2);
                    }
                    _ if all && name == b"@" => self.all_arguments(true, quoted, split, fields),
                    _ => self.insert(&value.unwrap_or_default(), quoted, split, fields),
                }
                Ok(())
            }
            _ if value.is_none() && self.options.no_unset && !all => self.fail(name, "parameter not set", 2),
            Op::Length => {
                let length = if all { self.arguments.len() } else { value.unwrap_or_default().len() };
                self.insert(length.to_string().as_bytes(), quoted, split, fields);
                Ok(())
            }
            Op::Trim(side, longest) => {
                let value = value.unwrap_or_default();
                let pattern = self.pattern(word)?;
                self.insert(trim(&value, &pattern, side == b'#', longest), quoted, split, fields);
                Ok(())
            }
            Op::Value => {
                self.insert(&value.unwrap_or_default(), quoted, split, fields);
                Ok(())
            }
        }
    }

    /// The word of `${v-word}` in place of the parameter: its own quoting decides what is split.
    fn substitute(&mut self, word: &[Part], split: bool, fields: &mut Fields) -> Result<()> {
        for part in word {
            match part {
                Part::Bare(text) if split => {
                    let text = text.clone();
                    self.insert(&text, false, true, fields);
                }
                _ => self.expand(core::slice::from_ref(part), split, fields)?,
            }
        }
        Ok(())
    }

    fn all_arguments(&mut self, separate: bool, quoted: bool, split: bool, fields: &mut Fields) {
        let arguments = self.arguments.clone();
        if quoted && (!separate || !split) {
            let separator = self.get(b"IFS").map_or(Some(b' '), |ifs| ifs.first().copied());
            let separator = if separate { Some(b' ') } else { separator };
            let mut joined = Vec::new();
            for (index, argument) in arguments.iter().enumerate() {
                if index > 0 {
                    joined.extend(separator);
                }
                joined.extend_from_slice(argument);
            }
            self.insert(&joined, true, split, fields);
            return;
        }
        for (index, argument) in arguments.iter().enumerate() {
            if index > 0 {
                if quoted || !fields.current.is_empty() || fields.exists {
                    if split {
                        fields.end();
                    } else {
                        fields.current.push(b' ');
                    }
                }
                fields.after_space = false;
            }
            self.insert(argument, quoted, split, fields);
        }
    }
}

fn trim<'a>(value: &'a [u8], pattern: &[u8], front: bool, longest: bool) -> &'a [u8] {
    let lengths = 0..=value.len();
    let try_length = |n: &usize| {
        let part = if front { &value[..*n] } else { &value[value.len() - n..] };
        pattern::matches(pattern, part)
    };
    let found = if longest { lengths.rev().find(try_length) } else { lengths.into_iter().find(try_length) };
    match found {
        Some(n) if front => &value[n..],
        Some(n) => &value[..value.len() - n],
        None => value,
    }
}
