//! `sh`: a shell after POSIX.1-2017, XCU chapter 2. `parse` makes a tree of the text, `expand` and `arithmetic` turn
//! words into fields, this file walks the tree, and `builtins` holds the commands a shell must run in its own process.

mod arithmetic;
mod builtins;
mod expand;
pub mod parse;

use crate::signals;
use crate::sys::{self, Disposition, End, Errno, Fd};
use crate::{err, exec, io};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;
use parse::{Command, Error, Parser, Redirection, RedirectionKind};

/// Why the walk of the tree does not simply go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Break(usize),
    Continue(usize),
    Return(i32),
    Exit(i32),
    /// An error that ends a script but only the current line of an interactive shell.
    Error(i32),
}

type Result<T> = core::result::Result<T, Flow>;

#[derive(Clone, Default)]
struct Variable {
    value: Option<Vec<u8>>,
    exported: bool,
    read_only: bool,
}

/// What `set` switches.
#[derive(Default, Clone)]
pub struct Options {
    exit_on_error: bool,
    no_unset: bool,
    trace: bool,
    no_glob: bool,
    verbose: bool,
    no_clobber: bool,
    export_all: bool,
    no_exec: bool,
    pipe_fail: bool,
}

struct Job {
    pid: i32,
    end: Option<End>,
    text: Vec<u8>,
}

/// The state of one shell.
pub struct Shell {
    variables: BTreeMap<Vec<u8>, Variable>,
    functions: BTreeMap<Vec<u8>, Rc<Command>>,
    name: Vec<u8>,
    arguments: Vec<Vec<u8>>,
    status: i32,
    /// The status of the last command substitution in the current simple command.
    substituted: Option<i32>,
    last_background: Option<i32>,
    jobs: Vec<Job>,
    options: Options,
    traps: BTreeMap<i32, Vec<u8>>,
    /// For each active function, the variables to bring back when it returns.
    locals: Vec<Vec<(Vec<u8>, Option<Variable>)>>,
    loops: usize,
    /// Positive where a failure is a condition and not an error.
    checked: usize,
    depth: usize,
    interactive: bool,
    pid: i32,
    /// How far `getopts` is inside a cluster of options.
    option_offset: usize,
}

/// The applet.
pub fn main(args: &[&[u8]]) -> i32 {
    let mut shell = Shell::new();
    let mut rest = &args[1.min(args.len())..];
    let (mut command, mut interactive) = (false, false);
    while let Some(first) = rest.first()
        && (first.starts_with(b"-") || first.starts_with(b"+"))
        && first.len() > 1
    {
        rest = &rest[1..];
        match *first {
            b"--" => break,
            b"--login" => continue,
            b"-o" | b"+o" => {
                if !rest.first().is_some_and(|name| shell.named_option(name, first[0] == b'-')) {
                    err!("sh: illegal option -o");
                    return 2;
                }
                rest = &rest[1..];
                continue;
            }
            _ => {}
        }
        for letter in &first[1..] {
            match letter {
                b'c' => command = true,
                b'i' => interactive = true,
                b's' | b'l' => {}
                _ if shell.option(*letter, first[0] == b'-') => {}
                _ => {
                    err!("sh: illegal option -{}", char::from(*letter));
                    return 2;
                }
            }
        }
    }
    shell.name = args.first().map_or(b"sh".to_vec(), |n| n.to_vec());
    if command {
        let Some(text) = rest.first() else {
            err!("sh: -c needs a command");
            return 2;
        };
        if let Some(name) = rest.get(1) {
            shell.name = name.to_vec();
        }
        shell.arguments = rest.iter().skip(2).map(|a| a.to_vec()).collect();
        return shell.run_text(text, true);
    }
    if let Some(script) = rest.first() {
        shell.name = script.to_vec();
        shell.arguments = rest[1..].iter().map(|a| a.to_vec()).collect();
        return match io::read_file(script) {
            Ok(text) => shell.run_text(&text, false),
            Err(error) => {
                err!("sh: cannot open {}: {error}", io::Text(script));
                if error == Errno(libc::ENOENT) { 127 } else { 126 }
            }
        };
    }
    shell.interactive = interactive || (sys::is_terminal(0) && sys::is_terminal(2));
    shell.run_input()
}

