//! The commands that must run in the shell's own process, and some that do so for speed.

use super::{Flow, OPTION_NAMES, Shell, Variable, parse};
use crate::sys::{self, Errno};
use crate::{err, exec, io, out, signals};
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

type Result = core::result::Result<i32, Flow>;
pub(super) type Builtin = fn(&mut Shell, &[&[u8]]) -> Result;

/// Whether POSIX calls it special: its assignments stay, its errors end a script.
pub(super) fn is_special(name: &[u8]) -> bool {
    const SPECIAL: [&str; 15] = [
        ".", ":", "break", "continue", "eval", "exec", "exit", "export", "readonly", "return", "set", "shift", "times",
        "trap", "unset",
    ];
    SPECIAL.iter().any(|s| s.as_bytes() == name)
}

pub(super) fn find(name: &[u8]) -> Option<Builtin> {
    Some(match name {
        b":" | b"true" => |_, _| Ok(0),
        b"false" => |_, _| Ok(1),
        b"." => dot,
        b"break" => |shell, args| leave_loop(shell, args, true),
        b"continue" => |shell, args| leave_loop(shell, args, false),
        b"cd" => cd,
        b"command" => command,
        b"eval" => |shell, args| shell.evaluate(&args[1..].join(&b' '), false),
        b"exec" => |shell, args| {
            if args.len() == 1 {
                return Ok(0);
            }
            let status = shell.exec(&args[1..]);
            Err(Flow::Exit(status))
        },
        b"exit" => |shell, args| status_argument(shell, args).and_then(|status| Err(Flow::Exit(status))),
        b"return" => |shell, args| status_argument(shell, args).and_then(|status| Err(Flow::Return(status))),
        b"export" => |shell, args| declare(shell, args, true),
        b"readonly" => |shell, args| declare(shell, args, false),
        b"getopts" => getopts,
        b"hash" | b"alias" | b"unalias" => |_, _| Ok(0),
        b"jobs" => jobs,
        b"local" => local,
        b"pwd" => pwd,
        b"read" => read,
        b"set" => set,
        b"shift" => shift,
        b"times" => times,
        b"trap" => trap,
        b"type" => |shell, args| describe(shell, &args[1..], true),
        b"ulimit" => ulimit,
        b"umask" => umask,
        b"unset" => unset,
        b"wait" => wait,
        b"kill" => kill,
        b"echo" => |_, args| Ok(crate::text::echo(args)),
        b"printf" => |_, args| Ok(crate::text::printf(args)),
        b"test" | b"[" => |_, args| Ok(crate::test::test(args)),
        _ => return None,
    })
}

fn status_argument(shell: &mut Shell, args: &[&[u8]]) -> Result {
    match args.get(1) {
        None => Ok(shell.status),
        Some(text) => match io::number(text) {
            Some(n) if n >= 0 => Ok((n & 0xff) as i32),
            _ => shell.fail(args[0], &format!("Illegal number: {}", io::Text(text)), 2),
        },
    }
}

fn dot(shell: &mut Shell, args: &[&[u8]]) -> Result {
    let Some(name) = args.get(1) else { return shell.fail(b".", "needs a file", 2) };
    let mut path = name.to_vec();
    if !name.contains(&b'/') {
        let search = shell.get(b"PATH").unwrap_or_default();
        let mut places = search.split(|b| *b == b':').map(|d| io::join(d, name));
        match places.find(|p| sys::access(p, libc::R_OK).is_ok()) {
            Some(found) => path = found,
            None => return shell.fail(name, "not found", 2),
        }
    }
    let text = match io::read_file(&path) {
        Ok(text) => text,
        Err(error) => return shell.fail(name, &error.to_string(), 2),
    };
    match shell.evaluate(&text, false) {
        Err(Flow::Return(status)) => Ok(status),
        other => other,
    }
}

