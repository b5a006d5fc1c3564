//! From text to a tree: the shell grammar of POSIX.1-2017, XCU section 2.10, by recursive descent straight over the
//! bytes. Quoting is resolved here: a [`Word`] is a list of parts that each know whether they were quoted.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

/// A word before expansion.
pub type Word = Vec<Part>;

/// A piece of a word.
#[derive(Debug, Clone)]
pub enum Part {
    /// Unquoted text: patterns and tildes in it are active.
    Bare(Vec<u8>),
    /// Quoted text, perhaps empty.
    Quoted(Vec<u8>),
    /// `$name`, `${name op word}`.
    Parameter { name: Vec<u8>, op: Op, word: Word, quoted: bool },
    /// `$(list)` and backquotes.
    Command { list: Rc<Command>, quoted: bool },
    /// `$((expression))`.
    Arithmetic { word: Word, quoted: bool },
}

/// What is done with a parameter's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Value,
    Length,
    /// `-`, `=`, `+` or `?`, and whether a colon makes empty count as unset.
    Unset(u8, bool),
    /// `#` or `%`, and whether the longest match is removed.
    Trim(u8, bool),
}

/// A redirection: which descriptor and what becomes of it.
#[derive(Debug, Clone)]
pub struct Redirection {
    pub fd: i32,
    pub kind: RedirectionKind,
}

#[derive(Debug, Clone)]
pub enum RedirectionKind {
    Read(Word),
    Write(Word),
    /// `>|`: overwrites in spite of `set -C`.
    Clobber(Word),
    Append(Word),
    ReadWrite(Word),
    /// `<&` and `>&`.
    Duplicate(Word),
    /// `&>`: standard output and error.
    Both(Word),
    /// `<<` and `<<<`: the text is the input; a here-document's arrives after the end of the line.
    Here(Rc<RefCell<Word>>),
}

/// A node of the tree.
#[derive(Debug)]
pub enum Command {
    Simple { assignments: Vec<(Vec<u8>, Word)>, words: Vec<Word>, redirections: Vec<Redirection> },
    Pipeline(Vec<Command>),
    Not(Box<Command>),
    And(Box<Command>, Box<Command>),
    Or(Box<Command>, Box<Command>),
    Sequence(Vec<Command>),
    Background(Box<Command>),
    Subshell(Box<Command>),
    If { arms: Vec<(Command, Command)>, otherwise: Option<Box<Command>> },
    Loop { until: bool, condition: Box<Command>, body: Box<Command> },
    For { name: Vec<u8>, words: Option<Vec<Word>>, body: Box<Command> },
    Case { word: Word, arms: Vec<(Vec<Word>, Command)> },
    Function { name: Vec<u8>, body: Rc<Command> },
    Redirected(Box<Command>, Vec<Redirection>),
}

/// Why text is no command.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// The text ends inside a construct: more may complete it.
    Incomplete(String),
    Syntax(String),
}

type Result<T> = core::result::Result<T, Error>;

/// Constructs may nest this deep; the parser and the executor recurse.
const DEEPEST: usize = 200;

struct PendingHere {
    body: Rc<RefCell<Word>>,
    delimiter: Vec<u8>,
    strip_tabs: bool,
    literal: bool,
}

/// Takes commands from a text, one line's worth at a time.
pub struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    here: Vec<PendingHere>,
    depth: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// The end of an unquoted word.
    Metacharacter,
    DoubleQuote,
    Brace {
        quoted: bool,
    },
    DoubleParenthesis,
    End,
}

fn is_meta(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'<' | b'>' | b'(' | b')')
}

