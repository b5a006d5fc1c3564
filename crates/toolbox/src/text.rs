//! Applets on text: echo, printf, cat, head, tail, wc, grep, sed, sort, uniq, cut, tr, seq, tee, rev-like filters.

use crate::io::{self, Lines, Out};
use crate::pattern;
use crate::regex::{Match, Regex};
use crate::sys::{self, Fd};
use crate::{err, options, out};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cmp::Ordering;

/// Opens each operand (standard input without any) in turn; reports those that fail and returns the worst status.
fn each_input(name: &str, operands: &[&[u8]], mut f: impl FnMut(&[u8], Fd)) -> i32 {
    let mut status = 0;
    let operands = if operands.is_empty() { &[&b"-"[..]][..] } else { operands };
    for operand in operands {
        match io::open_input(operand) {
            Ok(fd) => {
                f(operand, fd);
                if fd != 0 {
                    sys::close(fd);
                }
            }
            Err(error) => {
                err!("{name}: {}: {error}", io::Text(operand));
                status = 1;
            }
        }
    }
    status
}

/// Decodes the escape after a backslash, as echo and printf have it. The answer is the byte and the input used;
/// `None` for `\c`, which ends the output.
fn escape(rest: &[u8], octal_zero: bool) -> Option<(Vec<u8>, usize)> {
    let single = |byte: u8| Some((Vec::from([byte]), 1));
    match rest.first() {
        None => Some((b"\\".to_vec(), 0)),
        Some(b'a') => single(7),
        Some(b'b') => single(8),
        Some(b'c') => None,
        Some(b'e') => single(27),
        Some(b'f') => single(12),
        Some(b'n') => single(b'\n'),
        Some(b'r') => single(b'\r'),
        Some(b't') => single(b'\t'),
        Some(b'v') => single(11),
        Some(b'\\') => single(b'\\'),
        Some(b'x') => {
            let digits = rest[1..].iter().take(2).take_while(|b| b.is_ascii_hexdigit()).count();
            let text = core::str::from_utf8(&rest[1..=digits]).unwrap_or_default();
            match u8::from_str_radix(text, 16) {
                Ok(byte) => Some((Vec::from([byte]), 1 + digits)),
                Err(_) => Some((b"\\x".to_vec(), 1)),
            }
        }
        Some(b'0'..=b'7') => {
            let skip = usize::from(octal_zero && rest[0] == b'0');
            let digits = rest[skip..].iter().take(3).take_while(|b| matches!(b, b'0'..=b'7')).count();
            let value = rest[skip..skip + digits].iter().fold(0u32, |v, b| v * 8 + u32::from(b - b'0'));
            Some((Vec::from([value as u8]), skip + digits))
        }
        Some(other) => Some((Vec::from([b'\\', *other]), 1)),
    }
}

/// As dash has it: `-n` and escapes; `-e` is accepted.
pub fn echo(args: &[&[u8]]) -> i32 {
    let mut words = &args[1..];
    let mut newline = true;
    while let Some(option @ (b"-n" | b"-e" | b"-ne" | b"-en")) = words.first().copied() {
        newline &= !option.contains(&b'n');
        words = &words[1..];
    }
    let mut out = Out::new(1);
    for (index, word) in words.iter().enumerate() {
        if index > 0 {
            out.put(b" ");
        }
        let mut rest = *word;
        while let Some(at) = rest.iter().position(|b| *b == b'\\') {
            out.put(&rest[..at]);
            let Some((bytes, used)) = escape(&rest[at + 1..], true).filter(|_| true) else { return 0 };
            // Octal numbers need their zero in echo.
            if matches!(rest.get(at + 1), Some(b'1'..=b'7')) {
                out.put(&rest[at..at + 2]);
                rest = &rest[at + 2..];
                continue;
            }
            out.put(&bytes);
            rest = &rest[at + 1 + used..];
        }
        out.put(rest);
    }
    if newline {
        out.put(b"\n");
    }
    drop(out);
    i32::from(io::output_failed())
}

fn pad(out: &mut Out, text: &[u8], width: usize, left: bool, zero: bool) {
    let fill = width.saturating_sub(text.len());
    if left {
        out.put(text);
        (0..fill).for_each(|_| out.put(b" "));
    } else if zero {
        let sign = usize::from(matches!(text.first(), Some(b'-' | b'+' | b' ')));
        out.put(&text[..sign]);
        (0..fill).for_each(|_| out.put(b"0"));
        out.put(&text[sign..]);
    } else {
        (0..fill).for_each(|_| out.put(b" "));
        out.put(text);
    }
}

/// A number as printf takes it: decimal, octal, hexadecimal, or the code of a quoted character.
fn printf_integer(text: &[u8]) -> Option<i128> {
    if let [b'\'' | b'"', rest @ ..] = text {
        let text = String::from_utf8_lossy(rest);
        return text.chars().next().map(|c| i128::from(u32::from(c)));
    }
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let digits = core::str::from_utf8(digits).ok()?;
    let value = if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        i128::from_str_radix(hex, 16).ok()?
    } else if digits.len() > 1 && digits.starts_with('0') {
        i128::from_str_radix(digits, 8).ok()?
    } else if digits.is_empty() {
        0
    } else {
        digits.parse().ok()?
    };
    Some(if negative { -value } else { value })
}

