//! Basic and extended regular expressions (POSIX.1-2017, XBD chapter 9) over bytes, by backtracking. Of alternatives
//! the first that leads to a match is taken, not the longest; with that exception matches are POSIX's.

use crate::pattern;
use alloc::boxed::Box;
use alloc::vec::Vec;

enum Node {
    Byte(u8),
    Any,
    /// One bit for each byte.
    Set([u64; 4]),
    Start,
    End,
    /// `\b` (true) and `\B`.
    WordEdge(bool),
    WordStart,
    WordEnd,
    Group(usize, Vec<Vec<Node>>),
    Back(usize),
    Repeat(Box<Node>, usize, usize),
}

/// A compiled expression.
pub struct Regex {
    alternatives: Vec<Vec<Node>>,
    groups: usize,
    fold: bool,
}

/// Where the match (index 0) and its groups lie.
pub type Match = Vec<Option<(usize, usize)>>;

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    extended: bool,
    fold: bool,
    groups: usize,
    depth: usize,
}

type Result<T> = core::result::Result<T, &'static str>;

impl Parser<'_> {
    /// Takes an operator: bare in extended syntax, after a backslash in basic syntax.
    fn operator(&mut self, byte: u8) -> bool {
        let rest = &self.text[self.at..];
        if self.extended && rest.first() == Some(&byte) {
            self.at += 1;
            return true;
        }
        if !self.extended && rest.starts_with(&[b'\\', byte]) {
            self.at += 2;
            return true;
        }
        false
    }

    fn peek_operator(&mut self, byte: u8) -> bool {
        let before = self.at;
        let found = self.operator(byte);
        self.at = before;
        found
    }

    fn alternatives(&mut self) -> Result<Vec<Vec<Node>>> {
        self.depth += 1;
        if self.depth > 50 {
            return Err("groups nested too deeply");
        }
        let mut all = Vec::new();
        loop {
            all.push(self.sequence()?);
            if !self.operator(b'|') {
                self.depth -= 1;
                return Ok(all);
            }
        }
    }

    fn sequence(&mut self) -> Result<Vec<Node>> {
        let mut nodes: Vec<Node> = Vec::new();
        let first = self.at;
        while self.at < self.text.len() {
            if self.peek_operator(b'|') || self.peek_operator(b')') {
                break;
            }
            let literal_star = !self.extended
                && self.text[self.at] == b'*'
                && (self.at == first || matches!(nodes.as_slice(), [Node::Start]));
            let atom = if literal_star {
                self.at += 1;
                Node::Byte(b'*')
            } else {
                self.atom(self.at == first)?
            };
            nodes.push(atom);
            while let Some((least, most)) = self.repetition()? {
                if let Some(atom) = nodes.pop() {
                    nodes.push(Node::Repeat(Box::new(atom), least, most));
                }
            }
        }
        Ok(nodes)
    }

    fn repetition(&mut self) -> Result<Option<(usize, usize)>> {
        if self.text.get(self.at) == Some(&b'*') {
            self.at += 1;
            return Ok(Some((0, usize::MAX)));
        }
        if self.operator(b'+') {
            return Ok(Some((1, usize::MAX)));
        }
        if self.operator(b'?') {
            return Ok(Some((0, 1)));
        }
        if !self.peek_operator(b'{') {
            return Ok(None);
        }
        self.operator(b'{');
        let least = self.number();
        let comma = self.text.get(self.at) == Some(&b',');
        self.at += usize::from(comma);
        let most = if comma { self.number() } else { least };
        if !self.operator(b'}') {
            return Err("unmatched {");
        }
        let (least, most) = (least.unwrap_or(0), most.unwrap_or(usize::MAX));
        if least > most || least > 1000 {
            return Err("bad repetition count");
        }
        Ok(Some((least, most)))
    }

    fn number(&mut self) -> Option<usize> {
        let rest = &self.text[self.at..];
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        self.at += digits;
        crate::io::number(&rest[..digits]).map(|n| n as usize)
    }

    fn atom(&mut self, first: bool) -> Result<Node> {
        if self.operator(b'(') {
            self.groups += 1;
            let index = self.groups;
            let inner = self.alternatives()?;
            return if self.operator(b')') { Ok(Node::Group(index, inner)) } else { Err("unmatched (") };
        }
        let byte = self.text[self.at];
        self.at += 1;
        Ok(match byte {
            b'.' => Node::Any,
            b'^' if self.extended || first => Node::Start,
            b'$' if self.extended
                || self.at == self.text.len()
                || self.peek_operator(b'|')
                || self.peek_operator(b')') =>
            {
                Node::End
            }
            b'[' => {
                let rest = &self.text[self.at..];
                let mut set = [0u64; 4];
                let mut length = None;
                for byte in 0..=255u8 {
                    // In a regular expression a backslash in brackets is an ordinary byte; escape it for `bracket`.
                    let (found, n) = self.bracket(rest, byte).ok_or("unmatched [")?;
                    length = Some(n);
                    if found {
                        set[usize::from(byte / 64)] |= 1 << (byte % 64);
                    }
                }
                self.at += length.unwrap_or(0);
                Node::Set(set)
            }
            b'\\' => {
                let Some(byte) = self.text.get(self.at).copied() else { return Err("trailing backslash") };
                self.at += 1;
                let class = |name: &[u8], extra: u8, negate: bool| {
                    let mut set = [0u64; 4];
                    for byte in 0..=255u8 {
                        if (pattern::class(name, byte) || byte == extra) != negate {
                            set[usize::from(byte / 64)] |= 1 << (byte % 64);
                        }
                    }
                    Node::Set(set)
                };
                match byte {
                    b'1'..=b'9' if usize::from(byte - b'0') <= self.groups => Node::Back(usize::from(byte - b'0')),
                    b'1'..=b'9' => return Err("reference to a group that is not there"),
                    b'w' => class(b"alnum", b'_', false),
                    b'W' => class(b"alnum", b'_', true),
                    b's' => class(b"space", b' ', false),
                    b'S' => class(b"space", b' ', true),
                    b'b' => Node::WordEdge(true),
                    b'B' => Node::WordEdge(false),
                    b'<' => Node::WordStart,
                    b'>' => Node::WordEnd,
                    b'n' => Node::Byte(b'\n'),
                    b't' => Node::Byte(b'\t'),
                    other => Node::Byte(other),
                }
            }
            b'*' | b'+' | b'?' | b'{' if self.extended && first => Node::Byte(byte),
            literal => Node::Byte(if self.fold { literal.to_ascii_lowercase() } else { literal }),
        })
    }

    fn bracket(&self, rest: &[u8], byte: u8) -> Option<(bool, usize)> {
        let negated = rest.first() == Some(&b'^');
        let mut at = usize::from(negated);
        let first = at;
        let mut found = false;
        let holds = |low: u8, high: u8| {
            (low..=high).contains(&byte)
                || self.fold
                    && ((low..=high).contains(&byte.to_ascii_lowercase())
                        || (low..=high).contains(&byte.to_ascii_uppercase()))
        };
        loop {
            let low = *rest.get(at)?;
            if low == b']' && at > first {
                return Some((found != negated, at + 1));
            }
            if low == b'[' && rest.get(at + 1) == Some(&b':') {
                let end = rest[at + 2..].windows(2).position(|w| w == b":]")?;
                let name = &rest[at + 2..at + 2 + end];
                found |= pattern::class(name, byte);
                found |= self.fold && matches!(name, b"upper" | b"lower") && byte.is_ascii_alphabetic();
                at += end + 4;
                continue;
            }
            at += 1;
            let mut high = low;
            if rest.get(at) == Some(&b'-') && rest.get(at + 1).is_some_and(|b| *b != b']') {
                high = rest[at + 1];
                at += 2;
            }
            found |= holds(low, high);
        }
    }
}