/// Whether `text` may name a variable.
pub fn is_name(text: &[u8]) -> bool {
    !text.is_empty() && !text[0].is_ascii_digit() && text.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

fn syntax<T>(message: String) -> Result<T> {
    Err(Error::Syntax(message))
}

impl<'a> Parser<'a> {
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, here: Vec::new(), depth: 0 }
    }

    /// The next complete line as a command; `None` at the end of the text.
    pub fn next_command(&mut self) -> Result<Option<Command>> {
        loop {
            self.blanks();
            match self.peek() {
                None => return Ok(None),
                Some(b'\n') => self.newline()?,
                Some(_) => break,
            }
        }
        let list = self.list(true)?;
        match self.peek() {
            None if !self.here.is_empty() => self.read_here_documents()?,
            None => {}
            Some(b'\n') => self.newline()?,
            Some(_) => return self.unexpected(),
        }
        Ok(Some(list))
    }

    /// Whether nothing but blanks and comments is left.
    pub fn at_end(&mut self) -> bool {
        let (before, mut result) = (self.at, true);
        loop {
            self.blanks();
            match self.peek() {
                Some(b'\n') => self.at += 1,
                Some(_) => {
                    result = false;
                    break;
                }
                None => break,
            }
        }
        self.at = before;
        result
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn peek_at(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn take(&mut self, expected: &[u8]) -> bool {
        let found = self.text[self.at..].starts_with(expected);
        if found {
            self.at += expected.len();
        }
        found
    }

    fn unexpected<T>(&self) -> Result<T> {
        match self.peek() {
            None => Err(Error::Incomplete("Syntax error: unexpected end of file".into())),
            Some(b'\n') => syntax("Syntax error: unexpected newline".into()),
            Some(b'"') => syntax("Syntax error: unexpected quote".into()),
            Some(byte) if is_meta(byte) => {
                let doubled = self.peek_at(1) == Some(byte) && matches!(byte, b';' | b'&' | b'|');
                let shown = char::from(byte);
                if doubled {
                    syntax(format!("Syntax error: \"{shown}{shown}\" unexpected"))
                } else {
                    syntax(format!("Syntax error: \"{shown}\" unexpected"))
                }
            }
            Some(_) => {
                let rest = &self.text[self.at..];
                let end = rest.iter().position(|b| is_meta(*b)).unwrap_or(rest.len());
                syntax(format!("Syntax error: \"{}\" unexpected", String::from_utf8_lossy(&rest[..end])))
            }
        }
    }

    /// Skips blanks, continued lines and a comment.
    fn blanks(&mut self) {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\r') => self.at += 1,
                Some(b'\\') if self.peek_at(1) == Some(b'\n') => self.at += 2,
                Some(b'#') => {
                    while !matches!(self.peek(), None | Some(b'\n')) {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    fn newline(&mut self) -> Result<()> {
        self.at += 1;
        if self.here.is_empty() { Ok(()) } else { self.read_here_documents() }
    }

    fn newlines(&mut self) -> Result<()> {
        loop {
            self.blanks();
            if self.peek() != Some(b'\n') {
                return Ok(());
            }
            self.newline()?;
        }
    }

    fn read_here_documents(&mut self) -> Result<()> {
        for here in core::mem::take(&mut self.here) {
            let mut body = Vec::new();
            loop {
                let rest = &self.text[self.at..];
                if rest.is_empty() {
                    return Err(Error::Incomplete("Syntax error: end of file in a here-document".into()));
                }
                let end = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
                let mut line = &rest[..end];
                self.at += (end + 1).min(rest.len());
                if here.strip_tabs {
                    line = &line[line.iter().take_while(|b| **b == b'\t').count()..];
                }
                if line == here.delimiter {
                    break;
                }
                body.extend_from_slice(line);
                body.push(b'\n');
            }
            *here.body.borrow_mut() =
                if here.literal { Vec::from([Part::Quoted(body)]) } else { Parser::new(&body).parts(Until::End)? };
        }
        Ok(())
    }

    /// The reserved word or bare word at this place, not taken.
    fn bare_word(&mut self) -> &'a [u8] {
        self.blanks();
        let rest = &self.text[self.at..];
        let end = rest.iter().position(|b| is_meta(*b)).unwrap_or(rest.len());
        &rest[..end]
    }

    fn keyword(&mut self, word: &[u8]) -> bool {
        let found = self.bare_word() == word;
        if found {
            self.at += word.len();
        }
        found
    }

    fn expect(&mut self, word: &'static str) -> Result<()> {
        if self.keyword(word.as_bytes()) {
            return Ok(());
        }
        match self.peek() {
            None => Err(Error::Incomplete(format!("Syntax error: end of file unexpected (expecting \"{word}\")"))),
            Some(_) => match self.unexpected::<()>() {
                Err(Error::Syntax(text)) => syntax(format!("{text} (expecting \"{word}\")")),
                other => other,
            },
        }
    }

    /// Pipelines joined by `;`, `&`, `&&`, `||` and newlines, up to what cannot start one; of one line only, if asked.
    fn list(&mut self, one_line: bool) -> Result<Command> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return syntax("Syntax error: nested too deeply".into());
        }
        let mut commands = Vec::new();
        loop {
            if !one_line {
                self.newlines()?;
            }
            match self.bare_word() {
                b"then" | b"else" | b"elif" | b"fi" | b"do" | b"done" | b"esac" | b"}" => break,
                // `&>` starts a redirection.
                b"" if !matches!(self.peek(), Some(b'(' | b'<' | b'>')) && !self.text[self.at..].starts_with(b"&>") => {
                    break;
                }
                _ => {}
            }
            let command = self.and_or()?;
            self.blanks();
            if self.text[self.at..].starts_with(b";;") {
                commands.push(command);
                break;
            }
            match self.peek() {
                Some(b';') => {
                    self.at += 1;
                    commands.push(command);
                }
                Some(b'&') => {
                    self.at += 1;
                    commands.push(Command::Background(Box::new(command)));
                }
                Some(b'\n') if !one_line => commands.push(command),
                _ => {
                    commands.push(command);
                    break;
                }
            }
        }
        self.depth -= 1;
        if commands.len() == 1 {
            return Ok(commands.remove(0));
        }
        if commands.is_empty() && one_line {
            return self.unexpected();
        }
        Ok(Command::Sequence(commands))
    }

    /// A list that must hold at least one command, up to the given word.
    fn body(&mut self, end: &'static str) -> Result<Command> {
        let list = self.list(false)?;
        if matches!(&list, Command::Sequence(commands) if commands.is_empty()) {
            return self.unexpected();
        }
        if !end.is_empty() {
            self.expect(end)?;
        }
        Ok(list)
    }

    fn and_or(&mut self) -> Result<Command> {
        let mut left = self.pipeline()?;
        loop {
            self.blanks();
            let and = self.take(b"&&");
            if !and && !self.take(b"||") {
                return Ok(left);
            }
            self.newlines()?;
            let right = Box::new(self.pipeline()?);
            left = if and { Command::And(Box::new(left), right) } else { Command::Or(Box::new(left), right) };
        }
    }

    fn pipeline(&mut self) -> Result<Command> {
        if self.keyword(b"!") {
            return Ok(Command::Not(Box::new(self.pipeline()?)));
        }
        let mut commands = Vec::from([self.command()?]);
        loop {
            self.blanks();
            if self.peek() != Some(b'|') || self.peek_at(1) == Some(b'|') {
                break;
            }
            self.at += 1;
            self.newlines()?;
            commands.push(self.command()?);
        }
        Ok(if commands.len() == 1 { commands.remove(0) } else { Command::Pipeline(commands) })
    }

    fn command(&mut self) -> Result<Command> {
        let word = self.bare_word();
        let compound = match word {
            b"if" => self.if_command()?,
            b"while" | b"until" => {
                self.at += word.len();
                let condition = Box::new(self.body("do")?);
                let body = Box::new(self.body("done")?);
                Command::Loop { until: word == b"until", condition, body }
            }
            b"for" => self.for_command()?,
            b"case" => self.case_command()?,
            b"{" => {
                self.at += 1;
                self.body("}")?
            }
            b"" if self.peek() == Some(b'(') => {
                self.at += 1;
                let list = self.body("")?;
                if !self.take(b")") {
                    return self.unexpected();
                }
                Command::Subshell(Box::new(list))
            }
            _ => return self.simple(),
        };
        let mut redirections = Vec::new();
        while let Some(redirection) = self.redirection()? {
            redirections.push(redirection);
        }
        if redirections.is_empty() { Ok(compound) } else { Ok(Command::Redirected(Box::new(compound), redirections)) }
    }

    fn if_command(&mut self) -> Result<Command> {
        self.at += 2;
        let mut arms = Vec::new();
        let condition = self.body("then")?;
        arms.push((condition, self.body("")?));
        loop {
            if self.keyword(b"elif") {
                let condition = self.body("then")?;
                arms.push((condition, self.body("")?));
            } else if self.keyword(b"else") {
                let otherwise = Some(Box::new(self.body("fi")?));
                return Ok(Command::If { arms, otherwise });
            } else {
                self.expect("fi")?;
                return Ok(Command::If { arms, otherwise: None });
            }
        }
    }

    fn for_command(&mut self) -> Result<Command> {
        self.at += 3;
        let name = self.bare_word();
        if !is_name(name) {
            return if self.peek().is_none() {
                self.unexpected()
            } else {
                syntax("Syntax error: Bad for loop variable".into())
            };
        }
        self.at += name.len();
        self.newlines()?;
        let mut words = None;
        if self.keyword(b"in") {
            let mut list = Vec::new();
            self.blanks();
            while let Some(word) = self.word()? {
                list.push(word);
                self.blanks();
            }
            words = Some(list);
        }
        self.blanks();
        if self.peek() == Some(b';') {
            self.at += 1;
        }
        self.newlines()?;
        self.expect("do")?;
        Ok(Command::For { name: name.to_vec(), words, body: Box::new(self.body("done")?) })
    }

    fn case_command(&mut self) -> Result<Command> {
        self.at += 4;
        self.blanks();
        let Some(word) = self.word()? else { return self.unexpected() };
        self.newlines()?;
        self.expect("in")?;
        let mut arms = Vec::new();
        loop {
            self.newlines()?;
            if self.keyword(b"esac") {
                return Ok(Command::Case { word, arms });
            }
            self.take(b"(");
            let mut patterns = Vec::new();
            loop {
                self.blanks();
                let Some(pattern) = self.word()? else { return self.unexpected() };
                patterns.push(pattern);
                self.blanks();
                if !self.take(b"|") {
                    break;
                }
            }
            if !self.take(b")") {
                return self.unexpected();
            }
            arms.push((patterns, self.list(false)?));
            self.blanks();
            if !self.take(b";;") {
                self.newlines()?;
                self.expect("esac")?;
                return Ok(Command::Case { word, arms });
            }
        }
    }

    fn simple(&mut self) -> Result<Command> {
        let (mut assignments, mut words, mut redirections) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            self.blanks();
            if let Some(redirection) = self.redirection()? {
                redirections.push(redirection);
                continue;
            }
            let Some(mut word) = self.word()? else { break };
            if words.is_empty() {
                if let Some(name) = assignment_name(&word) {
                    if let Part::Bare(text) = &mut word[0] {
                        text.drain(..=name.len());
                        if text.is_empty() {
                            word.remove(0);
                        }
                    }
                    assignments.push((name, word));
                    continue;
                }
                self.blanks();
                if self.peek() == Some(b'(') && assignments.is_empty() && redirections.is_empty() {
                    return self.function(&word);
                }
            }
            words.push(word);
        }
        if assignments.is_empty() && words.is_empty() && redirections.is_empty() {
            return self.unexpected();
        }
        Ok(Command::Simple { assignments, words, redirections })
    }

    fn function(&mut self, word: &Word) -> Result<Command> {
        let [Part::Bare(name)] = word.as_slice() else { return self.unexpected() };
        self.at += 1;
        self.blanks();
        if !self.take(b")") {
            return self.unexpected();
        }
        if name.contains(&b'$') || name.contains(&b'=') {
            return syntax("Syntax error: Bad function name".into());
        }
        self.newlines()?;
        Ok(Command::Function { name: name.clone(), body: Rc::new(self.command()?) })
    }

    fn redirection(&mut self) -> Result<Option<Redirection>> {
        self.blanks();
        let digits = self.text[self.at..].iter().take_while(|b| b.is_ascii_digit()).count();
        let both = digits == 0 && self.text[self.at..].starts_with(b"&>");
        if !both && !matches!(self.peek_at(digits), Some(b'<' | b'>')) {
            return Ok(None);
        }
        let number = crate::io::number(&self.text[self.at..self.at + digits]);
        self.at += digits;
        let operators: [&[u8]; 12] = [b"&>", b"<<<", b"<<-", b"<<", b"<&", b"<>", b"<", b">>", b">&", b">|", b">", b""];
        let operator = operators.into_iter().find(|o| self.take(o)).unwrap_or_default();
        let fd = number.map_or(i32::from(!operator.starts_with(b"<")), |n| n as i32);
        self.blanks();
        let start = self.at;
        let Some(word) = self.word()? else { return self.unexpected() };
        let kind = match operator {
            b"&>" => RedirectionKind::Both(word),
            b"<<<" => {
                let mut word = word;
                word.push(Part::Quoted(b"\n".to_vec()));
                RedirectionKind::Here(Rc::new(RefCell::new(word)))
            }
            b"<<-" | b"<<" => {
                let body = Rc::new(RefCell::new(Vec::new()));
                let mut delimiter = Vec::new();
                for part in &word {
                    match part {
                        Part::Bare(text) | Part::Quoted(text) => delimiter.extend_from_slice(text),
                        _ => delimiter = self.text[start..self.at].to_vec(),
                    }
                }
                let literal = word.iter().any(|p| matches!(p, Part::Quoted(_)));
                let strip_tabs = operator == b"<<-";
                self.here.push(PendingHere { body: body.clone(), delimiter, strip_tabs, literal });
                RedirectionKind::Here(body)
            }
            b"<&" | b">&" => RedirectionKind::Duplicate(word),
            b"<>" => RedirectionKind::ReadWrite(word),
            b"<" => RedirectionKind::Read(word),
            b">>" => RedirectionKind::Append(word),
            b">|" => RedirectionKind::Clobber(word),
            _ => RedirectionKind::Write(word),
        };
        Ok(Some(Redirection { fd, kind }))
    }

    fn word(&mut self) -> Result<Option<Word>> {
        match self.peek() {
            None => Ok(None),
            Some(byte) if is_meta(byte) => Ok(None),
            Some(_) => {
                let word = self.parts(Until::Metacharacter)?;
                Ok(Some(word))
            }
        }
    }

    /// The parts up to (and, but for a metacharacter, including) the end.
    fn parts(&mut self, until: Until) -> Result<Word> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return syntax("Syntax error: nested too deeply".into());
        }
        let quoted =
            matches!(until, Until::DoubleQuote | Until::End | Until::DoubleParenthesis | Until::Brace { quoted: true });
        let mut parts: Word = Vec::new();
        let mut text = Vec::new();
        let mut parentheses = 0;
        macro_rules! flush {
            () => {
                if !text.is_empty() {
                    let text = core::mem::take(&mut text);
                    parts.push(if quoted { Part::Quoted(text) } else { Part::Bare(text) });
                }
            };
        }
        loop {
            let Some(byte) = self.peek() else {
                match until {
                    Until::Metacharacter | Until::End => break,
                    _ => return Err(Error::Incomplete("Syntax error: Unterminated quoted string".into())),
                }
            };
            match (until, byte) {
                (Until::Metacharacter, _) if is_meta(byte) => break,
                (Until::DoubleQuote, b'"') | (Until::Brace { .. }, b'}') => {
                    self.at += 1;
                    break;
                }
                (Until::DoubleParenthesis, b'(') => parentheses += 1,
                (Until::DoubleParenthesis, b')') if parentheses > 0 => parentheses -= 1,
                (Until::DoubleParenthesis, b')') => {
                    if !self.take(b"))") {
                        return self.unexpected();
                    }
                    break;
                }
                _ => {}
            }
            match byte {
                b'\\' => {
                    let next = self.peek_at(1);
                    match next {
                        Some(b'\n') => self.at += 2,
                        None if !quoted => {
                            self.at += 1;
                            text.push(b'\\');
                        }
                        Some(c)
                            if !quoted
                                || matches!(c, b'$' | b'`' | b'\\')
                                || (c == b'"' && until != Until::End)
                                || (c == b'}' && matches!(until, Until::Brace { .. })) =>
                        {
                            self.at += 2;
                            flush!();
                            // Joined with a quoted neighbour when possible: fewer parts to walk.
                            match parts.last_mut() {
                                Some(Part::Quoted(last)) => last.push(c),
                                _ => parts.push(Part::Quoted(Vec::from([c]))),
                            }
                        }
                        _ => {
                            self.at += 1;
                            text.push(b'\\');
                        }
                    }
                }
                b'\'' if !quoted => {
                    flush!();
                    let rest = &self.text[self.at + 1..];
                    let Some(end) = rest.iter().position(|b| *b == b'\'') else {
                        return Err(Error::Incomplete("Syntax error: Unterminated quoted string".into()));
                    };
                    parts.push(Part::Quoted(rest[..end].to_vec()));
                    self.at += end + 2;
                }
                b'"' if until != Until::End && until != Until::DoubleParenthesis => {
                    flush!();
                    self.at += 1;
                    let inner = self.parts(Until::DoubleQuote)?;
                    if inner.is_empty() {
                        parts.push(Part::Quoted(Vec::new()));
                    }
                    parts.extend(inner);
                }
                b'"' if until == Until::DoubleParenthesis => self.at += 1,
                b'$' => {
                    if let Some(part) = self.dollar(quoted)? {
                        flush!();
                        parts.push(part);
                    } else {
                        self.at += 1;
                        text.push(b'$');
                    }
                }
                b'`' => {
                    flush!();
                    parts.push(self.backquotes(quoted)?);
                }
                _ => {
                    self.at += 1;
                    text.push(byte);
                }
            }
        }
        flush!();
        self.depth -= 1;
        Ok(parts)
    }

    fn backquotes(&mut self, quoted: bool) -> Result<Part> {
        self.at += 1;
        let mut inner = Vec::new();
        loop {
            match self.peek() {
                None => return Err(Error::Incomplete("Syntax error: EOF in backquote substitution".into())),
                Some(b'`') => break,
                Some(b'\\') if matches!(self.peek_at(1), Some(b'`' | b'\\' | b'$')) => self.at += 1,
                Some(b'\\') if quoted && self.peek_at(1) == Some(b'"') => self.at += 1,
                Some(_) => {}
            }
            inner.extend(self.peek());
            self.at += 1;
        }
        self.at += 1;
        let mut parser = Parser::new(&inner);
        parser.depth = self.depth;
        let mut commands = Vec::new();
        while let Some(command) = parser.next_command()? {
            commands.push(command);
        }
        Ok(Part::Command { list: Rc::new(Command::Sequence(commands)), quoted })
    }

    /// What `$` introduces; `None` if it is only a dollar sign.
    fn dollar(&mut self, quoted: bool) -> Result<Option<Part>> {
        let rest = &self.text[self.at + 1..];
        let simple = |name: &[u8]| Part::Parameter { name: name.to_vec(), op: Op::Value, word: Vec::new(), quoted };
        match rest.first() {
            Some(b'(') if rest.get(1) == Some(&b'(') => {
                // `$((` may also be a command substitution that starts with a subshell.
                let before = (self.at, self.depth);
                self.at += 3;
                if let Ok(word) = self.parts(Until::DoubleParenthesis) {
                    return Ok(Some(Part::Arithmetic { word, quoted }));
                }
                (self.at, self.depth) = before;
                self.command_substitution(quoted).map(Some)
            }
            Some(b'(') => self.command_substitution(quoted).map(Some),
            Some(b'{') => {
                self.at += 2;
                self.braced(quoted).map(Some)
            }
            Some(b) if b.is_ascii_digit() || b"@*#?-$!".contains(b) => {
                self.at += 2;
                Ok(Some(simple(&[*b])))
            }
            Some(b) if b.is_ascii_alphabetic() || *b == b'_' => {
                let end = rest.iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'_').unwrap_or(rest.len());
                self.at += 1 + end;
                Ok(Some(simple(&rest[..end])))
            }
            _ => Ok(None),
        }
    }

    fn command_substitution(&mut self, quoted: bool) -> Result<Part> {
        self.at += 2;
        // Here-documents announced outside must not be read inside.
        let outer = core::mem::take(&mut self.here);
        let list = self.list(false)?;
        self.here = outer;
        self.blanks();
        if !self.take(b")") {
            return self.unexpected();
        }
        Ok(Part::Command { list: Rc::new(list), quoted })
    }

    fn braced(&mut self, quoted: bool) -> Result<Part> {
        let bad = || syntax("Bad substitution".into());
        let length = self.peek() == Some(b'#')
            && self.peek_at(1).is_some_and(|b| b.is_ascii_alphanumeric() || b"_@*?$!-#".contains(&b))
            && !(matches!(self.peek_at(1), Some(b'-' | b'?' | b'#')) && self.peek_at(2) != Some(b'}'));
        if length {
            self.at += 1;
        }
        let rest = &self.text[self.at..];
        let taken = match rest.first() {
            None => return Err(Error::Incomplete("Syntax error: Missing '}'".into())),
            Some(b) if b.is_ascii_digit() => rest.iter().take_while(|b| b.is_ascii_digit()).count(),
            Some(b) if b"@*#?-$!".contains(b) => 1,
            Some(_) => rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count(),
        };
        if taken == 0 {
            return bad();
        }
        let name = rest[..taken].to_vec();
        self.at += taken;
        if self.take(b"}") {
            let op = if length { Op::Length } else { Op::Value };
            return Ok(Part::Parameter { name, op, word: Vec::new(), quoted });
        }
        if length {
            return bad();
        }
        let colon = self.take(b":");
        let op = match self.peek() {
            None => return Err(Error::Incomplete("Syntax error: Missing '}'".into())),
            Some(c @ (b'-' | b'=' | b'+' | b'?')) => Op::Unset(c, colon),
            Some(c @ (b'#' | b'%')) if !colon => {
                self.at += 1;
                let longest = self.peek() == Some(c);
                self.at -= usize::from(!longest);
                Op::Trim(c, longest)
            }
            Some(_) => return bad(),
        };
        self.at += 1;
        // Inside double quotes a pattern to trim is still a pattern.
        let word = self.parts(Until::Brace { quoted: quoted && matches!(op, Op::Unset(..)) })?;
        Ok(Part::Parameter { name, op, word, quoted })
    }
}