fn leave_loop(shell: &mut Shell, args: &[&[u8]], leave: bool) -> Result {
    let levels = match args.get(1) {
        None => 1,
        Some(text) => match io::number(text) {
            Some(n) if n > 0 => n as usize,
            _ => return shell.fail(args[0], &format!("Illegal number: {}", io::Text(text)), 2),
        },
    };
    let levels = levels.min(shell.loops);
    match levels {
        0 => Ok(0),
        n if leave => Err(Flow::Break(n)),
        n => Err(Flow::Continue(n)),
    }
}

fn cd(shell: &mut Shell, args: &[&[u8]]) -> Result {
    let mut operands = args[1..].iter().copied().peekable();
    let mut physical = false;
    while let Some(option) = operands.next_if(|o| matches!(*o, b"-P" | b"-L" | b"--")) {
        physical = option == b"-P";
        if option == b"--" {
            break;
        }
    }
    let operand = operands.next();
    let target = match operand {
        None => shell.get(b"HOME"),
        Some(b"-") => shell.get(b"OLDPWD"),
        Some(directory) => Some(directory.to_vec()),
    };
    let Some(target) = target else {
        err!("sh: cd: {} not set", if operand.is_none() { "HOME" } else { "OLDPWD" });
        return Ok(2);
    };
    let old = shell.get(b"PWD").or_else(|| sys::getcwd().ok()).unwrap_or_default();
    let logical = normalise(&if target.starts_with(b"/") { target.clone() } else { io::join(&old, &target) });
    let result = if physical { sys::chdir(&target) } else { sys::chdir(&logical).or_else(|_| sys::chdir(&target)) };
    if let Err(error) = result {
        err!("sh: cd: can't cd to {}: {error}", io::Text(&target));
        return Ok(2);
    }
    let now = if physical { sys::getcwd().unwrap_or(logical) } else { logical };
    if operand == Some(b"-") {
        io::Out::new(1).line(&now);
    }
    shell.set(b"OLDPWD", old)?;
    shell.set(b"PWD", now)?;
    Ok(0)
}

/// Removes `.` and resolves `..` by name.
fn normalise(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    [b"/", parts.join(&b'/').as_slice()].concat()
}

fn pwd(shell: &mut Shell, args: &[&[u8]]) -> Result {
    let logical = shell.get(b"PWD").filter(|_| args.get(1) != Some(&&b"-P"[..]));
    match logical.map_or_else(sys::getcwd, Ok) {
        Ok(directory) => {
            io::Out::new(1).line(&directory);
            Ok(i32::from(io::output_failed()))
        }
        Err(error) => {
            io::complain(b"sh: pwd", &error);
            Ok(1)
        }
    }
}

fn command(shell: &mut Shell, args: &[&[u8]]) -> Result {
    match args.get(1).copied() {
        None => Ok(0),
        Some(option @ (b"-v" | b"-V")) => describe(shell, &args[2..], option == b"-V"),
        Some(b"-p" | b"--") => command(shell, &args[1..]),
        Some(name) => match find(name) {
            Some(builtin) => builtin(shell, &args[1..]),
            None => {
                let Some(pid) = shell.fork_plain()? else {
                    shell.enter_child();
                    sys::exit(shell.exec(&args[1..]))
                };
                Ok(shell.wait_for(pid).status())
            }
        },
    }
}