impl Shell {
    fn new() -> Self {
        let mut shell = Shell {
            variables: BTreeMap::new(),
            functions: BTreeMap::new(),
            name: Vec::new(),
            arguments: Vec::new(),
            status: 0,
            substituted: None,
            last_background: None,
            jobs: Vec::new(),
            options: Options::default(),
            traps: BTreeMap::new(),
            locals: Vec::new(),
            loops: 0,
            checked: 0,
            depth: 0,
            interactive: false,
            pid: sys::getpid(),
            option_offset: 0,
        };
        let plain = |value: &[u8]| Variable { value: Some(value.to_vec()), exported: false, read_only: false };
        shell.variables.insert(b"IFS".to_vec(), plain(b" \t\n"));
        shell.variables.insert(b"OPTIND".to_vec(), plain(b"1"));
        shell.variables.insert(b"PS1".to_vec(), plain(if sys::ids()[1] == 0 { b"# " } else { b"$ " }));
        shell.variables.insert(b"PS2".to_vec(), plain(b"> "));
        shell.variables.insert(b"PS4".to_vec(), plain(b"+ "));
        shell.variables.insert(b"PPID".to_vec(), plain(sys::getppid().to_string().as_bytes()));
        for entry in sys::environment() {
            let Some(equals) = entry.iter().position(|b| *b == b'=') else { continue };
            let (name, value) = (&entry[..equals], &entry[equals + 1..]);
            if parse::is_name(name) && name != b"IFS" && name != b"PPID" && name != b"OPTIND" {
                let variable = Variable { value: Some(value.to_vec()), exported: true, read_only: false };
                shell.variables.insert(name.to_vec(), variable);
            }
        }
        shell.variables.entry(b"PATH".to_vec()).or_insert_with(|| plain(exec::DEFAULT_PATH));
        // PWD from outside is believed only if it names this directory.
        let believed = shell.get(b"PWD").filter(|pwd| {
            pwd.starts_with(b"/")
                && match (sys::stat(pwd, true), sys::stat(b".", true)) {
                    (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
                    _ => false,
                }
        });
        if let Some(pwd) = believed.or_else(|| sys::getcwd().ok()) {
            shell.variables.entry(b"PWD".to_vec()).or_default().value = Some(pwd);
        }
        shell
    }

    // ---- reading commands ----

    /// Runs a whole text and ends the shell. With `tail`, its last command may replace the process.
    fn run_text(&mut self, text: &[u8], tail: bool) -> i32 {
        if self.options.verbose {
            io::Out::new(2).put(text);
        }
        let result = self.evaluate(text, tail);
        self.finish(result)
    }

    /// Runs a text line by line.
    fn evaluate(&mut self, text: &[u8], tail: bool) -> Result<i32> {
        let mut parser = Parser::new(text);
        let mut status = 0;
        loop {
            match parser.next_command() {
                Ok(None) => return Ok(status),
                Ok(Some(command)) => {
                    let last = tail && self.traps.is_empty() && parser.at_end();
                    status = self.run(&command, last)?;
                }
                Err(Error::Incomplete(message) | Error::Syntax(message)) => {
                    err!("sh: {message}");
                    self.status = 2;
                    return Err(Flow::Error(2));
                }
            }
        }
    }

    /// Runs what comes from standard input, no byte more than needed read ahead.
    fn run_input(&mut self) -> i32 {
        if self.interactive {
            for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
                let ignore = signal != libc::SIGINT;
                let _ = sys::set_signal(signal, if ignore { Disposition::Ignore } else { Disposition::Record });
            }
        }
        let mut text = Vec::new();
        let mut status = 0;
        loop {
            if self.interactive {
                self.reap();
                let prompt = self.get(if text.is_empty() { b"PS1" } else { b"PS2" }).unwrap_or_default();
                io::Out::new(2).put(&prompt);
            }
            let before = text.len();
            let interrupted = self.read_line(&mut text);
            if interrupted {
                text.clear();
                io::Out::new(2).put(b"\n");
                let _ = self.run_traps();
                continue;
            }
            let ended = text.len() == before;
            if ended && text.is_empty() {
                if self.interactive {
                    io::Out::new(2).put(b"\n");
                }
                return self.finish(Ok(status));
            }
            if self.options.verbose {
                io::Out::new(2).put(&text[before..]);
            }
            let mut parser = Parser::new(&text);
            let mut commands = Vec::new();
            let problem = loop {
                match parser.next_command() {
                    Ok(Some(command)) => commands.push(command),
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            // A backslash at the end of the line asks for another.
            let continued = text.ends_with(b"\\\n") && !text.ends_with(b"\\\\\n");
            match problem {
                None if continued && !ended => continue,
                Some(Error::Incomplete(_)) if !ended => continue,
                Some(Error::Incomplete(message) | Error::Syntax(message)) => {
                    err!("sh: {message}");
                    self.status = 2;
                    if !self.interactive {
                        return self.finish(Err(Flow::Error(2)));
                    }
                }
                None => {
                    for command in &commands {
                        match self.run(command, false) {
                            Ok(s) => status = s,
                            Err(Flow::Error(s)) if self.interactive => {
                                self.loops = 0;
                                self.checked = 0;
                                self.depth = 0;
                                self.locals.clear();
                                (self.status, status) = (s, s);
                                break;
                            }
                            Err(flow @ (Flow::Exit(_) | Flow::Error(_))) => return self.finish(Err(flow)),
                            Err(Flow::Return(s)) => return self.finish(Err(Flow::Exit(s))),
                            Err(_) => {}
                        }
                    }
                }
            }
            text.clear();
        }
    }

    /// Appends a line with its newline; whether a signal came instead.
    fn read_line(&mut self, text: &mut Vec<u8>) -> bool {
        let mut byte = [0u8; 1];
        loop {
            match sys::read_once(0, &mut byte) {
                Ok(1) => {
                    text.push(byte[0]);
                    if byte[0] == b'\n' {
                        return false;
                    }
                }
                Err(Errno(libc::EINTR)) if self.interactive => return true,
                Err(Errno(libc::EINTR)) => {}
                _ => return false,
            }
        }
    }

    /// The exit status of the shell after its last command; runs the EXIT trap.
    fn finish(&mut self, result: Result<i32>) -> i32 {
        self.status = match result {
            Ok(status) | Err(Flow::Exit(status) | Flow::Return(status) | Flow::Error(status)) => status,
            Err(_) => self.status,
        };
        if let Some(action) = self.traps.remove(&0)
            && !action.is_empty()
        {
            let status = self.status;
            return match self.evaluate(&action, false) {
                Err(Flow::Exit(status)) => status,
                _ => status,
            };
        }
        self.status
    }

    /// Ends a child process of the shell.
    fn finish_child(&mut self, result: Result<i32>) -> ! {
        sys::exit(self.finish(result))
    }

    // ---- variables ----

    /// The value of a variable or special parameter.
    fn get(&self, name: &[u8]) -> Option<Vec<u8>> {
        if let Some(variable) = self.variables.get(name) {
            return variable.value.clone();
        }
        match name {
            b"?" => Some(self.status.to_string().into_bytes()),
            b"$" => Some(self.pid.to_string().into_bytes()),
            b"!" => self.last_background.map(|pid| pid.to_string().into_bytes()),
            b"#" => Some(self.arguments.len().to_string().into_bytes()),
            b"-" => Some(self.option_letters()),
            b"0" => Some(self.name.clone()),
            [first, ..] if first.is_ascii_digit() => {
                self.arguments.get((io::number(name)? as usize).checked_sub(1)?).cloned()
            }
            _ => None,
        }
    }

    fn set(&mut self, name: &[u8], value: Vec<u8>) -> Result<()> {
        if name == b"OPTIND" {
            self.option_offset = 0;
        }
        let export_all = self.options.export_all;
        if let Some(variable) = self.variables.get_mut(name) {
            if variable.read_only {
                return self.fail(name, "is read only", 2);
            }
            variable.value = Some(value);
            variable.exported |= export_all;
        } else {
            let variable = Variable { value: Some(value), exported: export_all, read_only: false };
            self.variables.insert(name.to_vec(), variable);
        }
        Ok(())
    }

    /// The exported variables as `NAME=value`.
    fn environment(&self) -> Vec<Vec<u8>> {
        let exported = self.variables.iter().filter(|(_, v)| v.exported);
        exported.filter_map(|(name, v)| Some([name, &b"="[..], v.value.as_ref()?].concat())).collect()
    }

    /// Reports an error that ends a script.
    fn fail<T>(&mut self, what: &[u8], message: &str, status: i32) -> Result<T> {
        err!("sh: {}: {message}", io::Text(what));
        self.status = status;
        Err(Flow::Error(status))
    }

    // ---- running commands ----

    /// Runs a command. With `tail`, nothing is left to do in this process afterwards.
    fn run(&mut self, command: &Command, tail: bool) -> Result<i32> {
        self.run_traps()?;
        if self.options.no_exec && !self.interactive {
            return Ok(0);
        }
        let status = match command {
            Command::Simple { assignments, words, redirections } => {
                let status = self.simple(assignments, words, redirections, tail)?;
                self.status = status;
                self.exit_on_error(status)?;
                status
            }
            Command::Pipeline(commands) => {
                let status = self.pipeline(commands)?;
                self.status = status;
                self.exit_on_error(status)?;
                status
            }
            Command::Not(command) => i32::from(self.condition(command)? == 0),
            Command::And(left, right) => match self.condition(left)? {
                0 => self.run(right, tail)?,
                status => status,
            },
            Command::Or(left, right) => match self.condition(left)? {
                0 => 0,
                _ => self.run(right, tail)?,
            },
            Command::Sequence(commands) => {
                let mut status = 0;
                for (index, command) in commands.iter().enumerate() {
                    let last = tail && index + 1 == commands.len() && self.traps.is_empty();
                    status = self.run(command, last)?;
                }
                status
            }
            Command::Background(command) => self.background(command)?,
            Command::Subshell(command) => {
                if tail {
                    self.enter_child();
                    let result = self.run(command, true);
                    self.finish_child(result)
                }
                let status = match self.fork()? {
                    None => {
                        let result = self.run(command, true);
                        self.finish_child(result)
                    }
                    Some(pid) => self.wait_for(pid).status(),
                };
                self.status = status;
                self.exit_on_error(status)?;
                status
            }
            Command::If { arms, otherwise } => self.if_command(arms, otherwise.as_deref(), tail)?,
            Command::Loop { until, condition, body } => {
                let mut status = 0;
                self.loops += 1;
                let result = loop {
                    let step = self
                        .condition(condition)
                        .and_then(|s| if (s == 0) == *until { Ok(None) } else { self.run(body, false).map(Some) });
                    match self.loop_step(step, &mut status) {
                        None => {}
                        Some(result) => break result,
                    }
                };
                self.loops -= 1;
                result?;
                status
            }
            Command::For { name, words, body } => {
                let values = match words {
                    Some(words) => self.fields(words)?,
                    None => self.arguments.clone(),
                };
                let mut status = 0;
                self.loops += 1;
                let mut result = Ok(());
                for value in values {
                    let step = self.set(name, value).and_then(|()| self.run(body, false)).map(Some);
                    if let Some(end) = self.loop_step(step, &mut status) {
                        result = end;
                        break;
                    }
                }
                self.loops -= 1;
                result?;
                status
            }
            Command::Case { word, arms } => {
                let word = self.single(word)?;
                let mut status = 0;
                'arms: for (patterns, body) in arms {
                    for pattern in patterns {
                        let pattern = self.pattern(pattern)?;
                        if crate::pattern::matches(&pattern, &word) {
                            status = self.run(body, tail)?;
                            break 'arms;
                        }
                    }
                }
                status
            }
            Command::Function { name, body } => {
                self.functions.insert(name.clone(), body.clone());
                0
            }
            Command::Redirected(command, redirections) => {
                let saved = match self.redirect(redirections, true) {
                    Ok(saved) => saved,
                    Err(Flow::Error(status)) => {
                        self.status = status;
                        self.exit_on_error(status)?;
                        return Ok(status);
                    }
                    Err(flow) => return Err(flow),
                };
                let result = self.run(command, false);
                restore(saved);
                result?
            }
        };
        self.status = status;
        Ok(status)
    }

    fn exit_on_error(&mut self, status: i32) -> Result<()> {
        if status != 0 && self.options.exit_on_error && self.checked == 0 { Err(Flow::Exit(status)) } else { Ok(()) }
    }

    /// Runs a command whose failure is an answer.
    fn condition(&mut self, command: &Command) -> Result<i32> {
        self.checked += 1;
        let result = self.run(command, false);
        self.checked -= 1;
        result
    }

    fn if_command(&mut self, arms: &[(Command, Command)], otherwise: Option<&Command>, tail: bool) -> Result<i32> {
        for (condition, body) in arms {
            if self.condition(condition)? == 0 {
                return self.run(body, tail);
            }
        }
        otherwise.map_or(Ok(0), |body| self.run(body, tail))
    }

    /// One turn of a loop is over: `Some` if the loop is too.
    fn loop_step(&mut self, step: Result<Option<i32>>, status: &mut i32) -> Option<Result<()>> {
        match step {
            Ok(None) => Some(Ok(())),
            Ok(Some(s)) => {
                *status = s;
                None
            }
            Err(Flow::Break(1)) => {
                *status = 0;
                Some(Ok(()))
            }
            Err(Flow::Continue(1)) => {
                *status = 0;
                None
            }
            Err(Flow::Break(n)) => Some(Err(Flow::Break(n - 1))),
            Err(Flow::Continue(n)) => Some(Err(Flow::Continue(n - 1))),
            Err(flow) => Some(Err(flow)),
        }
    }

    fn simple(
        &mut self,
        assignments: &[(Vec<u8>, parse::Word)],
        words: &[parse::Word],
        redirections: &[Redirection],
        tail: bool,
    ) -> Result<i32> {
        self.substituted = None;
        let fields = self.fields(words)?;
        let Some(name) = fields.first() else {
            let saved = match self.redirect(redirections, true) {
                Ok(saved) => saved,
                Err(Flow::Error(status)) => return Ok(status),
                Err(flow) => return Err(flow),
            };
            restore(saved);
            for (name, word) in assignments {
                let value = self.single(word)?;
                self.trace(&[&[name, &b"="[..], &value].concat()]);
                self.set(name, value)?;
            }
            return Ok(self.substituted.unwrap_or(0));
        };
        let mut values = Vec::with_capacity(assignments.len());
        for (name, word) in assignments {
            values.push((name.clone(), self.single(word)?));
        }
        if self.options.trace {
            let prefix = values.iter().map(|(name, value)| [name, &b"="[..], value].concat()).collect::<Vec<_>>();
            let all: Vec<&[u8]> = prefix.iter().chain(&fields).map(Vec::as_slice).collect();
            self.trace(&all);
        }
        let special = builtins::is_special(name);
        let function = if special { None } else { self.functions.get(name).cloned() };
        let builtin = if function.is_some() { None } else { builtins::find(name) };
        if function.is_none() && builtin.is_none() {
            return self.external(&fields, &values, redirections, tail);
        }
        let saved = match self.redirect(redirections, true) {
            Ok(saved) => saved,
            Err(Flow::Error(status)) if special && !self.interactive => return Err(Flow::Exit(status)),
            Err(Flow::Error(status)) => return Ok(status),
            Err(flow) => return Err(flow),
        };
        // `exec` without a command makes its redirections the shell's own.
        let keep = name == b"exec" && fields.len() == 1;
        let mut before = Vec::new();
        for (name, value) in values {
            if !special {
                before.push((name.clone(), self.variables.get(&name).cloned()));
            }
            self.set(&name, value)?;
            if !special && let Some(variable) = self.variables.get_mut(&name) {
                variable.exported = true;
            }
        }
        let result = match (function, builtin) {
            (Some(body), _) => self.call(&body, fields[1..].to_vec()),
            (None, Some(builtin)) => {
                let arguments: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
                builtin(self, &arguments)
            }
            (None, None) => Ok(0),
        };
        for (name, variable) in before.into_iter().rev() {
            self.bring_back(name, variable);
        }
        if keep {
            for (fd, old) in saved {
                let _ = fd;
                old.into_iter().for_each(sys::close);
            }
        } else {
            restore(saved);
        }
        result
    }

    fn bring_back(&mut self, name: Vec<u8>, variable: Option<Variable>) {
        match variable {
            Some(variable) => self.variables.insert(name, variable),
            None => self.variables.remove(&name),
        };
    }

    fn call(&mut self, body: &Rc<Command>, arguments: Vec<Vec<u8>>) -> Result<i32> {
        if self.depth >= 500 {
            return self.fail(b"function", "calls nested deeper than 500", 2);
        }
        let outer = core::mem::replace(&mut self.arguments, arguments);
        let loops = core::mem::replace(&mut self.loops, 0);
        self.depth += 1;
        self.locals.push(Vec::new());
        let result = self.run(body, false);
        for (name, variable) in self.locals.pop().unwrap_or_default().into_iter().rev() {
            self.bring_back(name, variable);
        }
        self.depth -= 1;
        self.loops = loops;
        self.arguments = outer;
        match result {
            Err(Flow::Return(status)) => Ok(status),
            other => other,
        }
    }

    fn external(
        &mut self,
        fields: &[Vec<u8>],
        values: &[(Vec<u8>, Vec<u8>)],
        redirections: &[Redirection],
        tail: bool,
    ) -> Result<i32> {
        let child = if tail { None } else { self.fork_plain()? };
        if let Some(pid) = child {
            return Ok(self.wait_for(pid).status());
        }
        self.enter_child();
        if let Err(Flow::Error(status)) = self.redirect(redirections, false) {
            sys::exit(status);
        }
        for (name, value) in values {
            let variable = Variable { value: Some(value.clone()), exported: true, read_only: false };
            self.variables.insert(name.clone(), variable);
        }
        let arguments: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
        sys::exit(self.exec(&arguments))
    }

    /// Replaces the process by a program; a status if that fails. A file without a known format is a script.
    fn exec(&mut self, arguments: &[&[u8]]) -> i32 {
        let environment = self.environment();
        let environment: Vec<&[u8]> = environment.iter().map(Vec::as_slice).collect();
        let path = self.get(b"PATH").unwrap_or_default();
        exec::exec(b"sh", arguments, &environment, &path)
    }

    fn trace(&mut self, words: &[&[u8]]) {
        if !self.options.trace {
            return;
        }
        let mut out = io::Out::new(2);
        out.put(&self.get(b"PS4").unwrap_or_default());
        out.line(&words.join(&b' '));
    }

    // ---- processes ----

    fn fork_plain(&mut self) -> Result<Option<i32>> {
        match sys::fork() {
            Ok(child) => Ok(child),
            Err(error) => self.fail(b"cannot fork", &error.to_string(), 2),
        }
    }

    fn fork(&mut self) -> Result<Option<i32>> {
        let child = self.fork_plain()?;
        if child.is_none() {
            self.enter_child();
        }
        Ok(child)
    }

    /// A child has its parent's signals by default, no jobs, and only those traps that ignore a signal.
    fn enter_child(&mut self) {
        let trapped: Vec<i32> = self.traps.iter().filter(|(_, a)| !a.is_empty()).map(|(s, _)| *s).collect();
        for signal in trapped {
            self.traps.remove(&signal);
            if signal != 0 {
                let _ = sys::set_signal(signal, Disposition::Default);
            }
        }
        if self.interactive {
            for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
                let _ = sys::set_signal(signal, Disposition::Default);
            }
        }
        sys::take_signals();
        self.interactive = false;
        self.jobs.clear();
        self.loops = 0;
    }

