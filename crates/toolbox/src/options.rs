//! Command line options after the Utility Syntax Guidelines (POSIX.1-2017, XBD section 12.2): clusters of letters,
//! arguments attached or separate, `--` as the end; and the few long names people are used to.

use crate::{err, io};
use alloc::vec::Vec;

/// Options and operands of an applet.
pub struct Options<'a> {
    found: Vec<(u8, &'a [u8])>,
    /// What is not an option.
    pub operands: Vec<&'a [u8]>,
}

impl<'a> Options<'a> {
    /// Parses `args` (the first is the applet's name) after `letters`, as getopt(3) takes them: a colon follows a
    /// letter that has an argument; with `+` first, options end at the first operand. `long` gives letters to long
    /// names. The error is the exit status, already reported.
    pub fn parse(args: &[&'a [u8]], letters: &str, long: &[(&str, u8)]) -> Result<Self, i32> {
        let mut options = Options { found: Vec::new(), operands: Vec::new() };
        let name = args.first().copied().unwrap_or_default();
        let (stop, letters) = match letters.strip_prefix('+') {
            Some(rest) => (true, rest.as_bytes()),
            None => (false, letters.as_bytes()),
        };
        let mut rest = args.get(1..).unwrap_or_default().iter().copied();
        while let Some(arg) = rest.next() {
            if arg == b"--" {
                options.operands.extend(rest);
                break;
            }
            if arg.len() < 2 || arg[0] != b'-' {
                options.operands.push(arg);
                if stop {
                    options.operands.extend(rest);
                    break;
                }
                continue;
            }
            let bad = || {
                err!("{}: unknown option {}; try --help", io::Text(name), io::Text(arg));
                Err(2)
            };
            if let Some(word) = arg.strip_prefix(b"--") {
                let (word, attached) = match word.iter().position(|b| *b == b'=') {
                    Some(at) => (&word[..at], Some(&word[at + 1..])),
                    None => (word, None),
                };
                let Some((_, letter)) = long.iter().find(|(l, _)| l.as_bytes() == word) else { return bad() };
                let takes =
                    letters.iter().position(|l| l == letter).is_some_and(|at| letters.get(at + 1) == Some(&b':'));
                let value = match (takes, attached) {
                    (true, None) => rest.next(),
                    (_, attached) => attached,
                };
                if takes && value.is_none() {
                    return bad();
                }
                options.found.push((*letter, value.unwrap_or_default()));
                continue;
            }
            for (index, letter) in arg.iter().enumerate().skip(1) {
                let Some(at) = letters.iter().position(|l| l == letter && *l != b':') else { return bad() };
                if letters.get(at + 1) != Some(&b':') {
                    options.found.push((*letter, b""));
                    continue;
                }
                let attached = &arg[index + 1..];
                let value = if attached.is_empty() { rest.next() } else { Some(attached) };
                let Some(value) = value else {
                    err!("{}: option -{} needs an argument", io::Text(name), char::from(*letter));
                    return Err(2);
                };
                options.found.push((*letter, value));
                break;
            }
        }
        Ok(options)
    }

    /// Whether the option was given.
    pub fn has(&self, letter: u8) -> bool {
        self.found.iter().any(|(l, _)| *l == letter)
    }

    /// The argument of the option's last appearance.
    pub fn value(&self, letter: u8) -> Option<&'a [u8]> {
        self.values(letter).last().copied()
    }

    /// All arguments of the option.
    pub fn values(&self, letter: u8) -> Vec<&'a [u8]> {
        self.found.iter().filter(|(l, _)| *l == letter).map(|(_, v)| *v).collect()
    }

    /// Of some letters, the one given last.
    pub fn last_of(&self, letters: &[u8]) -> Option<u8> {
        self.found.iter().rev().find(|(l, _)| letters.contains(l)).map(|(l, _)| *l)
    }
}

/// Parses options or returns the status of the failure from the applet.
#[macro_export]
macro_rules! options {
    ($args:expr, $letters:expr) => {
        $crate::options!($args, $letters, &[])
    };
    ($args:expr, $letters:expr, $long:expr) => {
        match $crate::options::Options::parse($args, $letters, $long) {
            Ok(options) => options,
            Err(status) => return status,
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<'a>(args: &[&'a str], letters: &str) -> Result<Options<'a>, i32> {
        Options::parse(&args.iter().map(|a| a.as_bytes()).collect::<Vec<_>>(), letters, &[("number", b'n')])
    }

    #[test]
    fn clusters_and_arguments_are_taken_apart() {
        let options = parse(&["x", "-an5", "file", "-b", "--", "-c"], "abn:").unwrap();
        assert!(options.has(b'a') && options.has(b'b') && !options.has(b'c'));
        assert_eq!(options.value(b'n'), Some(&b"5"[..]));
        assert_eq!(options.operands, [b"file", &b"-c"[..]]);
    }

    #[test]
    fn a_plus_ends_the_options_at_the_first_operand() {
        assert_eq!(parse(&["x", "-a", "run", "-a"], "+a").unwrap().operands, [b"run", &b"-a"[..]]);
    }

    #[test]
    fn long_names_take_arguments_attached_or_not() {
        for args in [&["x", "--number=7"][..], &["x", "--number", "7"]] {
            assert_eq!(parse(args, "n:").unwrap().value(b'n'), Some(&b"7"[..]));
        }
    }

    #[test]
    fn unknown_options_and_missing_arguments_are_errors() {
        assert_eq!(parse(&["x", "-z"], "a").err(), Some(2));
        assert_eq!(parse(&["x", "-n"], "n:").err(), Some(2));
    }
}
