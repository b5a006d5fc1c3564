//! `$((expression))`: signed 64-bit arithmetic with C's operators and precedence (POSIX.1-2017, XCU section 2.6.4).

use super::{Flow, Shell};
use alloc::string::ToString;

type Result<T> = core::result::Result<T, Flow>;

/// The value of an expression whose parameters have been expanded.
pub fn evaluate(shell: &mut Shell, text: &[u8]) -> Result<i64> {
    let mut parser = Arithmetic { shell, text, at: 0, dead: 0, depth: 0 };
    parser.blanks();
    if parser.at == text.len() {
        return Ok(0);
    }
    let value = parser.ternary()?;
    if parser.at < text.len() { parser.error("expecting EOF") } else { Ok(value) }
}

struct Arithmetic<'a> {
    shell: &'a mut Shell,
    text: &'a [u8],
    at: usize,
    /// Positive inside a branch that is not taken: no effects, no division errors.
    dead: u32,
    depth: u32,
}

/// Binary operators from loose to tight; longer spellings first within a level.
const LEVELS: [&[&str]; 10] = [
    &["||"],
    &["&&"],
    &["|"],
    &["^"],
    &["&"],
    &["==", "!="],
    &["<=", ">=", "<", ">"],
    &["<<", ">>"],
    &["+", "-"],
    &["*", "/", "%"],
];

impl Arithmetic<'_> {
    fn error<T>(&mut self, what: &str) -> Result<T> {
        let text = self.text.to_vec();
        self.shell.fail(b"arithmetic expression", &alloc::format!("{what}: \"{}\"", crate::io::Text(&text)), 2)
    }

    fn blanks(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.text[self.at..].starts_with(token.as_bytes());
        if found {
            self.at += token.len();
            self.blanks();
        }
        found
    }

    fn ternary(&mut self) -> Result<i64> {
        self.depth += 1;
        if self.depth > 100 {
            return self.error("nested too deeply");
        }
        let condition = self.binary(0)?;
        let mut value = condition;
        if self.take("?") {
            self.dead += u32::from(condition == 0);
            let yes = self.ternary()?;
            self.dead -= u32::from(condition == 0);
            if !self.take(":") {
                return self.error("expecting ':'");
            }
            self.dead += u32::from(condition != 0);
            let no = self.ternary()?;
            self.dead -= u32::from(condition != 0);
            value = if condition != 0 { yes } else { no };
        }
        self.depth -= 1;
        Ok(value)
    }

    fn operator(&mut self, level: usize) -> Option<&'static str> {
        let rest = &self.text[self.at..];
        let found = LEVELS[level].iter().copied().find(|op| rest.starts_with(op.as_bytes()))?;
        let next = rest.get(found.len()).copied();
        // `|` is not the start of `||`, nor any of these of an assignment or of a shift.
        if next == Some(b'=') && !matches!(found, "==" | "!=" | "<=" | ">=")
            || found.len() == 1 && matches!(found, "|" | "&" | "<" | ">") && next == Some(found.as_bytes()[0])
        {
            return None;
        }
        self.take(found);
        Some(found)
    }

    fn binary(&mut self, level: usize) -> Result<i64> {
        if level == LEVELS.len() {
            return self.unary();
        }
        let mut left = self.binary(level + 1)?;
        while let Some(operator) = self.operator(level) {
            let skip = (operator == "||" && left != 0) || (operator == "&&" && left == 0);
            self.dead += u32::from(skip);
            let right = self.binary(level + 1)?;
            self.dead -= u32::from(skip);
            left = self.apply(operator, left, right)?;
        }
        Ok(left)
    }

    fn apply(&mut self, operator: &str, left: i64, right: i64) -> Result<i64> {
        Ok(match operator {
            "||" => i64::from(left != 0 || right != 0),
            "&&" => i64::from(left != 0 && right != 0),
            "|" => left | right,
            "^" => left ^ right,
            "&" => left & right,
            "==" => i64::from(left == right),
            "!=" => i64::from(left != right),
            "<=" => i64::from(left <= right),
            ">=" => i64::from(left >= right),
            "<" => i64::from(left < right),
            ">" => i64::from(left > right),
            "<<" => left.wrapping_shl(right as u32),
            ">>" => left.wrapping_shr(right as u32),
            "+" => left.wrapping_add(right),
            "-" => left.wrapping_sub(right),
            "*" => left.wrapping_mul(right),
            _ if right == 0 && self.dead > 0 => 0,
            _ if right == 0 => return self.error("division by zero"),
            "/" => left.wrapping_div(right),
            _ => left.wrapping_rem(right),
        })
    }

    fn unary(&mut self) -> Result<i64> {
        self.depth += 1;
        if self.depth > 100 {
            return self.error("nested too deeply");
        }
        let value = if self.take("!") {
            i64::from(self.unary()? == 0)
        } else if self.take("~") {
            !self.unary()?
        } else if self.take("-") {
            self.unary()?.wrapping_neg()
        } else if self.take("+") {
            self.unary()?
        } else {
            self.primary()?
        };
        self.depth -= 1;
        Ok(value)
    }

    fn primary(&mut self) -> Result<i64> {
        if self.take("(") {
            let value = self.ternary()?;
            return if self.take(")") { Ok(value) } else { self.error("expecting ')'") };
        }
        let rest = &self.text[self.at..];
        let end = rest.iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'_').unwrap_or(rest.len());
        let word = &rest[..end];
        if word.is_empty() {
            return self.error("expecting primary");
        }
        self.at += end;
        self.blanks();
        if word[0].is_ascii_digit() {
            return match constant(word) {
                Some(value) => Ok(value),
                None => self.error("bad number"),
            };
        }
        let assigning = ["=", "+=", "-=", "*=", "/=", "%=", "<<=", ">>=", "&=", "^=", "|="];
        let rest = &self.text[self.at..];
        if let Some(operator) = assigning.into_iter().find(|op| rest.starts_with(op.as_bytes()))
            && !rest.starts_with(b"==")
        {
            self.take(operator);
            let right = self.ternary()?;
            let operator = &operator[..operator.len() - 1];
            let value = if operator.is_empty() {
                right
            } else {
                let left = self.variable(word)?;
                self.apply(operator, left, right)?
            };
            if self.dead == 0 {
                self.shell.set(word, value.to_string().into_bytes())?;
            }
            return Ok(value);
        }
        self.variable(word)
    }

    fn variable(&mut self, name: &[u8]) -> Result<i64> {
        let Some(value) = self.shell.get(name) else {
            return if self.shell.options.no_unset && self.dead == 0 {
                self.shell.fail(name, "parameter not set", 2)
            } else {
                Ok(0)
            };
        };
        let value = value.trim_ascii();
        let (sign, digits) = match value.strip_prefix(b"-") {
            Some(digits) => (-1, digits),
            None => (1, value.strip_prefix(b"+").unwrap_or(value)),
        };
        if digits.is_empty() {
            return Ok(0);
        }
        match constant(digits) {
            Some(number) => Ok(number.wrapping_mul(sign)),
            None => {
                let value = value.to_vec();
                self.shell.fail(b"Illegal number", &alloc::format!("{}", crate::io::Text(&value)), 2)
            }
        }
    }
}

/// A decimal, octal (`0`) or hexadecimal (`0x`) constant.
fn constant(word: &[u8]) -> Option<i64> {
    let text = core::str::from_utf8(word).ok()?;
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    i64::from_str_radix(digits, radix).ok()
}