    /// Waits for a child in the foreground. Signals that arrive meanwhile are handled after it.
    fn wait_for(&mut self, pid: i32) -> End {
        let end = sys::wait_for(pid);
        if let End::Killed(signal) = end
            && signal != libc::SIGINT
            && signal != libc::SIGPIPE
        {
            err!("{}", signals::description(signal));
        }
        if self.pid == 1 {
            self.reap();
        }
        end
    }

    /// Collects children that have ended: jobs, and as PID 1 also adopted orphans.
    fn reap(&mut self) {
        while let Ok(Some((pid, end))) = sys::wait(-1, libc::WNOHANG) {
            self.note_end(pid, end);
        }
    }

    fn note_end(&mut self, pid: i32, end: End) {
        if let Some(job) = self.jobs.iter_mut().find(|job| job.pid == pid) {
            job.end = Some(end);
        }
    }

    fn background(&mut self, command: &Command) -> Result<i32> {
        let interactive = self.interactive;
        match self.fork()? {
            None => {
                if !interactive {
                    let _ = sys::set_signal(libc::SIGINT, Disposition::Ignore);
                    let _ = sys::set_signal(libc::SIGQUIT, Disposition::Ignore);
                    if let Ok(null) = sys::open(b"/dev/null", libc::O_RDONLY, 0) {
                        let _ = sys::dup2(null, 0);
                        sys::close(null);
                    }
                }
                let result = self.run(command, true);
                self.finish_child(result)
            }
            Some(pid) => {
                self.last_background = Some(pid);
                let text = match command {
                    Command::Simple { words, .. } => words
                        .iter()
                        .flat_map(|w| w.first())
                        .filter_map(|p| if let parse::Part::Bare(t) = p { Some(t.as_slice()) } else { None })
                        .collect::<Vec<_>>()
                        .join(&b' '),
                    _ => b"(command)".to_vec(),
                };
                self.jobs.push(Job { pid, end: None, text });
                if interactive {
                    err!("[{}] {pid}", self.jobs.len());
                }
                Ok(0)
            }
        }
    }