/// `command -v` and `type`.
fn describe(shell: &mut Shell, names: &[&[u8]], verbose: bool) -> Result {
    const RESERVED: [&str; 16] = [
        "if", "then", "else", "elif", "fi", "do", "done", "case", "esac", "while", "until", "for", "in", "{", "}", "!",
    ];
    let mut out = io::Out::new(1);
    let mut status = 0;
    for name in names {
        let path = shell.get(b"PATH").unwrap_or_default();
        let (what, answer) = if RESERVED.iter().any(|r| r.as_bytes() == *name) {
            ("a shell keyword", name.to_vec())
        } else if is_special(name) {
            ("a special shell builtin", name.to_vec())
        } else if shell.functions.contains_key(*name) {
            ("a shell function", name.to_vec())
        } else if find(name).is_some() {
            ("a shell builtin", name.to_vec())
        } else if let Ok(found) = exec::find(name, &path) {
            ("", found)
        } else if crate::applet(name).is_some() {
            ("an applet of the toolbox", name.to_vec())
        } else {
            if verbose {
                out!(out, "{}: not found\n", io::Text(name));
            }
            status = 127;
            continue;
        };
        if !verbose {
            out.line(&answer);
        } else if what.is_empty() {
            out!(out, "{} is {}\n", io::Text(name), io::Text(&answer));
        } else {
            out!(out, "{} is {what}\n", io::Text(name));
        }
    }
    Ok(status)
}

fn declare(shell: &mut Shell, args: &[&[u8]], export: bool) -> Result {
    let operands: Vec<_> = args[1..].iter().filter(|a| ***a != *b"-p" && ***a != *b"--").collect();
    if operands.is_empty() {
        let mut out = io::Out::new(1);
        for (name, variable) in &shell.variables {
            if if export { variable.exported } else { variable.read_only } {
                out!(out, "{} {}", io::Text(args[0]), io::Text(name));
                if let Some(value) = &variable.value {
                    out.put(b"=");
                    out.put(&quote(value));
                }
                out.put(b"\n");
            }
        }
        return Ok(0);
    }
    for operand in operands {
        let (name, value) = split_assignment(operand);
        if !parse::is_name(name) {
            return shell.fail(args[0], &format!("{}: bad variable name", io::Text(name)), 2);
        }
        if let Some(value) = value {
            shell.set(name, value.to_vec())?;
        }
        let variable = shell.variables.entry(name.to_vec()).or_default();
        if export {
            variable.exported = true;
        } else {
            variable.read_only = true;
        }
    }
    Ok(0)
}