impl Regex {
    /// Compiles an expression; with `fold`, letters match in either case. The error says what is wrong.
    pub fn new(text: &[u8], extended: bool, fold: bool) -> core::result::Result<Self, &'static str> {
        let mut parser = Parser { text, at: 0, extended, fold, groups: 0, depth: 0 };
        let alternatives = parser.alternatives()?;
        if parser.at < text.len() {
            return Err("unmatched )");
        }
        Ok(Self { alternatives, groups: parser.groups, fold })
    }

    /// The first match at or after `from`.
    pub fn find(&self, text: &[u8], from: usize) -> Option<Match> {
        // Most expressions start with a byte: look for it before trying.
        let first = match self.alternatives.as_slice() {
            [nodes] if !self.fold => match nodes.first() {
                Some(Node::Byte(byte)) => Some(*byte),
                _ => None,
            },
            _ => None,
        };
        for start in from..=text.len() {
            if first.is_some_and(|byte| text.get(start) != Some(&byte)) {
                continue;
            }
            let mut run = Run { text, fold: self.fold, groups: alloc::vec![None; self.groups + 1] };
            let mut end = None;
            if run.any(&self.alternatives, start, &mut |_, at| {
                end = Some(at);
                true
            }) {
                let mut groups = run.groups;
                groups[0] = end.map(|end| (start, end));
                return Some(groups);
            }
        }
        None
    }

    /// Whether there is a match anywhere.
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.find(text, 0).is_some()
    }
}