    fn pipeline(&mut self, commands: &[Command]) -> Result<i32> {
        let mut children = Vec::new();
        let mut input: Option<Fd> = None;
        for (index, command) in commands.iter().enumerate() {
            let last = index + 1 == commands.len();
            let next = match sys::pipe() {
                _ if last => None,
                Ok(ends) => Some(ends),
                Err(error) => return self.fail(b"pipe", &error.to_string(), 2),
            };
            match self.fork()? {
                None => {
                    if let Some(input) = input {
                        let _ = sys::dup2(input, 0);
                        sys::close(input);
                    }
                    if let Some([read, write]) = next {
                        sys::close(read);
                        let _ = sys::dup2(write, 1);
                        sys::close(write);
                    }
                    let result = self.run(command, true);
                    self.finish_child(result)
                }
                Some(pid) => children.push(pid),
            }
            input.into_iter().for_each(sys::close);
            input = next.map(|[read, write]| {
                sys::close(write);
                read
            });
        }
        let mut status = 0;
        let count = children.len();
        for (index, pid) in children.into_iter().enumerate() {
            let end = if index + 1 == count { self.wait_for(pid) } else { sys::wait_for(pid) };
            let end = end.status();
            if self.options.pipe_fail {
                if end != 0 {
                    status = end;
                }
            } else {
                status = end;
            }
        }
        Ok(status)
    }