fn assignment_name(word: &Word) -> Option<Vec<u8>> {
    let Some(Part::Bare(text)) = word.first() else { return None };
    let name = &text[..text.iter().position(|b| *b == b'=')?];
    is_name(name).then(|| name.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Command>> {
        let mut parser = Parser::new(text.as_bytes());
        let mut all = Vec::new();
        while let Some(command) = parser.next_command()? {
            all.push(command);
        }
        Ok(all)
    }

    #[test]
    fn open_constructs_are_incomplete_not_wrong() {
        for text in [
            "if true",
            "while :; do",
            "echo 'a",
            "echo \"a",
            "echo $(a",
            "{ a",
            "( a",
            "case x in",
            "a &&",
            "cat <<E\nx\n",
            "f() {",
            "echo ${a",
            "for i in a b",
        ] {
            assert!(matches!(parse(text), Err(Error::Incomplete(_))), "{text}: {:?}", parse(text));
        }
    }

    #[test]
    fn misplaced_words_are_syntax_errors() {
        for text in
            ["fi", "then x", ")", ";", "a | ; b", "if ; then a; fi", "&& a", "case x in a b) ;; esac", "echo ${}"]
        {
            assert!(matches!(parse(text), Err(Error::Syntax(_))), "{text}: {:?}", parse(text));
        }
    }

    #[test]
    fn deep_nesting_is_refused_rather_than_overflowing_the_stack() {
        assert!(matches!(parse(&"(".repeat(100_000)), Err(Error::Syntax(_))));
        assert!(matches!(parse(&"$(".repeat(100_000)), Err(Error::Syntax(_))));
        assert!(matches!(parse(&"echo \"${a-".repeat(100_000)), Err(Error::Syntax(_))));
    }

    #[test]
    fn each_line_is_a_command_of_its_own() {
        assert_eq!(parse("a; b\n\n# comment\nc && \\\n d\n").unwrap().len(), 2);
    }
}