fn split_assignment(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|b| *b == b'=') {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// Quoted so that the shell reads it back as one word.
fn quote(value: &[u8]) -> Vec<u8> {
    let mut quoted = b"'".to_vec();
    for byte in value {
        if *byte == b'\'' {
            quoted.extend_from_slice(b"'\\''");
        } else {
            quoted.push(*byte);
        }
    }
    quoted.push(b'\'');
    quoted
}

fn local(shell: &mut Shell, args: &[&[u8]]) -> Result {
    if shell.locals.is_empty() {
        return shell.fail(b"local", "not in a function", 2);
    }
    for operand in &args[1..] {
        let (name, value) = split_assignment(operand);
        if !parse::is_name(name) {
            return shell.fail(b"local", &format!("{}: bad variable name", io::Text(name)), 2);
        }
        let old = shell.variables.get(name).cloned();
        if let Some(frame) = shell.locals.last_mut()
            && !frame.iter().any(|(n, _)| n == name)
        {
            frame.push((name.to_vec(), old));
        }
        if let Some(value) = value {
            shell.set(name, value.to_vec())?;
        }
    }
    Ok(0)
}

fn unset(shell: &mut Shell, args: &[&[u8]]) -> Result {
    let (functions, operands) = match args.get(1).copied() {
        Some(b"-f") => (true, &args[2..]),
        Some(b"-v") => (false, &args[2..]),
        _ => (false, &args[1..]),
    };
    for name in operands {
        if functions {
            shell.functions.remove(*name);
        } else if shell.variables.get(*name).is_some_and(|v| v.read_only) {
            return shell.fail(name, "is read only", 2);
        } else {
            shell.variables.remove(*name);
        }
    }
    Ok(0)
}

fn set(shell: &mut Shell, args: &[&[u8]]) -> Result {
    if args.len() == 1 {
        let mut out = io::Out::new(1);
        for (name, Variable { value, .. }) in &shell.variables {
            if let Some(value) = value {
                out.put(name);
                out.put(b"=");
                out.line(&quote(value));
            }
        }
        return Ok(0);
    }
    let mut rest = &args[1..];
    while let Some(first) = rest.first()
        && (first.starts_with(b"-") || first.starts_with(b"+"))
        && first.len() > 1
    {
        rest = &rest[1..];
        let on = first[0] == b'-';
        if *first == b"--" {
            shell.arguments = rest.iter().map(|a| a.to_vec()).collect();
            return Ok(0);
        }
        for letter in &first[1..] {
            if *letter != b'o' {
                if !shell.option(*letter, on) {
                    return shell.fail(b"set", &format!("Illegal option -{}", char::from(*letter)), 2);
                }
                continue;
            }
            let Some(name) = rest.first() else {
                let mut out = io::Out::new(1);
                for (name, letter) in OPTION_NAMES {
                    let state = shell.option_field(letter).is_some_and(|f| *f);
                    out!(out, "{name:<16}{}\n", if state { "on" } else { "off" });
                }
                out!(out, "{:<16}{}\n", "pipefail", if shell.options.pipe_fail { "on" } else { "off" });
                return Ok(0);
            };
            rest = &rest[1..];
            if !shell.named_option(name, on) {
                return shell.fail(b"set", &format!("Illegal option -o {}", io::Text(name)), 2);
            }
        }
    }
    if !rest.is_empty() {
        shell.arguments = rest.iter().map(|a| a.to_vec()).collect();
    }
    Ok(0)
}

fn shift(shell: &mut Shell, args: &[&[u8]]) -> Result {
    let count = match args.get(1) {
        None => 1,
        Some(text) => match io::number(text) {
            Some(n) if n >= 0 => n as usize,
            _ => return shell.fail(b"shift", &format!("Illegal number: {}", io::Text(text)), 2),
        },
    };
    if count > shell.arguments.len() {
        return shell.fail(b"shift", "can't shift that many", 2);
    }
    shell.arguments.drain(..count);
    Ok(0)
}

fn read(shell: &mut Shell, args: &[&[u8]]) -> Result {
    let mut names = &args[1..];
    let mut raw = false;
    while let Some(option) = names.first()
        && option.starts_with(b"-")
    {
        names = &names[1..];
        match *option {
            b"-r" => raw = true,
            b"-p" => {
                io::Out::new(2).put(names.first().unwrap_or(&&b""[..]));
                names = names.get(1..).unwrap_or(&[]);
            }
            b"--" => break,
            _ => return shell.fail(b"read", &format!("Illegal option {}", io::Text(option)), 2),
        }
    }
    let names: Vec<&[u8]> = if names.is_empty() { Vec::from([&b"REPLY"[..]]) } else { names.to_vec() };
    if let Some(bad) = names.iter().find(|n| !parse::is_name(n)) {
        return shell.fail(b"read", &format!("{}: bad variable name", io::Text(bad)), 2);
    }
    // A byte at a time: what follows the line belongs to the next command. The flag marks escaped bytes.
    let mut line: Vec<(u8, bool)> = Vec::new();
    let mut status = 1;
    let mut byte = [0u8; 1];
    let mut escaped = false;
    loop {
        match sys::read_once(0, &mut byte) {
            Ok(1) => {}
            Err(Errno(libc::EINTR)) => {
                shell.run_traps()?;
                continue;
            }
            _ => break,
        }
        if escaped {
            escaped = false;
            if byte[0] != b'\n' {
                line.push((byte[0], true));
            }
        } else if byte[0] == b'\\' && !raw {
            escaped = true;
        } else if byte[0] == b'\n' {
            status = 0;
            break;
        } else if byte[0] != 0 {
            line.push((byte[0], false));
        }
    }
    let separators = shell.get(b"IFS").unwrap_or_else(|| b" \t\n".to_vec());
    let blank = |(b, escaped): &(u8, bool)| !escaped && separators.contains(b) && b.is_ascii_whitespace();
    let hard = |(b, escaped): &(u8, bool)| !escaped && separators.contains(b) && !b.is_ascii_whitespace();
    let skip = |rest: &[(u8, bool)]| rest.iter().take_while(|b| blank(b)).count();
    let mut rest = &line[skip(&line)..];
    for (index, name) in names.iter().enumerate() {
        let value: &[(u8, bool)];
        if index + 1 < names.len() {
            let end = rest.iter().position(|b| blank(b) || hard(b)).unwrap_or(rest.len());
            value = &rest[..end];
            rest = &rest[end..];
            rest = &rest[skip(rest)..];
            if rest.first().is_some_and(hard) {
                rest = &rest[1..];
                rest = &rest[skip(rest)..];
            }
        } else {
            let mut end = rest.len() - rest.iter().rev().take_while(|b| blank(b)).count();
            // One separator that ends the only field left is not part of it.
            if end > 0 && hard(&rest[end - 1]) && !rest[..end - 1].iter().any(hard) {
                end -= 1;
                end -= rest[..end].iter().rev().take_while(|b| blank(b)).count();
            }
            value = &rest[..end];
        }
        shell.set(name, value.iter().map(|(b, _)| *b).collect())?;
    }
    Ok(status)
}

fn times(_: &mut Shell, _: &[&[u8]]) -> Result {
    let mut out = io::Out::new(1);
    for pair in sys::times().chunks(2) {
        let show = |us: u64| format!("{}m{}.{:06}s", us / 60_000_000, us / 1_000_000 % 60, us % 1_000_000);
        out!(out, "{} {}\n", show(pair[0]), show(pair[1]));
    }
    Ok(0)
}

fn trap(shell: &mut Shell, args: &[&[u8]]) -> Result {
    let args = if args.get(1) == Some(&&b"--"[..]) { &args[1..] } else { args };
    if args.len() == 1 {
        let mut out = io::Out::new(1);
        for (signal, action) in &shell.traps {
            out.put(b"trap -- ");
            out.put(&quote(action));
            out!(out, " {}\n", signals::name(*signal));
        }
        return Ok(0);
    }
    // `trap SIGNAL` alone resets, as does `trap - SIGNAL`.
    let resets = args.len() == 2 || io::number(args[1]).is_some_and(|n| n >= 0);
    let (action, names) = if resets { (&b"-"[..], &args[1..]) } else { (args[1], &args[2..]) };
    for name in names {
        let Some(signal) = signals::parse(name) else {
            err!("sh: trap: {}: bad trap", io::Text(name));
            return Ok(1);
        };
        shell.set_trap(signal, (action != b"-").then(|| action.to_vec()));
    }
    Ok(0)
}

fn umask(shell: &mut Shell, args: &[&[u8]]) -> Result {
    match args.get(1) {
        None => {
            let mask = sys::umask(0);
            sys::umask(mask);
            out!(io::Out::new(1), "{mask:04o}\n");
        }
        Some(text) => match core::str::from_utf8(text).ok().and_then(|t| u32::from_str_radix(t, 8).ok()) {
            Some(mask) if mask <= 0o777 => drop(sys::umask(mask)),
            _ => return shell.fail(b"umask", &format!("Illegal number: {}", io::Text(text)), 2),
        },
    }
    Ok(0)
}

fn ulimit(shell: &mut Shell, args: &[&[u8]]) -> Result {
    // Letter, resource, bytes per unit, name.
    const LIMITS: [(u8, u32, u64, &str); 10] = [
        (b't', libc::RLIMIT_CPU as u32, 1, "cpu time (seconds)"),
        (b'f', libc::RLIMIT_FSIZE as u32, 512, "file size (512-byte blocks)"),
        (b'd', libc::RLIMIT_DATA as u32, 1024, "data (KiB)"),
        (b's', libc::RLIMIT_STACK as u32, 1024, "stack (KiB)"),
        (b'c', libc::RLIMIT_CORE as u32, 512, "core file (512-byte blocks)"),
        (b'm', libc::RLIMIT_RSS as u32, 1024, "resident memory (KiB)"),
        (b'l', libc::RLIMIT_MEMLOCK as u32, 1024, "locked memory (KiB)"),
        (b'p', libc::RLIMIT_NPROC as u32, 1, "processes"),
        (b'n', libc::RLIMIT_NOFILE as u32, 1, "open files"),
        (b'v', libc::RLIMIT_AS as u32, 1024, "address space (KiB)"),
    ];
    let (mut soft, mut hard, mut which, mut value) = (true, true, b'f', None);
    for arg in &args[1..] {
        match arg {
            [b'-', letters @ ..] => {
                for letter in letters {
                    match letter {
                        b'S' => hard = false,
                        b'H' => soft = false,
                        other => which = *other,
                    }
                }
            }
            text => value = Some(*text),
        }
    }
    let show = |n: u64, unit: u64| if n == u64::MAX { "unlimited".to_string() } else { (n / unit).to_string() };
    let mut out = io::Out::new(1);
    if which == b'a' {
        for (letter, resource, unit, name) in LIMITS {
            let limit = sys::limit(resource).unwrap_or_default();
            out!(out, "{name:<30}(-{}) {}\n", char::from(letter), show(limit[usize::from(!soft)], unit));
        }
        return Ok(0);
    }
    let Some((_, resource, unit, _)) = LIMITS.into_iter().find(|l| l.0 == which) else {
        return shell.fail(b"ulimit", &format!("Illegal option -{}", char::from(which)), 2);
    };
    let mut limit = sys::limit(resource).unwrap_or_default();
    let Some(text) = value else {
        out!(out, "{}\n", show(limit[usize::from(!soft)], unit));
        return Ok(0);
    };
    let number =
        if text == b"unlimited" { Some(u64::MAX) } else { io::number(text).map(|n| (n as u64).saturating_mul(unit)) };
    let Some(number) = number else {
        return shell.fail(b"ulimit", &format!("bad number: {}", io::Text(text)), 2);
    };
    if soft {
        limit[0] = number;
    }
    if hard {
        limit[1] = number;
    }
    match sys::set_limit(resource, limit) {
        Ok(()) => Ok(0),
        Err(error) => shell.fail(b"ulimit", &format!("error setting limit: {error}"), 2),
    }
}

fn jobs(shell: &mut Shell, _: &[&[u8]]) -> Result {
    shell.reap();
    let mut out = io::Out::new(1);
    for (index, job) in shell.jobs.iter().enumerate() {
        let state = match job.end {
            None => "Running".to_string(),
            Some(sys::End::Exited(0)) => "Done".to_string(),
            Some(end) => format!("Done({})", end.status()),
        };
        out!(out, "[{}] {:<8} {state:<12} {}\n", index + 1, job.pid, io::Text(&job.text));
    }
    shell.jobs.retain(|job| job.end.is_none());
    Ok(0)
}

/// `%1` is the first job's process, anything else itself.
fn job_pid(shell: &Shell, text: &[u8]) -> Option<i32> {
    match text.strip_prefix(b"%") {
        Some(b"%" | b"+" | b"") => shell.jobs.last().map(|job| job.pid),
        Some(number) => shell.jobs.get(usize::try_from(io::number(number)? - 1).ok()?).map(|job| job.pid),
        None => io::number(text).map(|n| n as i32),
    }
}

fn kill(shell: &mut Shell, args: &[&[u8]]) -> Result {
    let translated: Vec<Vec<u8>> = args
        .iter()
        .map(|arg| match arg.starts_with(b"%").then(|| job_pid(shell, arg)).flatten() {
            Some(pid) => pid.to_string().into_bytes(),
            None => arg.to_vec(),
        })
        .collect();
    Ok(crate::process::kill(&translated.iter().map(Vec::as_slice).collect::<Vec<_>>()))
}

fn wait(shell: &mut Shell, args: &[&[u8]]) -> Result {
    let mut status = 0;
    let wanted: Vec<Option<i32>> = if args.len() == 1 {
        shell.jobs.iter().map(|job| Some(job.pid)).collect()
    } else {
        args[1..].iter().map(|arg| job_pid(shell, arg)).collect()
    };
    for pid in wanted {
        let known = pid.and_then(|pid| shell.jobs.iter().position(|job| job.pid == pid));
        let Some(index) = known else {
            status = 127;
            continue;
        };
        let pid = shell.jobs[index].pid;
        while shell.jobs.iter().any(|job| job.pid == pid && job.end.is_none()) {
            match sys::wait(-1, 0) {
                Ok(Some((pid, end))) => shell.note_end(pid, end),
                Err(Errno(libc::EINTR)) => {
                    let signals = sys::take_signals();
                    if signals == 0 {
                        continue;
                    }
                    // A trapped signal ends the wait (POSIX, section 2.11).
                    let signal = signals.trailing_zeros() as i32;
                    if let Some(action) = shell.traps.get(&signal).cloned() {
                        shell.evaluate(&action, false)?;
                    }
                    return Ok(128 + signal);
                }
                _ => break,
            }
        }
        if let Some(index) = shell.jobs.iter().position(|job| job.pid == pid) {
            status = shell.jobs.remove(index).end.map_or(127, sys::End::status);
        }
    }
    if args.len() == 1 { Ok(0) } else { Ok(status) }
}

fn getopts(shell: &mut Shell, args: &[&[u8]]) -> Result {
    if args.len() < 3 {
        return shell.fail(b"getopts", "usage: getopts OPTIONS NAME [ARGUMENT...]", 2);
    }
    let (options, name) = (args[1], args[2]);
    let operands: Vec<Vec<u8>> =
        if args.len() > 3 { args[3..].iter().map(|a| a.to_vec()).collect() } else { shell.arguments.clone() };
    let quiet = options.starts_with(b":");
    let mut index = shell.get(b"OPTIND").and_then(|v| io::number(&v)).unwrap_or(1).max(1) as usize;
    let mut offset = shell.option_offset;
    let current = operands.get(index - 1).cloned().unwrap_or_default();
    if offset == 0 && (!current.starts_with(b"-") || current == b"-" || current == b"--") {
        if current == b"--" {
            index += 1;
        }
        shell.set(name, b"?".to_vec())?;
        shell.set(b"OPTIND", index.to_string().into_bytes())?;
        return Ok(1);
    }
    offset = offset.max(1);
    let Some(letter) = current.get(offset).copied() else {
        shell.option_offset = 0;
        return Ok(1);
    };
    offset += 1;
    let found = options.iter().position(|o| *o == letter && letter != b':');
    let takes = found.is_some_and(|at| options.get(at + 1) == Some(&b':'));
    let mut answer = Vec::from([letter]);
    let mut argument = None;
    if found.is_none() {
        answer = b"?".to_vec();
        if quiet {
            argument = Some(Vec::from([letter]));
        } else {
            err!("{}: Illegal option -{}", io::Text(&shell.name), char::from(letter));
        }
    } else if takes {
        if offset < current.len() {
            argument = Some(current[offset..].to_vec());
        } else if let Some(next) = operands.get(index) {
            argument = Some(next.clone());
            index += 1;
        } else if quiet {
            answer = b":".to_vec();
            argument = Some(Vec::from([letter]));
        } else {
            answer = b"?".to_vec();
            err!("{}: No arg for -{} option", io::Text(&shell.name), char::from(letter));
        }
        offset = current.len();
    }
    if offset >= current.len() {
        index += 1;
        offset = 0;
    }
    match argument {
        Some(argument) => shell.set(b"OPTARG", argument)?,
        None => drop(shell.variables.remove(&b"OPTARG"[..])),
    }
    shell.set(name, answer)?;
    shell.set(b"OPTIND", index.to_string().into_bytes())?;
    shell.option_offset = offset;
    Ok(0)
}