fn exponent_form(value: f64, precision: usize, upper: bool) -> String {
    let text = alloc::format!("{value:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |d| ('-', d));
    alloc::format!("{mantissa}{}{sign}{digits:0>2}", if upper { 'E' } else { 'e' })
}

fn general_form(value: f64, precision: usize, upper: bool) -> String {
    let precision = precision.max(1);
    let text = alloc::format!("{value:.*e}", precision - 1);
    let exponent: i32 = text.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let strip = |text: String| {
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
    };
    if exponent < -4 || exponent >= precision as i32 {
        let text = exponent_form(value, precision - 1, upper);
        let at = text.find(['e', 'E']).unwrap_or(text.len());
        return strip(text[..at].to_string()) + &text[at..];
    }
    strip(alloc::format!("{value:.*}", (precision as i32 - 1 - exponent).max(0) as usize))
}

pub fn printf(args: &[&[u8]]) -> i32 {
    let args = if args.get(1) == Some(&&b"--"[..]) { &args[1..] } else { args };
    let Some(format) = args.get(1) else {
        err!("usage: printf FORMAT [ARGUMENT...]");
        return 2;
    };
    let mut values = args[2..].iter().copied();
    let mut out = Out::new(1);
    let mut status = 0;
    loop {
        let before = values.len();
        let mut rest = *format;
        while let Some(byte) = rest.first().copied() {
            rest = &rest[1..];
            if byte == b'\\' {
                let Some((bytes, used)) = escape(rest, false) else { return status };
                out.put(&bytes);
                rest = &rest[used..];
                continue;
            }
            if byte != b'%' || rest.first() == Some(&b'%') {
                out.put(&[byte]);
                rest = &rest[usize::from(byte == b'%')..];
                continue;
            }
            let flags = rest.iter().take_while(|b| b"-+ #0".contains(b)).count();
            let flag = |letter: u8| rest[..flags].contains(&letter);
            let (mut left, plus, space, hash, zero) = (flag(b'-'), flag(b'+'), flag(b' '), flag(b'#'), flag(b'0'));
            rest = &rest[flags..];
            let mut count = |rest: &mut &[u8]| {
                if rest.first() == Some(&b'*') {
                    *rest = &rest[1..];
                    return values.next().and_then(io::number);
                }
                let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
                let value = io::number(&rest[..digits]);
                *rest = &rest[digits..];
                value
            };
            let width = count(&mut rest).unwrap_or(0);
            left |= width < 0;
            let width = (width.unsigned_abs() as usize).min(1 << 20);
            let mut precision = None;
            if rest.first() == Some(&b'.') {
                rest = &rest[1..];
                precision = Some(count(&mut rest).unwrap_or(0).clamp(0, 1 << 20) as usize);
            }
            let Some(kind) = rest.first().copied() else {
                err!("printf: %: missing format character");
                return 2;
            };
            rest = &rest[1..];
            let value = values.next();
            let text = value.unwrap_or_default();
            match kind {
                b's' => {
                    let text = &text[..precision.unwrap_or(text.len()).min(text.len())];
                    pad(&mut out, text, width, left, false);
                }
                b'b' => {
                    let mut decoded = Vec::new();
                    let mut input = text;
                    while let Some(at) = input.iter().position(|b| *b == b'\\') {
                        decoded.extend_from_slice(&input[..at]);
                        let Some((bytes, used)) = escape(&input[at + 1..], true) else {
                            pad(&mut out, &decoded, width, left, false);
                            return status;
                        };
                        decoded.extend(bytes);
                        input = &input[at + 1 + used..];
                    }
                    decoded.extend_from_slice(input);
                    pad(&mut out, &decoded, width, left, false);
                }
                b'c' => pad(&mut out, &text[..text.len().min(1)], width, left, false),
                b'd' | b'i' | b'u' | b'o' | b'x' | b'X' => {
                    let number = printf_integer(text).unwrap_or_else(|| {
                        err!("printf: {}: expected numeric value", io::Text(text));
                        status = 1;
                        0
                    });
                    let signed = matches!(kind, b'd' | b'i');
                    let magnitude = if signed { number.unsigned_abs() } else { u128::from(number as u64) };
                    let mut digits = match kind {
                        b'o' => alloc::format!("{}{magnitude:o}", if hash { "0" } else { "" }),
                        b'x' => alloc::format!("{magnitude:x}"),
                        b'X' => alloc::format!("{magnitude:X}"),
                        _ => magnitude.to_string(),
                    };
                    if let Some(least) = precision {
                        digits = "0".repeat(least.saturating_sub(digits.len())) + &digits;
                    }
                    let prefix = match kind {
                        _ if signed && number < 0 => "-",
                        _ if signed && plus => "+",
                        _ if signed && space => " ",
                        b'x' if hash && number != 0 => "0x",
                        b'X' if hash && number != 0 => "0X",
                        _ => "",
                    };
                    let text = alloc::format!("{prefix}{digits}");
                    pad(&mut out, text.as_bytes(), width, left, zero && precision.is_none());
                }
                b'f' | b'F' | b'e' | b'E' | b'g' | b'G' => {
                    let parsed = core::str::from_utf8(text).ok().and_then(|t| t.trim().parse::<f64>().ok());
                    let number = parsed.or_else(|| printf_integer(text).map(|n| n as f64)).unwrap_or_else(|| {
                        err!("printf: {}: expected numeric value", io::Text(text));
                        status = 1;
                        0.0
                    });
                    let precision = precision.unwrap_or(6);
                    let mut text = match kind {
                        b'f' | b'F' => alloc::format!("{number:.precision$}"),
                        b'e' | b'E' => exponent_form(number, precision, kind == b'E'),
                        _ => general_form(number, precision, kind == b'G'),
                    };
                    if number >= 0.0 && (plus || space) {
                        text.insert(0, if plus { '+' } else { ' ' });
                    }
                    pad(&mut out, text.as_bytes(), width, left, zero);
                }
                other => {
                    err!("printf: %{}: invalid directive", char::from(other));
                    return 2;
                }
            }
        }
        if values.len() == 0 || values.len() == before {
            break;
        }
    }
    drop(out);
    if io::output_failed() { 1 } else { status }
}

pub fn cat(args: &[&[u8]]) -> i32 {
    let o = options!(args, "nuevtA");
    if o.has(b'n') {
        let mut out = Out::new(1);
        let mut number = 0;
        return each_input("cat", &o.operands, |_, fd| {
            for line in Lines::new(fd) {
                number += 1;
                out!(out, "{number:6}\t");
                out.line(&line);
            }
        });
    }
    let mut status = 0;
    let failed = each_input("cat", &o.operands, |name, fd| {
        let mut buffer = alloc::vec![0u8; 64 << 10];
        loop {
            match sys::read(fd, &mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    if let Err(error) = sys::write_all(1, &buffer[..n]) {
                        err!("cat: write error: {error}");
                        status = 1;
                        break;
                    }
                }
                Err(error) => {
                    err!("cat: {}: {error}", io::Text(name));
                    status = 1;
                    break;
                }
            }
        }
    });
    status.max(failed)
}