    /// The output of a command substitution.
    fn capture(&mut self, list: &Command) -> Result<Vec<u8>> {
        let [read, write] = match sys::pipe() {
            Ok(ends) => ends,
            Err(error) => return self.fail(b"pipe", &error.to_string(), 2),
        };
        let Some(pid) = self.fork()? else {
            sys::close(read);
            let _ = sys::dup2(write, 1);
            sys::close(write);
            let result = self.run(list, true);
            self.finish_child(result)
        };
        sys::close(write);
        let mut output = io::read_to_end(read).unwrap_or_default();
        sys::close(read);
        output.retain(|b| *b != 0);
        let status = sys::wait_for(pid).status();
        self.status = status;
        self.substituted = Some(status);
        Ok(output)
    }

    // ---- redirections ----

    /// Applies redirections; with `save`, what they replace can be restored. A failure undoes what was done.
    fn redirect(&mut self, redirections: &[Redirection], save: bool) -> Result<Vec<(Fd, Option<Fd>)>> {
        let mut saved = Vec::new();
        for redirection in redirections {
            if let Err(flow) = self.redirect_one(redirection, save, &mut saved) {
                restore(saved);
                return Err(flow);
            }
        }
        Ok(saved)
    }

    fn redirect_one(&mut self, redirection: &Redirection, save: bool, saved: &mut Vec<(Fd, Option<Fd>)>) -> Result<()> {
        use RedirectionKind::*;
        const CREATE: i32 = libc::O_WRONLY | libc::O_CREAT;
        let fd = redirection.fd;
        let (word, flags) = match &redirection.kind {
            Read(word) => (word, libc::O_RDONLY),
            Write(word) if self.options.no_clobber => (word, CREATE | libc::O_EXCL),
            Write(word) | Clobber(word) | Both(word) => (word, CREATE | libc::O_TRUNC),
            Append(word) => (word, CREATE | libc::O_APPEND),
            ReadWrite(word) => (word, libc::O_RDWR | libc::O_CREAT),
            Duplicate(word) => {
                let target = self.single(word)?;
                keep(fd, save, saved);
                if target == b"-" {
                    sys::close(fd);
                    return Ok(());
                }
                let source = io::number(&target).filter(|n| (0..1 << 20).contains(n));
                let Some(source) = source else { return self.fail(&target, "bad fd number", 2) };
                if sys::dup2(source as Fd, fd).is_err() {
                    return self.fail(&target, "Bad file descriptor", 2);
                }
                return Ok(());
            }
            Here(body) => {
                let body = body.borrow().clone();
                let text = self.single(&body)?;
                keep(fd, save, saved);
                let read = self.here_document(&text)?;
                let _ = sys::dup2(read, fd);
                sys::close(read);
                return Ok(());
            }
        };
        let name = self.single(word)?;
        let mut opened = sys::open(&name, flags, 0o666);
        // With `set -C` only regular files are protected.
        if flags & libc::O_EXCL != 0 && sys::stat(&name, true).is_ok_and(|s| s.st_mode & libc::S_IFMT != libc::S_IFREG)
        {
            opened = sys::open(&name, libc::O_WRONLY, 0);
        }
        let file = match opened {
            Ok(file) => file,
            Err(error) => {
                let verb = if flags & libc::O_CREAT != 0 { "create" } else { "open" };
                err!("sh: cannot {verb} {}: {error}", io::Text(&name));
                self.status = 2;
                return Err(Flow::Error(2));
            }
        };
        keep(fd, save, saved);
        let both = matches!(redirection.kind, Both(_));
        if both {
            keep(2, save, saved);
        }
        if file == fd {
            // The lowest free descriptor was the one wanted: only its close-on-exec flag has to go.
            if let Ok(copy) = sys::dup_from(file, 10) {
                let _ = sys::dup2(copy, fd);
                sys::close(copy);
            }
        } else {
            let _ = sys::dup2(file, fd);
            sys::close(file);
        }
        if both {
            let _ = sys::dup2(fd, 2);
        }
        Ok(())
    }

