//! `test` and `[`: POSIX.1-2017, XCU, test.

use crate::sys::{self, Stat};
use crate::{err, io};

/// The applet: 0 for true, 1 for false, 2 for an error.
pub fn test(args: &[&[u8]]) -> i32 {
    let mut operands = &args[1..];
    if args[0].ends_with(b"[") {
        match operands.split_last() {
            Some((last, rest)) if *last == b"]" => operands = rest,
            _ => {
                err!("[: missing ]");
                return 2;
            }
        }
    }
    let mut expression = Expression { words: operands, at: 0, depth: 0 };
    let result = match operands.len() {
        0 => Ok(false),
        // With three words the middle one, if an operator, decides, whatever the first looks like.
        3 if is_binary(operands[1]) => binary(operands[0], operands[1], operands[2]),
        _ => expression
            .or()
            .and_then(|value| if expression.at == operands.len() { Ok(value) } else { Err("unexpected operator") }),
    };
    match result {
        Ok(value) => i32::from(!value),
        Err(message) => {
            err!("{}: {message}", io::Text(args[0]));
            2
        }
    }
}

type Result = core::result::Result<bool, &'static str>;

struct Expression<'a> {
    words: &'a [&'a [u8]],
    at: usize,
    depth: usize,
}

impl<'a> Expression<'a> {
    fn peek(&self, ahead: usize) -> Option<&'a [u8]> {
        self.words.get(self.at + ahead).copied()
    }

    fn or(&mut self) -> Result {
        let mut value = self.and()?;
        while self.peek(0) == Some(b"-o") {
            self.at += 1;
            value |= self.and()?;
        }
        Ok(value)
    }

    fn and(&mut self) -> Result {
        let mut value = self.not()?;
        while self.peek(0) == Some(b"-a") {
            self.at += 1;
            value &= self.not()?;
        }
        Ok(value)
    }

    fn not(&mut self) -> Result {
        self.depth += 1;
        if self.depth > 100 {
            return Err("nested too deeply");
        }
        let value = if self.peek(0) == Some(b"!") && self.peek(1).is_some() {
            self.at += 1;
            !self.not()?
        } else {
            self.primary()?
        };
        self.depth -= 1;
        Ok(value)
    }

    fn primary(&mut self) -> Result {
        let Some(word) = self.peek(0) else { return Err("argument expected") };
        if let (Some(operator), Some(right)) = (self.peek(1), self.peek(2))
            && is_binary(operator)
        {
            self.at += 3;
            return binary(word, operator, right);
        }
        if word == b"(" && self.peek(1).is_some() {
            self.at += 1;
            let value = self.or()?;
            if self.peek(0) != Some(b")") {
                return Err("closing paren expected");
            }
            self.at += 1;
            return Ok(value);
        }
        if let Some(operand) = self.peek(1)
            && let [b'-', letter] = word
            && b"bcdefghkLnprSsStuwxzOG".contains(letter)
        {
            self.at += 2;
            return unary(*letter, operand);
        }
        self.at += 1;
        Ok(!word.is_empty())
    }
}

fn is_binary(word: &[u8]) -> bool {
    matches!(
        word,
        b"=" | b"=="
            | b"!="
            | b"<"
            | b">"
            | b"-eq"
            | b"-ne"
            | b"-lt"
            | b"-le"
            | b"-gt"
            | b"-ge"
            | b"-nt"
            | b"-ot"
            | b"-ef"
    )
}

fn integer(text: &[u8]) -> core::result::Result<i64, &'static str> {
    io::number(text.trim_ascii()).ok_or("Illegal number")
}

fn binary(left: &[u8], operator: &[u8], right: &[u8]) -> Result {
    let modified = |name: &[u8]| sys::stat(name, true).ok().map(|s| (s.st_mtime, s.st_mtime_nsec));
    Ok(match operator {
        b"=" | b"==" => left == right,
        b"!=" => left != right,
        b"<" => left < right,
        b">" => left > right,
        b"-eq" => integer(left)? == integer(right)?,
        b"-ne" => integer(left)? != integer(right)?,
        b"-lt" => integer(left)? < integer(right)?,
        b"-le" => integer(left)? <= integer(right)?,
        b"-gt" => integer(left)? > integer(right)?,
        b"-ge" => integer(left)? >= integer(right)?,
        b"-nt" => modified(left) > modified(right),
        b"-ot" => modified(left) < modified(right),
        _ => match (sys::stat(left, true), sys::stat(right, true)) {
            (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
            _ => false,
        },
    })
}

fn unary(letter: u8, operand: &[u8]) -> Result {
    let kind = |wanted: u32| sys::stat(operand, true).is_ok_and(|s| s.st_mode & libc::S_IFMT == wanted);
    let found = |check: fn(&Stat) -> bool| sys::stat(operand, true).is_ok_and(|s| check(&s));
    Ok(match letter {
        b'n' => !operand.is_empty(),
        b'z' => operand.is_empty(),
        b't' => sys::is_terminal(integer(operand)? as i32),
        b'e' => found(|_| true),
        b'f' => kind(libc::S_IFREG),
        b'd' => kind(libc::S_IFDIR),
        b'b' => kind(libc::S_IFBLK),
        b'c' => kind(libc::S_IFCHR),
        b'p' => kind(libc::S_IFIFO),
        b'S' => kind(libc::S_IFSOCK),
        b'h' | b'L' => sys::stat(operand, false).is_ok_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFLNK),
        b's' => found(|s| s.st_size > 0),
        b'u' => found(|s| s.st_mode & libc::S_ISUID != 0),
        b'g' => found(|s| s.st_mode & libc::S_ISGID != 0),
        b'k' => found(|s| s.st_mode & libc::S_ISVTX != 0),
        b'O' => found(|s| s.st_uid == sys::ids()[1]),
        b'G' => found(|s| s.st_gid == sys::ids()[3]),
        b'r' => sys::access(operand, libc::R_OK).is_ok(),
        b'w' => sys::access(operand, libc::W_OK).is_ok(),
        _ => sys::access(operand, libc::X_OK).is_ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: &str) -> i32 {
        let words: Vec<&[u8]> = ["test"].into_iter().chain(words.split_terminator(' ')).map(str::as_bytes).collect();
        test(&words)
    }

    #[test]
    fn expressions_have_the_values_posix_gives_them() {
        for (words, status) in [
            ("", 1),
            ("x", 0),
            ("-n x", 0),
            ("-z x", 1),
            ("a = a", 0),
            ("a != a", 1),
            ("1 -lt 2", 0),
            ("2 -le 1", 1),
            ("! x", 1),
            ("! = !", 0),
            ("-n = -n", 0),
            ("( x )", 0),
            ("x -a ( ! y )", 1),
            ("a = b -o c = c", 0),
            ("x -eq 1", 2),
            ("a b", 2),
            ("-d /", 0),
            ("-f /", 1),
            ("-e /nonexistent", 1),
            ("!", 0),
            ("-f", 0),
        ] {
            assert_eq!(check(words), status, "{words}");
        }
    }
}