/// Rewrites `-5` as `-n 5`, the form head and tail had before POSIX.
fn old_count<'a>(args: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let mut all = args.to_vec();
    if let Some(first) = args.get(1)
        && first.len() > 1
        && first[0] == b'-'
        && first[1..].iter().all(u8::is_ascii_digit)
    {
        all.splice(1..2, [&b"-n"[..], &first[1..]]);
    }
    all
}

fn title(out: &mut Out, first: &mut bool, name: &[u8]) {
    if !core::mem::replace(first, false) {
        out.put(b"\n");
    }
    out!(out, "==> {} <==\n", io::Text(if name == b"-" { b"standard input" } else { name }));
}

pub fn head(args: &[&[u8]]) -> i32 {
    let args = old_count(args);
    let o = options!(&args, "n:c:qv");
    let count = |letter| o.value(letter).map(|v| io::size(v).ok_or(v));
    let (lines, bytes) = match (count(b'n'), count(b'c')) {
        (Some(Err(bad)), _) | (_, Some(Err(bad))) => {
            err!("head: bad count: {}", io::Text(bad));
            return 1;
        }
        (lines, bytes) => (lines.and_then(Result::ok).unwrap_or(10), bytes.and_then(Result::ok)),
    };
    let mut out = Out::new(1);
    let mut first = true;
    each_input("head", &o.operands, |name, fd| {
        if (o.operands.len() > 1 || o.has(b'v')) && !o.has(b'q') {
            title(&mut out, &mut first, name);
        }
        let (mut lines, mut left) = (lines, bytes.unwrap_or(u64::MAX));
        let mut buffer = [0u8; 4096];
        while left > 0 && (bytes.is_some() || lines > 0) && !out.is_broken() {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let Ok(n @ 1..) = sys::read(fd, &mut buffer[..want]) else { break };
            left -= n as u64;
            let mut end = n;
            if bytes.is_none() {
                for (at, _) in buffer[..n].iter().enumerate().filter(|(_, b)| **b == b'\n') {
                    lines -= 1;
                    if lines == 0 {
                        end = at + 1;
                        break;
                    }
                }
            }
            out.put(&buffer[..end]);
        }
    })
}

pub fn tail(args: &[&[u8]]) -> i32 {
    let args = old_count(args);
    let o = options!(&args, "n:c:qvfF");
    let (text, by_bytes) = match (o.value(b'c'), o.value(b'n')) {
        (Some(text), _) => (text, true),
        (None, text) => (text.unwrap_or(b"10"), false),
    };
    let from_start = text.starts_with(b"+");
    let Some(count) = io::size(text.strip_prefix(b"+").or(text.strip_prefix(b"-")).unwrap_or(text)) else {
        err!("tail: bad count: {}", io::Text(text));
        return 1;
    };
    let count = count as usize;
    let follow = o.has(b'f') || o.has(b'F');
    let mut out = Out::new(1);
    let mut first = true;
    let mut status = each_input("tail", &o.operands, |name, fd| {
        if (o.operands.len() > 1 || o.has(b'v')) && !o.has(b'q') {
            title(&mut out, &mut first, name);
        }
        let all = io::read_to_end(fd).unwrap_or_default();
        let start = match (by_bytes, from_start) {
            (true, true) => count.saturating_sub(1).min(all.len()),
            (true, false) => all.len().saturating_sub(count),
            (false, true) => {
                let mut ends = all.iter().enumerate().filter(|(_, b)| **b == b'\n');
                match count.checked_sub(2) {
                    None => 0,
                    Some(n) => ends.nth(n).map_or(all.len(), |(at, _)| at + 1),
                }
            }
            (false, false) if count == 0 => all.len(),
            (false, false) => {
                let body = all.strip_suffix(b"\n").unwrap_or(&all);
                body.iter().enumerate().rev().filter(|(_, b)| **b == b'\n').nth(count - 1).map_or(0, |(at, _)| at + 1)
            }
        };
        out.put(&all[start..]);
    });
    if !follow {
        return status;
    }
    out.flush();
    // The last file is followed, by its descriptor.
    let name = o.operands.last().copied().unwrap_or(b"-");
    let Ok(fd) = io::open_input(name) else { return 1 };
    let mut at = sys::seek(fd, 0, libc::SEEK_END).unwrap_or(0);
    while !out.is_broken() {
        let size = sys::fstat(fd).map_or(0, |s| s.st_size as u64);
        if size < at {
            at = sys::seek(fd, 0, libc::SEEK_SET).unwrap_or(0);
        }
        let more = io::read_to_end(fd).unwrap_or_default();
        at += more.len() as u64;
        out.put(&more);
        out.flush();
        if sys::sleep(200_000_000).is_err() {
            status = 1;
        }
    }
    status
}

pub fn wc(args: &[&[u8]]) -> i32 {
    let o = options!(args, "lwcm");
    let all = !(o.has(b'l') || o.has(b'w') || o.has(b'c') || o.has(b'm'));
    let mut out = Out::new(1);
    let mut total = [0u64; 3];
    let single = o.operands.len() <= 1 && [b'l', b'w', b'c', b'm'].iter().filter(|l| o.has(**l)).count() == 1;
    let mut show = |counts: [u64; 3], name: &[u8]| {
        let wanted = [o.has(b'l'), o.has(b'w'), o.has(b'c') || o.has(b'm')];
        let mut first = true;
        for (count, wanted) in counts.into_iter().zip(wanted) {
            if wanted || all {
                let gap = if core::mem::replace(&mut first, false) { "" } else { " " };
                if single { out!(out, "{count}") } else { out!(out, "{gap}{count:>7}") }
            }
        }
        if name != b"-" {
            out.put(b" ");
            out.put(name);
        }
        out.put(b"\n");
    };
    let status = each_input("wc", &o.operands, |name, fd| {
        let mut counts = [0u64; 3];
        let mut buffer = alloc::vec![0u8; 64 << 10];
        let mut in_word = false;
        while let Ok(n @ 1..) = sys::read(fd, &mut buffer) {
            counts[2] += n as u64;
            for byte in &buffer[..n] {
                counts[0] += u64::from(*byte == b'\n');
                let word = !byte.is_ascii_whitespace() && *byte != 11;
                counts[1] += u64::from(word && !in_word);
                in_word = word;
            }
        }
        (0..3).for_each(|i| total[i] += counts[i]);
        show(counts, name);
    });
    if o.operands.len() > 1 {
        show(total, b"total");
    }
    status
}