    /// A descriptor from which the text is read: a pipe if it fits, else a child feeds one.
    fn here_document(&mut self, text: &[u8]) -> Result<Fd> {
        let [read, write] = match sys::pipe() {
            Ok(ends) => ends,
            Err(error) => return self.fail(b"pipe", &error.to_string(), 2),
        };
        if text.len() <= 4096 {
            let _ = sys::write_all(write, text);
        } else if self.fork()?.is_none() {
            sys::close(read);
            let _ = sys::set_signal(libc::SIGPIPE, Disposition::Default);
            let _ = sys::write_all(write, text);
            sys::exit(0);
        }
        sys::close(write);
        Ok(read)
    }

    // ---- traps ----

    /// Runs the actions of signals that have arrived.
    fn run_traps(&mut self) -> Result<()> {
        let arrived = sys::take_signals();
        if arrived == 0 {
            return Ok(());
        }
        for signal in 1..64 {
            if arrived & (1 << signal) == 0 {
                continue;
            }
            if let Some(action) = self.traps.get(&signal).cloned() {
                let status = self.status;
                self.evaluate(&action, false)?;
                self.status = status;
            } else if signal == libc::SIGINT && self.interactive {
                return Err(Flow::Error(130));
            }
        }
        Ok(())
    }

    fn set_trap(&mut self, signal: i32, action: Option<Vec<u8>>) {
        if signal != 0 {
            let disposition = match &action {
                Some(action) if action.is_empty() => Disposition::Ignore,
                Some(_) => Disposition::Record,
                None if signal == libc::SIGINT && self.interactive => Disposition::Record,
                None => Disposition::Default,
            };
            let _ = sys::set_signal(signal, disposition);
        }
        match action {
            Some(action) => self.traps.insert(signal, action),
            None => self.traps.remove(&signal),
        };
    }