struct Run<'a> {
    text: &'a [u8],
    fold: bool,
    groups: Match,
}

type Next<'n, 'a> = &'n mut dyn FnMut(&mut Run<'a>, usize) -> bool;

fn is_word(byte: Option<&u8>) -> bool {
    byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

impl<'a> Run<'a> {
    fn any(&mut self, alternatives: &[Vec<Node>], at: usize, next: Next<'_, 'a>) -> bool {
        alternatives.iter().any(|nodes| self.sequence(nodes, at, next))
    }

    /// Matches nodes that take one byte; the common case, without recursion.
    fn one(&self, node: &Node, at: usize) -> Option<bool> {
        let byte = self.text.get(at).copied();
        let folded = byte.map(|b| if self.fold { b.to_ascii_lowercase() } else { b });
        match node {
            Node::Byte(wanted) => Some(folded == Some(*wanted)),
            Node::Any => Some(byte.is_some()),
            Node::Set(set) => Some(byte.is_some_and(|b| set[usize::from(b / 64)] & (1 << (b % 64)) != 0)),
            _ => None,
        }
    }

    fn sequence(&mut self, nodes: &[Node], mut at: usize, next: Next<'_, 'a>) -> bool {
        let mut nodes = nodes;
        loop {
            let Some((node, rest)) = nodes.split_first() else { return next(self, at) };
            if let Some(matched) = self.one(node, at) {
                if !matched {
                    return false;
                }
                at += 1;
                nodes = rest;
                continue;
            }
            let before = at.checked_sub(1).and_then(|i| self.text.get(i));
            let (left, right) = (is_word(before), is_word(self.text.get(at)));
            let holds = match node {
                Node::Start => at == 0,
                Node::End => at == self.text.len(),
                Node::WordEdge(wanted) => (left != right) == *wanted,
                Node::WordStart => !left && right,
                Node::WordEnd => left && !right,
                Node::Back(group) => {
                    let Some((start, end)) = self.groups[*group] else { return false };
                    let same = self.text[at..].starts_with(&self.text[start..end]);
                    at += if same { end - start } else { 0 };
                    same
                }
                Node::Group(index, inner) => {
                    let (index, saved) = (*index, self.groups[*index]);
                    let matched = self.any(inner, at, &mut |run, end| {
                        let previous = run.groups[index].replace((at, end));
                        let matched = run.sequence(rest, end, next);
                        if !matched {
                            run.groups[index] = previous;
                        }
                        matched
                    });
                    if !matched {
                        self.groups[index] = saved;
                    }
                    return matched;
                }
                Node::Repeat(inner, least, most) => {
                    if self.one(inner, at).is_none() {
                        return self.repeat(inner, *least, *most, at, rest, next);
                    }
                    let mut count = 0;
                    while count < *most && self.one(inner, at + count) == Some(true) {
                        count += 1;
                    }
                    while count >= *least {
                        if self.sequence(rest, at + count, next) {
                            return true;
                        }
                        if count == 0 {
                            break;
                        }
                        count -= 1;
                    }
                    return false;
                }
                _ => false,
            };
            if !holds {
                return false;
            }
            nodes = rest;
        }
    }

    fn repeat(
        &mut self,
        inner: &Node,
        least: usize,
        most: usize,
        at: usize,
        rest: &[Node],
        next: Next<'_, 'a>,
    ) -> bool {
        let again = most > 0
            && self.sequence(core::slice::from_ref(inner), at, &mut |run, end| {
                // A turn that took nothing would repeat for ever.
                (end > at || least > 0)
                    && run.repeat(
                        inner,
                        least.saturating_sub(1),
                        most - usize::from(most != usize::MAX),
                        end,
                        rest,
                        next,
                    )
            });
        again || (least == 0 && self.sequence(rest, at, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(pattern: &str, extended: bool, text: &str) -> Option<(usize, usize)> {
        Regex::new(pattern.as_bytes(), extended, false).unwrap().find(text.as_bytes(), 0).and_then(|m| m[0])
    }

    #[test]
    fn basic_and_extended_syntax_find_what_they_should() {
        for (pattern, extended, text, expected) in [
            ("b", false, "abc", Some((1, 2))),
            ("a*", false, "aaab", Some((0, 3))),
            ("^b", false, "ab", None),
            ("c$", false, "abc", Some((2, 3))),
            ("a.c", false, "xabc", Some((1, 4))),
            ("a+", false, "a+", Some((0, 2))),
            (r"a\+", false, "aaa", Some((0, 3))),
            ("a+", true, "baaa", Some((1, 4))),
            ("(ab)+c", true, "xababc", Some((1, 6))),
            (r"\(a\)\1", false, "baa", Some((1, 3))),
            ("a|b", false, "a|b", Some((0, 3))),
            ("cat|dog", true, "hotdog", Some((3, 6))),
            ("[0-9]{2,3}", true, "a1234", Some((1, 4))),
            ("[^a-c]", false, "abcd", Some((3, 4))),
            ("[]x]", false, "a]", Some((1, 2))),
            (r"[\]", false, r"a\", Some((1, 2))),
            ("*a", false, "b*a", Some((1, 3))),
            (r"\bfoo\b", true, "a foo b", Some((2, 5))),
            ("(a*)*b", true, "aaaaaaaaaac", None),
            ("x*", false, "abc", Some((0, 0))),
            ("(|a)b", true, "ab", Some((0, 2))),
            ("a$b", false, "a$b", Some((0, 3))),
        ] {
            assert_eq!(find(pattern, extended, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn groups_are_reported() {
        let found = Regex::new(b"(a+)(b*)", true, false).unwrap().find(b"xaab", 0).unwrap();
        assert_eq!(found, [Some((1, 4)), Some((1, 3)), Some((3, 4))]);
    }

    #[test]
    fn case_is_folded_on_request() {
        let regex = Regex::new(b"h[e-l]LLo", false, true).unwrap();
        assert!(regex.is_match(b"HELLO") && regex.is_match(b"hello") && !regex.is_match(b"hallo"));
    }

    #[test]
    fn wrong_expressions_say_what_is_wrong() {
        for (pattern, message) in
            [("(", "unmatched ("), ("a)", "unmatched )"), ("[a", "unmatched ["), ("a{2", "unmatched {")]
        {
            assert_eq!(Regex::new(pattern.as_bytes(), true, false).err(), Some(message), "{pattern}");
        }
    }
}