pub fn grep(args: &[&[u8]]) -> i32 {
    const LONG: [(&str, u8); 6] = [
        ("ignore-case", b'i'),
        ("invert-match", b'v'),
        ("line-number", b'n'),
        ("count", b'c'),
        ("quiet", b'q'),
        ("recursive", b'r'),
    ];
    let o = options!(args, "ivncqrRElLFsohHwxe:m:A:B:", &LONG);
    let mut operands = o.operands.clone();
    let mut patterns: Vec<&[u8]> = o.values(b'e');
    if patterns.is_empty() {
        if operands.is_empty() {
            err!("usage: grep [-ivncqrElFohwx] PATTERN [FILE...]");
            return 2;
        }
        patterns.push(operands.remove(0));
    }
    let extended = o.has(b'E') || args[0].ends_with(b"egrep");
    let fixed = o.has(b'F') || args[0].ends_with(b"fgrep");
    let mut regexes = Vec::new();
    for pattern in patterns.iter().flat_map(|p| p.split(|b| *b == b'\n')) {
        let mut text = pattern.to_vec();
        if fixed {
            text = pattern
                .iter()
                .flat_map(|b| if b"\\.[]*^$".contains(b) { Vec::from([b'\\', *b]) } else { Vec::from([*b]) })
                .collect();
        }
        let extended = extended && !fixed;
        let (open, close): (&[u8], &[u8]) = if extended { (b"(", b")") } else { (b"\\(", b"\\)") };
        if o.has(b'x') {
            text = [b"^", open, &text, close, b"$"].concat();
        } else if o.has(b'w') {
            text = [b"\\b", open, &text, close, b"\\b"].concat();
        }
        match Regex::new(&text, extended, o.has(b'i')) {
            Ok(regex) => regexes.push(regex),
            Err(message) => {
                err!("grep: {}: {message}", io::Text(pattern));
                return 2;
            }
        }
    }
    let number = |letter| o.value(letter).and_then(io::number).map(|n| n.max(0) as u64);
    let mut files: Vec<Vec<u8>> = Vec::new();
    let recursive = o.has(b'r') || o.has(b'R');
    if operands.is_empty() {
        operands.push(if recursive { b"." } else { b"-" });
    }
    for operand in &operands {
        if recursive {
            crate::files::walk(operand, &mut |path, _| files.push(path.to_vec()))
        } else {
            files.push(operand.to_vec())
        }
    }
    let names = (files.len() > 1 || recursive || o.has(b'H')) && !o.has(b'h');
    let mut out = Out::new(1);
    let (mut matched, mut failed) = (false, false);
    let (before, after) = (number(b'B').unwrap_or(0) as usize, number(b'A').unwrap_or(0));
    let most = number(b'm').unwrap_or(u64::MAX);
    for file in &files {
        if recursive && sys::stat(file, true).is_ok_and(|s| s.st_mode & libc::S_IFMT != libc::S_IFREG) {
            continue;
        }
        let fd = match io::open_input(file) {
            Ok(fd) => fd,
            Err(error) => {
                failed = true;
                if !o.has(b's') {
                    err!("grep: {}: {error}", io::Text(file));
                }
                continue;
            }
        };
        let shown: &[u8] = if file == b"-" { b"(standard input)" } else { file };
        let prefix = |out: &mut Out, at: u64, mark: u8| {
            if names {
                out.put(shown);
                out.put(&[mark]);
            }
            if o.has(b'n') {
                out!(out, "{at}{}", char::from(mark));
            }
        };
        let mut count = 0;
        let mut recent: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut trailing = 0;
        for (line, at) in Lines::new(fd).zip(1u64..) {
            let hit = regexes.iter().any(|r| r.is_match(&line)) != o.has(b'v');
            if !hit {
                if trailing > 0 {
                    trailing -= 1;
                    prefix(&mut out, at, b'-');
                    out.line(&line);
                } else if before > 0 {
                    if recent.len() == before {
                        recent.remove(0);
                    }
                    recent.push((at, line));
                }
                continue;
            }
            count += 1;
            matched = true;
            if o.has(b'q') {
                return 0;
            }
            if o.has(b'l') || o.has(b'L') {
                break;
            }
            if !o.has(b'c') {
                for (at, line) in recent.drain(..) {
                    prefix(&mut out, at, b'-');
                    out.line(&line);
                }
                if o.has(b'o') {
                    let mut from = 0;
                    while let Some(Some((start, end))) = regexes.iter().find_map(|r| r.find(&line, from)).map(|m| m[0])
                    {
                        if end > start {
                            prefix(&mut out, at, b':');
                            out.line(&line[start..end]);
                        }
                        from = end.max(start + 1);
                        if from > line.len() {
                            break;
                        }
                    }
                } else {
                    prefix(&mut out, at, b':');
                    out.line(&line);
                }
                trailing = after;
            }
            if count >= most {
                break;
            }
        }
        if (o.has(b'l') && count > 0) || (o.has(b'L') && count == 0) {
            out.line(shown);
        } else if o.has(b'c') {
            if names {
                out.put(shown);
                out.put(b":");
            }
            out!(out, "{count}\n");
        }
        if fd != 0 {
            sys::close(fd);
        }
    }
    if failed { 2 } else { i32::from(!matched) }
}

// ---- sed ----

enum Address {
    Line(u64),
    Last,
    Match(Regex),
}

enum Edit {
    Substitute { regex: Regex, with: Vec<u8>, every: bool, print: bool, nth: usize },
    Delete,
    Print,
    Quit,
    Number,
}

struct Instruction {
    from: Option<Address>,
    to: Option<Address>,
    negated: bool,
    inside: bool,
    edit: Edit,
}