    // ---- options ----

    fn option_field(&mut self, letter: u8) -> Option<&mut bool> {
        let options = &mut self.options;
        Some(match letter {
            b'e' => &mut options.exit_on_error,
            b'u' => &mut options.no_unset,
            b'x' => &mut options.trace,
            b'f' => &mut options.no_glob,
            b'v' => &mut options.verbose,
            b'C' => &mut options.no_clobber,
            b'a' => &mut options.export_all,
            b'n' => &mut options.no_exec,
            _ => return None,
        })
    }

    /// Sets an option by letter; false if there is none such.
    fn option(&mut self, letter: u8, on: bool) -> bool {
        // Accepted without effect: job control, hashing, notification.
        if b"mhb".contains(&letter) {
            return true;
        }
        self.option_field(letter).map(|field| *field = on).is_some()
    }

    fn named_option(&mut self, name: &[u8], on: bool) -> bool {
        if name == b"pipefail" {
            self.options.pipe_fail = on;
            return true;
        }
        let letter = OPTION_NAMES.iter().find(|(long, _)| long.as_bytes() == name);
        letter.is_some_and(|(_, letter)| self.option(*letter, on))
    }

    fn option_letters(&self) -> Vec<u8> {
        let o = &self.options;
        let flags = [
            (o.exit_on_error, b'e'),
            (o.no_glob, b'f'),
            (self.interactive, b'i'),
            (o.no_unset, b'u'),
            (o.verbose, b'v'),
            (o.trace, b'x'),
            (o.no_clobber, b'C'),
            (o.export_all, b'a'),
        ];
        flags.into_iter().filter_map(|(on, letter)| on.then_some(letter)).collect()
    }
}

