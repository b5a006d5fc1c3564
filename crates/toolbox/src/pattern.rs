//! Shell patterns (POSIX.1-2017, XCU section 2.13): `*`, `?` and bracket expressions; a backslash takes away the
//! meaning of the byte after it.

use crate::sys;
use alloc::vec::Vec;

/// Whether the whole of `text` matches.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // On a mismatch only the last `*` needs to be retried, one byte further on.
    let (mut p, mut t) = (0, 0);
    let mut retry = None;
    loop {
        let step = match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            None if t == text.len() => return true,
            None => None,
            Some(_) if t == text.len() => return false,
            Some(_) => element(&pattern[p..], text[t]),
        };
        match (step, retry) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((after, from))) if from < text.len() => {
                retry = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

/// Matches one byte against the first element; the element's length if it does.
fn element(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern[0] {
        b'?' => Some(1),
        b'\\' if pattern.len() > 1 => (pattern[1] == byte).then_some(2),
        b'[' => match bracket(&pattern[1..], byte) {
            Some((matched, length)) => matched.then_some(1 + length),
            None => (byte == b'[').then_some(1),
        },
        literal => (literal == byte).then_some(1),
    }
}

/// A bracket expression after its `[`: whether the byte is in it, and its length with the `]`. `None` if unclosed.
pub fn bracket(pattern: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(pattern.first(), Some(b'!' | b'^'));
    let mut at = usize::from(negated);
    let first = at;
    let mut found = false;
    loop {
        let mut low = *pattern.get(at)?;
        if low == b']' && at > first {
            return Some((found != negated, at + 1));
        }
        if low == b'[' && pattern.get(at + 1) == Some(&b':') {
            let rest = &pattern[at + 2..];
            let end = rest.windows(2).position(|w| w == b":]")?;
            found |= class(&rest[..end], byte);
            at += end + 4;
            continue;
        }
        if low == b'\\' && pattern.len() > at + 1 {
            at += 1;
            low = pattern[at];
        }
        at += 1;
        let mut high = low;
        if pattern.get(at) == Some(&b'-') && pattern.get(at + 1).is_some_and(|b| *b != b']') {
            at += 1;
            if pattern[at] == b'\\' && pattern.len() > at + 1 {
                at += 1;
            }
            high = pattern[at];
            at += 1;
        }
        found |= (low..=high).contains(&byte);
    }
}

/// Whether the byte is of a character class of the C locale, such as `alpha`.
pub fn class(name: &[u8], byte: u8) -> bool {
    match name {
        b"alpha" => byte.is_ascii_alphabetic(),
        b"digit" => byte.is_ascii_digit(),
        b"alnum" => byte.is_ascii_alphanumeric(),
        b"upper" => byte.is_ascii_uppercase(),
        b"lower" => byte.is_ascii_lowercase(),
        b"space" => byte.is_ascii_whitespace() || byte == 11,
        b"blank" => byte == b' ' || byte == b'\t',
        b"punct" => byte.is_ascii_punctuation(),
        b"print" => byte.is_ascii_graphic() || byte == b' ',
        b"graph" => byte.is_ascii_graphic(),
        b"cntrl" => byte.is_ascii_control(),
        b"xdigit" => byte.is_ascii_hexdigit(),
        _ => false,
    }
}

/// Whether the pattern holds anything but literal bytes.
pub fn is_pattern(pattern: &[u8]) -> bool {
    let mut at = 0;
    while at < pattern.len() {
        match pattern[at] {
            b'*' | b'?' => return true,
            // The command `[` is no pattern: no directory is read for it.
            b'[' if pattern[at..].contains(&b']') => return true,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    false
}

/// Removes the backslashes.
pub fn unescape(pattern: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(pattern.len());
    let mut bytes = pattern.iter();
    while let Some(byte) = bytes.next() {
        text.push(if *byte == b'\\' { *bytes.next().unwrap_or(byte) } else { *byte });
    }
    text
}

/// The existing paths that match, sorted.
pub fn paths(pattern: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    descend(b"", pattern, &mut found);
    found.sort();
    found
}

fn descend(prefix: &[u8], pattern: &[u8], found: &mut Vec<Vec<u8>>) {
    let slashes = pattern.iter().take_while(|b| **b == b'/').count();
    let mut prefix = prefix.to_vec();
    prefix.extend_from_slice(&pattern[..slashes]);
    let pattern = &pattern[slashes..];
    let end = pattern.iter().position(|b| *b == b'/').unwrap_or(pattern.len());
    let (component, rest) = pattern.split_at(end);
    if !is_pattern(component) {
        prefix.extend(unescape(component));
        if rest.is_empty() {
            if sys::stat(&prefix, false).is_ok() {
                found.push(prefix);
            }
        } else {
            descend(&prefix, rest, found);
        }
        return;
    }
    let directory: &[u8] = if prefix.is_empty() { b"." } else { &prefix };
    let Ok(mut entries) = sys::read_dir(directory) else { return };
    if component.starts_with(b".") {
        entries.extend([&b"."[..], b".."].map(|name| sys::Entry { name: name.to_vec(), kind: libc::DT_DIR }));
    }
    for entry in entries {
        if entry.name.starts_with(b".") != component.starts_with(b".") || !matches(component, &entry.name) {
            continue;
        }
        let path = [&prefix[..], &entry.name].concat();
        if rest.is_empty() {
            found.push(path);
        } else if sys::stat(&path, true).is_ok_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFDIR) {
            descend(&path, rest, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_posix_says() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbb", false),
            ("?", "", false),
            ("?b", "ab", true),
            ("[abc]", "b", true),
            ("[!abc]", "b", false),
            ("[a-c]x", "bx", true),
            ("[]]", "]", true),
            ("[", "[", true),
            ("[[:digit:]]*", "5x", true),
            (r"\*", "*", true),
            (r"\*", "x", false),
            ("*.rs", "lib.rs", true),
            ("a*b*c", "aXbYbZc", true),
            ("*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("[a-]", "-", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }
}