/// Reads up to an unescaped delimiter; `\` and the delimiter become the delimiter.
fn delimited(text: &[u8], delimiter: u8) -> Option<(Vec<u8>, &[u8])> {
    let mut part = Vec::new();
    let mut at = 0;
    let mut in_brackets = false;
    while let Some(byte) = text.get(at).copied() {
        if byte == b'\\' {
            let next = *text.get(at + 1)?;
            if next != delimiter {
                part.push(b'\\');
            }
            part.push(next);
            at += 2;
            continue;
        }
        if byte == delimiter && !in_brackets {
            return Some((part, &text[at + 1..]));
        }
        match byte {
            b'[' if !in_brackets => in_brackets = true,
            b']' if in_brackets && !part.ends_with(b"[") && !part.ends_with(b"[^") => in_brackets = false,
            _ => {}
        }
        part.push(byte);
        at += 1;
    }
    None
}

fn parse_sed(mut text: &[u8], extended: bool) -> Result<(Instruction, &[u8]), String> {
    fn address<'a>(text: &mut &'a [u8], extended: bool) -> Result<Option<Address>, String> {
        let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits > 0 {
            let line = io::number(&text[..digits]).unwrap_or(0) as u64;
            *text = &text[digits..];
            return Ok(Some(Address::Line(line)));
        }
        match text.first() {
            Some(b'$') => {
                *text = &text[1..];
                Ok(Some(Address::Last))
            }
            Some(b'/') => {
                let (pattern, rest): (Vec<u8>, &'a [u8]) = delimited(&text[1..], b'/').ok_or("unterminated address")?;
                *text = rest;
                Ok(Some(Address::Match(Regex::new(&pattern, extended, false)?)))
            }
            _ => Ok(None),
        }
    }
    text = text.trim_ascii_start();
    let from = address(&mut text, extended)?;
    let mut to = None;
    if from.is_some() && text.first() == Some(&b',') {
        text = &text[1..];
        to = address(&mut text, extended)?;
        if to.is_none() {
            return Err("unexpected ,".into());
        }
    }
    text = text.trim_ascii_start();
    let negated = text.first() == Some(&b'!');
    text = text[usize::from(negated)..].trim_ascii_start();
    let Some((command, mut text)) = text.split_first() else { return Err("missing command".into()) };
    let edit = match command {
        b'd' => Edit::Delete,
        b'p' => Edit::Print,
        b'q' => Edit::Quit,
        b'=' => Edit::Number,
        b's' => {
            let Some((delimiter, rest)) = text.split_first() else { return Err("unterminated s".into()) };
            let (pattern, rest) = delimited(rest, *delimiter).ok_or("unterminated s")?;
            // In the replacement brackets mean nothing.
            let mut with = Vec::new();
            let mut at = 0;
            loop {
                match rest.get(at) {
                    None => return Err("unterminated s".into()),
                    Some(b'\\') if rest.get(at + 1) == Some(delimiter) => {
                        with.push(*delimiter);
                        at += 2;
                    }
                    Some(b'\\') => {
                        with.extend_from_slice(rest.get(at..at + 2).ok_or("unterminated s")?);
                        at += 2;
                    }
                    Some(b) if b == delimiter => break,
                    Some(b) => {
                        with.push(*b);
                        at += 1;
                    }
                }
            }
            text = &rest[at + 1..];
            let (mut every, mut print, mut fold, mut nth) = (false, false, false, 1);
            while let Some(flag) = text.first() {
                match flag {
                    b'g' => every = true,
                    b'p' => print = true,
                    b'i' | b'I' => fold = true,
                    b'1'..=b'9' => nth = usize::from(flag - b'0'),
                    _ => break,
                }
                text = &text[1..];
            }
            Edit::Substitute { regex: Regex::new(&pattern, extended, fold)?, with, every, print, nth }
        }
        other => return Err(alloc::format!("unknown command {}", char::from(*other))),
    };
    Ok((Instruction { from, to, negated, inside: false, edit }, text))
}

fn substitute(line: &[u8], regex: &Regex, with: &[u8], every: bool, nth: usize) -> Option<Vec<u8>> {
    let mut result = Vec::new();
    let (mut at, mut copied, mut seen, mut changed) = (0, 0, 0, false);
    while at <= line.len() {
        let Some(found) = regex.find(line, at) else { break };
        let Some((start, end)) = found[0] else { break };
        seen += 1;
        if seen >= nth {
            changed = true;
            result.extend_from_slice(&line[copied..start]);
            replacement(&mut result, line, with, &found);
            copied = end;
        }
        at = end.max(start + 1);
        // An empty match right after a match is none (`s/x*/-/g` on `abxc`).
        if end > start && regex.find(line, end).is_some_and(|m| m[0] == Some((end, end))) && end < line.len() {
            at = end;
            let skip = regex.find(line, end + 1);
            if seen >= nth {
                result.push(line[end]);
                copied = end + 1;
            }
            at += 1;
            if skip.is_none() {
                break;
            }
        }
        if changed && !every {
            break;
        }
        if end == line.len() && end > start {
            break;
        }
    }
    result.extend_from_slice(&line[copied.min(line.len())..]);
    changed.then_some(result)
}

fn replacement(result: &mut Vec<u8>, line: &[u8], with: &[u8], found: &Match) {
    let group = |result: &mut Vec<u8>, index: usize| {
        if let Some(Some((start, end))) = found.get(index) {
            result.extend_from_slice(&line[*start..*end]);
        }
    };
    let mut bytes = with.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'&' => group(result, 0),
            b'\\' => match bytes.next() {
                Some(digit @ b'0'..=b'9') => group(result, usize::from(digit - b'0')),
                Some(b'n') => result.push(b'\n'),
                Some(b't') => result.push(b'\t'),
                other => result.extend(other),
            },
            _ => result.push(*byte),
        }
    }
}