const OPTION_NAMES: [(&str, u8); 9] = [
    ("errexit", b'e'),
    ("nounset", b'u'),
    ("xtrace", b'x'),
    ("noglob", b'f'),
    ("verbose", b'v'),
    ("noclobber", b'C'),
    ("allexport", b'a'),
    ("noexec", b'n'),
    ("monitor", b'm'),
];

fn keep(fd: Fd, save: bool, saved: &mut Vec<(Fd, Option<Fd>)>) {
    if save {
        saved.push((fd, sys::dup_from(fd, 10).ok()));
    }
}

fn restore(saved: Vec<(Fd, Option<Fd>)>) {
    for (fd, old) in saved.into_iter().rev() {
        match old {
            Some(old) => {
                let _ = sys::dup2(old, fd);
                sys::close(old);
            }
            None => sys::close(fd),
        }
    }
}

/// Runs a file that the kernel did not recognise as a program.
pub(crate) fn run_script(path: &[u8], args: &[&[u8]]) -> i32 {
    let mut shell = Shell::new();
    shell.name = path.to_vec();
    shell.arguments = args.iter().skip(1).map(|a| a.to_vec()).collect();
    match io::read_file(path) {
        Ok(text) if text.iter().take(512).any(|b| *b == 0) => {
            err!("sh: {}: {}", io::Text(path), Errno(libc::ENOEXEC));
            126
        }
        Ok(text) => shell.run_text(&text, false),
        Err(error) => {
            err!("sh: {}", format!("{}: {error}", io::Text(path)));
            126
        }
    }
}