pub fn sed(args: &[&[u8]]) -> i32 {
    let o = options!(args, "nErie:s");
    let mut operands = o.operands.clone();
    let mut scripts = o.values(b'e');
    if scripts.is_empty() {
        if operands.is_empty() {
            err!("usage: sed [-nEi] SCRIPT [FILE...]");
            return 2;
        }
        scripts.push(operands.remove(0));
    }
    let mut program = Vec::new();
    for script in scripts {
        let mut rest = script;
        loop {
            rest = &rest[rest.iter().take_while(|b| b.is_ascii_whitespace() || **b == b';').count()..];
            if rest.is_empty() {
                break;
            }
            match parse_sed(rest, o.has(b'E') || o.has(b'r')) {
                Ok((instruction, after)) => {
                    program.push(instruction);
                    rest = after.trim_ascii_start();
                    if !rest.is_empty() && !after.starts_with(b"\n") && rest[0] != b';' {
                        err!("sed: extra characters after command: {}", io::Text(rest));
                        return 2;
                    }
                }
                Err(message) => {
                    err!("sed: {}: {message} (this sed knows s, p, d, q and =)", io::Text(script));
                    return 2;
                }
            }
        }
    }
    let in_place = o.has(b'i');
    let mut status = 0;
    if !in_place {
        let mut out = Out::new(1);
        let mut number = 0;
        let mut quit = false;
        let count = operands.len().max(1);
        let mut index = 0;
        return each_input("sed", &operands, |_, fd| {
            index += 1;
            if !quit {
                quit = edit_lines(&mut program, Lines::new(fd), index == count, &mut number, o.has(b'n'), &mut out);
            }
        });
    }
    for file in &operands {
        let result = io::open_input(file).and_then(|fd| {
            let mode = sys::fstat(fd)?.st_mode & 0o7777;
            let temporary = [file, &b".sed-new"[..]].concat();
            let new = sys::open(&temporary, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, mode)?;
            let mut out = Out::new(new);
            edit_lines(&mut program, Lines::new(fd), true, &mut 0, o.has(b'n'), &mut out);
            drop(out);
            sys::close(fd);
            sys::close(new);
            sys::rename(&temporary, file)
        });
        if let Err(error) = result {
            err!("sed: {}: {error}", io::Text(file));
            status = 1;
        }
    }
    status
}

/// Runs the program over the lines; whether `q` ended it.
fn edit_lines(
    program: &mut [Instruction],
    lines: Lines,
    last_file: bool,
    number: &mut u64,
    silent: bool,
    out: &mut Out,
) -> bool {
    let mut lines = lines.peekable();
    while let Some(mut line) = lines.next() {
        *number += 1;
        let last = last_file && lines.peek().is_none();
        let (mut deleted, mut quit) = (false, false);
        for instruction in program.iter_mut() {
            let hit = |address: &Address| match address {
                Address::Line(n) => n == number,
                Address::Last => last,
                Address::Match(regex) => regex.is_match(&line),
            };
            let selected = match (&instruction.from, &instruction.to) {
                (None, _) => true,
                (Some(from), None) => hit(from),
                (Some(from), Some(to)) => {
                    if instruction.inside {
                        instruction.inside = !(hit(to) || matches!(to, Address::Line(n) if *n <= *number));
                        true
                    } else {
                        let starts = hit(from);
                        instruction.inside = starts
                            && !matches!(to, Address::Line(n) if *n <= *number)
                            && !(last && matches!(to, Address::Last));
                        starts
                    }
                }
            };
            if selected == instruction.negated {
                continue;
            }
            match &instruction.edit {
                Edit::Delete => {
                    deleted = true;
                    break;
                }
                Edit::Print => out.line(&line),
                Edit::Number => out!(out, "{number}\n"),
                Edit::Quit => {
                    quit = true;
                    break;
                }
                Edit::Substitute { regex, with, every, print, nth } => {
                    if let Some(new) = substitute(&line, regex, with, *every, *nth) {
                        line = new;
                        if *print {
                            out.line(&line);
                        }
                    }
                }
            }
        }
        if !deleted && !silent {
            out.line(&line);
        }
        if quit {
            return true;
        }
    }
    false
}

// ---- sort and its companions ----

/// The leading number of a field, as `sort -n` reads it.
fn leading_number(text: &[u8]) -> f64 {
    let text = text.trim_ascii_start();
    let end = text
        .iter()
        .enumerate()
        .take_while(|(i, b)| b.is_ascii_digit() || **b == b'.' || (*i == 0 && **b == b'-'))
        .count();
    core::str::from_utf8(&text[..end]).ok().and_then(|t| t.parse().ok()).unwrap_or(0.0)
}

fn human_number(text: &[u8]) -> f64 {
    let text = text.trim_ascii_start();
    let end = text.iter().take_while(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-')).count();
    let power = match text.get(end).map(u8::to_ascii_uppercase) {
        Some(b'K') => 1,
        Some(b'M') => 2,
        Some(b'G') => 3,
        Some(b'T') => 4,
        _ => 0,
    };
    (0..power).fold(leading_number(text), |n, _| n * 1024.0)
}

struct Key {
    first: usize,
    last: usize,
    numeric: bool,
    reverse: bool,
}

pub fn sort(args: &[&[u8]]) -> i32 {
    let o = options!(args, "nrufhbsc t:k:o:", &[("reverse", b'r'), ("numeric-sort", b'n'), ("unique", b'u')]);
    let mut lines: Vec<Vec<u8>> = Vec::new();
    let status = each_input("sort", &o.operands, |_, fd| lines.extend(Lines::new(fd)));
    let separator = o.value(b't').and_then(|t| t.first().copied());
    let mut keys = Vec::new();
    for spec in o.values(b'k') {
        let mut parts = spec.splitn(2, |b| *b == b',');
        let field = |text: &[u8]| {
            let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
            io::number(&text[..digits]).filter(|n| *n > 0).map(|n| n as usize)
        };
        let Some(first) = parts.next().and_then(field) else {
            err!("sort: bad key: {}", io::Text(spec));
            return 2;
        };
        let last = parts.next().map_or(usize::MAX, |t| field(t).unwrap_or(usize::MAX));
        keys.push(Key { first, last, numeric: spec.contains(&b'n'), reverse: spec.contains(&b'r') });
    }
    let part = |line: &[u8], key: &Key| -> Vec<u8> {
        let fields: Vec<&[u8]> = match separator {
            Some(separator) => line.split(|b| *b == separator).collect(),
            None => io::words(line).collect(),
        };
        let last = key.last.min(fields.len());
        fields.get(key.first - 1..last).map(|f| f.join(&separator.unwrap_or(b' '))).unwrap_or_default()
    };
    let (numeric, human, fold, reverse) = (o.has(b'n'), o.has(b'h'), o.has(b'f'), o.has(b'r'));
    let compare = |a: &[u8], b: &[u8], numeric: bool| {
        if human {
            human_number(a).total_cmp(&human_number(b))
        } else if numeric {
            leading_number(a).total_cmp(&leading_number(b))
        } else if fold {
            a.to_ascii_lowercase().cmp(&b.to_ascii_lowercase())
        } else {
            a.cmp(b)
        }
    };
    let by_keys = |a: &Vec<u8>, b: &Vec<u8>| {
        if keys.is_empty() {
            let order = compare(a, b, numeric);
            return if reverse { order.reverse() } else { order };
        }
        for key in &keys {
            let order = compare(&part(a, key), &part(b, key), numeric || key.numeric);
            if order != Ordering::Equal {
                return if reverse != key.reverse { order.reverse() } else { order };
            }
        }
        Ordering::Equal
    };
    if o.has(b'c') {
        return i32::from(!lines.is_sorted_by(|a, b| by_keys(a, b) != Ordering::Greater));
    }
    lines.sort_by(|a, b| {
        let last = || if reverse { b.cmp(a) } else { a.cmp(b) };
        let order = by_keys(a, b);
        if o.has(b'u') || o.has(b's') { order } else { order.then_with(last) }
    });
    if o.has(b'u') {
        lines.dedup_by(|a, b| by_keys(a, b) == Ordering::Equal);
    }
    let fd = match o.value(b'o').map(|name| sys::open(name, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, 0o666)) {
        None => 1,
        Some(Ok(fd)) => fd,
        Some(Err(error)) => {
            err!("sort: {}: {error}", io::Text(o.value(b'o').unwrap_or_default()));
            return 2;
        }
    };
    let mut out = Out::new(fd);
    lines.iter().for_each(|line| out.line(line));
    status * 2
}

pub fn uniq(args: &[&[u8]]) -> i32 {
    let o = options!(args, "cdui");
    let mut out = Out::new(1);
    let mut show = |line: &[u8], count: u64| {
        if (o.has(b'd') && count < 2) || (o.has(b'u') && count > 1) {
            return;
        }
        if o.has(b'c') {
            out!(out, "{count:7} ");
        }
        out.line(line);
    };
    each_input("uniq", &o.operands[..o.operands.len().min(1)], |_, fd| {
        let mut current: Option<(Vec<u8>, u64)> = None;
        for line in Lines::new(fd) {
            match &mut current {
                Some((same, count)) if *same == line || (o.has(b'i') && same.eq_ignore_ascii_case(&line)) => {
                    *count += 1
                }
                _ => {
                    if let Some((line, count)) = current.replace((line, 1)) {
                        show(&line, count);
                    }
                }
            }
        }
        if let Some((line, count)) = current {
            show(&line, count);
        }
    })
}

pub fn cut(args: &[&[u8]]) -> i32 {
    let o = options!(args, "f:d:c:b:s");
    let by_fields = o.value(b'f');
    let Some(list) = by_fields.or(o.value(b'c')).or(o.value(b'b')) else {
        err!("cut: needs -f, -c or -b with a list");
        return 2;
    };
    let mut ranges = Vec::new();
    for range in list.split(|b| *b == b',') {
        let dash = range.iter().position(|b| *b == b'-');
        let end = |text: &[u8], default: usize| {
            if text.is_empty() { Some(default) } else { io::number(text).filter(|n| *n > 0).map(|n| n as usize) }
        };
        let (low, high) = match dash {
            Some(at) if range.len() > 1 => (end(&range[..at], 1), end(&range[at + 1..], usize::MAX)),
            Some(_) => (None, None),
            None => (end(range, 0).filter(|n| *n > 0), end(range, 0)),
        };
        let (Some(low), Some(high)) = (low, high) else {
            err!("cut: bad list: {}", io::Text(list));
            return 2;
        };
        ranges.push(low..=high);
    }
    let wanted = |index: usize| ranges.iter().any(|r| r.contains(&(index + 1)));
    let delimiter = o.value(b'd').and_then(|d| d.first().copied()).unwrap_or(b'\t');
    let mut out = Out::new(1);
    each_input("cut", &o.operands, |_, fd| {
        for line in Lines::new(fd) {
            if by_fields.is_none() {
                let kept: Vec<u8> = line.iter().enumerate().filter(|(i, _)| wanted(*i)).map(|(_, b)| *b).collect();
                out.line(&kept);
            } else if !line.contains(&delimiter) {
                if !o.has(b's') {
                    out.line(&line);
                }
            } else {
                let fields = line.split(|b| *b == delimiter).enumerate();
                let kept: Vec<&[u8]> = fields.filter(|(i, _)| wanted(*i)).map(|(_, f)| f).collect();
                out.line(&kept.join(&delimiter));
            }
        }
    })
}

/// The bytes a set of `tr` stands for.
fn tr_set(text: &[u8]) -> Vec<u8> {
    let mut rest = text;
    let mut set = Vec::new();
    while let Some(byte) = rest.first().copied() {
        if byte == b'['
            && rest.get(1) == Some(&b':')
            && let Some(end) = rest[2..].windows(2).position(|w| w == b":]")
        {
            set.extend((0..=255u8).filter(|b| pattern::class(&rest[2..2 + end], *b)));
            rest = &rest[end + 4..];
            continue;
        }
        let (byte, used) = match byte {
            b'\\' => match escape(&rest[1..], false) {
                Some((bytes, used)) if bytes.len() == 1 => (bytes[0], used + 1),
                _ => (rest.get(1).copied().unwrap_or(b'\\'), 2.min(rest.len())),
            },
            _ => (byte, 1),
        };
        rest = &rest[used..];
        if rest.first() == Some(&b'-') && rest.len() > 1 {
            let high = rest[1];
            if high >= byte {
                set.extend(byte..=high);
                rest = &rest[2..];
                continue;
            }
        }
        set.push(byte);
    }
    set
}

pub fn tr(args: &[&[u8]]) -> i32 {
    let o = options!(args, "cCds");
    let sets: Vec<Vec<u8>> = o.operands.iter().map(|s| tr_set(s)).collect();
    let Some(first) = sets.first() else {
        err!("usage: tr [-cds] SET1 [SET2]");
        return 2;
    };
    let complement = o.has(b'c') || o.has(b'C');
    let first: Vec<u8> = if complement { (0..=255u8).filter(|b| !first.contains(b)).collect() } else { first.clone() };
    let delete = o.has(b'd');
    let mut map: Vec<Option<u8>> = (0..=255u8).map(Some).collect();
    for (index, byte) in first.iter().enumerate() {
        map[usize::from(*byte)] = match sets.get(1) {
            _ if delete => None,
            Some(to) if !to.is_empty() => Some(to[index.min(to.len() - 1)]),
            _ => Some(*byte),
        };
    }
    let squeezed: &[u8] = if o.has(b's') { sets.get(1).unwrap_or(&first) } else { &[] };
    let mut out = Out::new(1);
    let mut last = None;
    let mut buffer = alloc::vec![0u8; 32 << 10];
    while let Ok(n @ 1..) = sys::read(0, &mut buffer) {
        for byte in &buffer[..n] {
            if let Some(new) = map[usize::from(*byte)] {
                if last == Some(new) && squeezed.contains(&new) {
                    continue;
                }
                out.put(&[new]);
                last = Some(new);
            }
        }
        out.flush();
    }
    0
}

pub fn seq(args: &[&[u8]]) -> i32 {
    let mut operands = args[1..].to_vec();
    let mut separator: &[u8] = b"\n";
    let mut wide = false;
    // Not the common parser: an operand may be a negative number.
    while let Some(option) = operands.first().copied().filter(|o| o.starts_with(b"-s") || *o == b"-w") {
        operands.remove(0);
        match option {
            b"-w" => wide = true,
            b"-s" if !operands.is_empty() => separator = operands.remove(0),
            attached => separator = &attached[2..],
        }
    }
    let parse =
        |text: &[u8]| core::str::from_utf8(text).ok().and_then(|t| t.parse::<f64>().ok()).filter(|n| n.is_finite());
    let numbers: Option<Vec<f64>> = operands.iter().map(|t| parse(t)).collect();
    let (first, step, last) = match numbers.as_deref() {
        Some([last]) => (1.0, 1.0, *last),
        Some([first, last]) => (*first, 1.0, *last),
        Some([first, step, last]) if *step != 0.0 => (*first, *step, *last),
        _ => {
            err!("usage: seq [-w] [-s SEPARATOR] [FIRST [STEP]] LAST");
            return 1;
        }
    };
    let decimals =
        operands.iter().map(|t| t.iter().position(|b| *b == b'.').map_or(0, |at| t.len() - at - 1)).max().unwrap_or(0);
    let width = if wide {
        [first, last].map(|n| alloc::format!("{n:.decimals$}").len()).into_iter().max().unwrap_or(0)
    } else {
        0
    };
    let mut out = Out::new(1);
    let mut turn = 0u64;
    let slack = step.abs() * 1e-9;
    loop {
        let value = first + turn as f64 * step;
        if (step > 0.0 && value > last + slack) || (step < 0.0 && value < last - slack) || out.is_broken() {
            break;
        }
        if turn > 0 {
            out.put(separator);
        }
        out!(out, "{value:0width$.decimals$}");
        turn += 1;
    }
    if turn > 0 {
        out.put(b"\n");
    }
    0
}

pub fn tee(args: &[&[u8]]) -> i32 {
    let o = options!(args, "ai");
    let flags = libc::O_WRONLY | libc::O_CREAT | if o.has(b'a') { libc::O_APPEND } else { libc::O_TRUNC };
    let mut status = 0;
    let mut outputs = Vec::from([1]);
    for name in &o.operands {
        match sys::open(name, flags, 0o666) {
            Ok(fd) => outputs.push(fd),
            Err(error) => {
                err!("tee: {}: {error}", io::Text(name));
                status = 1;
            }
        }
    }
    let mut buffer = alloc::vec![0u8; 32 << 10];
    while let Ok(n @ 1..) = sys::read(0, &mut buffer) {
        for fd in &outputs {
            if sys::write_all(*fd, &buffer[..n]).is_err() {
                status = 1;
            }
        }
    }
    status
}

pub fn yes(args: &[&[u8]]) -> i32 {
    let line = if args.len() > 1 { args[1..].join(&b' ') } else { b"y".to_vec() };
    let mut out = Out::new(1);
    while !out.is_broken() {
        out.line(&line);
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sub(line: &str, pattern: &str, with: &str, every: bool) -> Option<String> {
        let regex = Regex::new(pattern.as_bytes(), false, false).unwrap();
        substitute(line.as_bytes(), &regex, with.as_bytes(), every, 1).map(|v| String::from_utf8(v).unwrap())
    }

    #[test]
    fn substitution_handles_groups_empty_matches_and_all() {
        assert_eq!(sub("hello", "l", "L", false).as_deref(), Some("heLlo"));
        assert_eq!(sub("hello", "l", "L", true).as_deref(), Some("heLLo"));
        assert_eq!(sub("ab", r"\(a\)\(b\)", r"\2\1&", false).as_deref(), Some("baab"));
        assert_eq!(sub("abxc", "x*", "-", true).as_deref(), Some("-a-b-c-"));
        assert_eq!(sub("abc", "x", "y", true), None);
    }

    #[test]
    fn numbers_print_as_c_prints_them() {
        assert_eq!(general_form(0.0001, 6, false), "0.0001");
        assert_eq!(general_form(1e10, 6, false), "1e+10");
        assert_eq!(general_form(3.5, 6, false), "3.5");
        assert_eq!(exponent_form(12345.678, 2, false), "1.23e+04");
    }
}
