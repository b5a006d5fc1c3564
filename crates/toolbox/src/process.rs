//! Applets on processes and their environment.

use crate::io::{self, Out, Text};
use crate::sys::{self, Errno};
use crate::users::{self, Names};
use crate::{err, exec, options, out, signals, system};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// What /proc tells of a process (proc(5)).
struct Process {
    pid: i32,
    ppid: i32,
    group: i32,
    session: i32,
    uid: u32,
    state: char,
    comm: Vec<u8>,
    args: Vec<u8>,
    tty: String,
    /// Clock ticks of CPU time and of the start since boot.
    ticks: u64,
    start: u64,
    threads: u64,
    nice: i64,
    virtual_kib: u64,
    resident_kib: u64,
}

/// USER_HZ, fixed by the kernel's ABI.
const TICKS: u64 = 100;

fn processes() -> Vec<Process> {
    let mut pids: Vec<i32> = sys::read_dir(b"/proc")
        .unwrap_or_default()
        .iter()
        .filter_map(|e| io::number(&e.name))
        .map(|n| n as i32)
        .collect();
    pids.sort_unstable();
    pids.into_iter().filter_map(process).collect()
}

fn process(pid: i32) -> Option<Process> {
    let directory = alloc::format!("/proc/{pid}");
    let file = |name: &str| io::read_file(alloc::format!("{directory}/{name}").as_bytes()).ok();
    let stat = file("stat")?;
    let (open, close) = (stat.iter().position(|b| *b == b'(')?, stat.iter().rposition(|b| *b == b')')?);
    let fields: Vec<&[u8]> = io::words(&stat[close + 1..]).collect();
    let number = |index: usize| fields.get(index).and_then(|f| io::number(f)).unwrap_or(0);
    let comm = stat[open + 1..close].to_vec();
    let mut args = file("cmdline").unwrap_or_default();
    while args.last() == Some(&0) {
        args.pop();
    }
    args.iter_mut().filter(|b| **b == 0).for_each(|b| *b = b' ');
    if args.is_empty() {
        args = [b"[", comm.as_slice(), b"]"].concat();
    }
    let terminal = number(4) as u64;
    let (major, minor) = (terminal >> 8 & 0xfff, (terminal & 0xff) | (terminal >> 12 & 0xfff00));
    let tty = match major {
        0 => "?".to_string(),
        136..=143 => alloc::format!("pts/{}", minor + (major - 136) * 256),
        4 if minor >= 64 => alloc::format!("ttyS{}", minor - 64),
        4 => alloc::format!("tty{minor}"),
        _ => alloc::format!("{major}:{minor}"),
    };
    Some(Process {
        pid,
        ppid: number(1) as i32,
        group: number(2) as i32,
        session: number(3) as i32,
        uid: sys::stat(directory.as_bytes(), true).map_or(0, |s| s.st_uid),
        state: fields.first().and_then(|f| f.first()).map_or('?', |b| char::from(*b)),
        comm,
        args,
        tty,
        ticks: (number(11) + number(12)) as u64,
        start: number(19) as u64,
        threads: number(17) as u64,
        nice: number(16),
        virtual_kib: number(20) as u64 / 1024,
        resident_kib: number(21) as u64 * 4,
    })
}

pub fn ps(args: &[&[u8]]) -> i32 {
    // The BSD letters have no dash: `ps aux` differs from `ps -ef` only in its columns.
    let (mut all, mut format, mut only) = (false, Vec::new(), None);
    let mut columns: &[u8] = b"pid,tty,time,comm";
    let mut rest = args[1..].iter();
    while let Some(arg) = rest.next() {
        let letters = arg.strip_prefix(b"-").unwrap_or(arg);
        let bsd = !arg.starts_with(b"-");
        for (index, letter) in letters.iter().enumerate() {
            match letter {
                b'e' | b'A' | b'a' | b'x' => all = true,
                b'f' => columns = b"user,pid,ppid,c,stime,tty,time,args",
                b'u' if bsd => columns = b"user,pid,%cpu,%mem,vsz,rss,tty,stat,start,time,args",
                b'l' => columns = b"stat,uid,pid,ppid,nice,vsz,rss,tty,time,comm",
                b'w' | b'u' => {}
                b'o' | b'p' => {
                    let attached = &letters[index + 1..];
                    let value = if attached.is_empty() { rest.next().copied().unwrap_or_default() } else { attached };
                    if *letter == b'p' {
                        only = Some(value.split(|b| *b == b',').filter_map(io::number).collect::<Vec<_>>());
                    } else {
                        format.extend(value.split(|b| b",= ".contains(b)).map(<[u8]>::to_vec));
                        format.retain(|f| !f.is_empty());
                    }
                    break;
                }
                other => {
                    err!("ps: unknown option {}; try --help", char::from(*other));
                    return 1;
                }
            }
        }
    }
    if format.is_empty() {
        format = columns.split(|b| *b == b',').map(<[u8]>::to_vec).collect();
    }
    let list = processes();
    if list.is_empty() {
        err!("ps: /proc holds no processes: is it mounted? (mount -t proc proc /proc)");
        return 1;
    }
    let names = Names::load();
    let uptime = io::read_file(b"/proc/uptime").unwrap_or_default();
    let uptime = uptime.split(|b| *b == b'.').next().and_then(io::number).unwrap_or(0) as u64;
    let now = sys::clock(libc::CLOCK_REALTIME).tv_sec;
    let total = system::memory(b"MemTotal:").unwrap_or(1).max(1);
    let mine = list.iter().find(|p| p.pid == sys::getpid()).map(|p| (p.tty.clone(), p.uid));
    let cell = |p: &Process, column: &[u8]| -> Option<(&'static str, String)> {
        let seconds = p.ticks / TICKS;
        let age = uptime.saturating_sub(p.start / TICKS);
        Some(match column {
            b"pid" => ("PID", p.pid.to_string()),
            b"ppid" => ("PPID", p.ppid.to_string()),
            b"pgid" | b"pgrp" => ("PGID", p.group.to_string()),
            b"sid" | b"sess" => ("SID", p.session.to_string()),
            b"user" | b"uname" | b"euser" => ("USER", names.user(p.uid)),
            b"uid" | b"euid" => ("UID", p.uid.to_string()),
            b"comm" | b"ucmd" => ("COMMAND", Text(&p.comm).to_string()),
            b"args" | b"cmd" | b"command" => ("COMMAND", Text(&p.args).to_string()),
            b"tty" | b"tt" | b"tname" => ("TTY", p.tty.clone()),
            b"time" | b"cputime" => {
                ("TIME", alloc::format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60))
            }
            b"stat" | b"state" | b"s" => ("STAT", p.state.to_string()),
            b"nice" | b"ni" => ("NI", p.nice.to_string()),
            b"vsz" | b"vsize" => ("VSZ", p.virtual_kib.to_string()),
            b"rss" => ("RSS", p.resident_kib.to_string()),
            b"nlwp" | b"thcount" => ("NLWP", p.threads.to_string()),
            b"etimes" => ("ELAPSED", age.to_string()),
            b"etime" => ("ELAPSED", alloc::format!("{:02}:{:02}", age / 60, age % 60)),
            b"c" => ("C", (seconds * 100 / age.max(1)).min(99).to_string()),
            b"%cpu" | b"pcpu" => ("%CPU", alloc::format!("{:.1}", p.ticks as f64 / age.max(1) as f64)),
            b"%mem" | b"pmem" => ("%MEM", alloc::format!("{:.1}", p.resident_kib as f64 * 100.0 / total as f64)),
            b"stime" | b"start" => ("START", {
                let time = system::Time::from_unix(now - age as i64);
                Text(&time.format(if age < 86400 { b"%H:%M" } else { b"%b%d" })).to_string()
            }),
            _ => return None,
        })
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    for p in &list {
        let wanted = match (&only, &mine) {
            (Some(pids), _) => pids.contains(&i64::from(p.pid)),
            _ if all || format.is_empty() => true,
            // Without a terminal (a container's first process, say), everything of the user is of interest.
            (None, Some((tty, uid))) => p.uid == *uid && (p.tty == *tty || tty == "?"),
            (None, None) => true,
        };
        if !wanted {
            continue;
        }
        let mut row = Vec::new();
        for column in &format {
            let Some((title, text)) = cell(p, column) else {
                err!("ps: unknown column {}", Text(column));
                return 1;
            };
            if rows.is_empty() {
                rows.push(Vec::new());
            }
            if rows[0].len() < format.len() {
                rows[0].push(title.to_string());
            }
            row.push(text);
        }
        rows.push(row);
    }
    let mut out = Out::new(1);
    let widths: Vec<usize> = (0..format.len()).map(|i| rows.iter().map(|r| r[i].len()).max().unwrap_or(0)).collect();
    for row in &rows {
        for (index, text) in row.iter().enumerate() {
            let text_column = matches!(rows[0][index].as_str(), "USER" | "TTY" | "STAT" | "COMMAND");
            let width = widths[index];
            match (index + 1 == row.len(), text_column) {
                (true, _) => out!(out, "{text}\n"),
                (false, true) => out!(out, "{text:<width$} "),
                (false, false) => out!(out, "{text:>width$} "),
            }
        }
    }
    i32::from(only.is_some() && rows.len() < 2)
}

pub fn kill(args: &[&[u8]]) -> i32 {
    let mut rest = &args[1..];
    let mut signal = libc::SIGTERM;
    if let Some(first) = rest.first().filter(|a| a.starts_with(b"-") && a.len() > 1) {
        let mut name = &first[1..];
        rest = &rest[1..];
        if name == b"l" || name == b"L" {
            let mut out = Out::new(1);
            match rest.first().and_then(|n| io::number(n)) {
                Some(number) => out!(out, "{}\n", signals::name((number & 127) as i32)),
                None => (1..32).for_each(|n| out!(out, "{}\n", signals::name(n))),
            }
            return 0;
        }
        if name == b"s" || name == b"n" {
            name = rest.first().copied().unwrap_or_default();
            rest = rest.get(1..).unwrap_or_default();
        }
        if name != b"-" {
            let Some(number) = signals::parse(name) else {
                err!("kill: {}: no such signal", Text(name));
                return 1;
            };
            signal = number;
        }
    }
    if rest.first() == Some(&&b"--"[..]) {
        rest = &rest[1..];
    }
    if rest.is_empty() {
        err!("usage: kill [-SIGNAL] PID...");
        return 2;
    }
    let mut status = 0;
    for text in rest {
        let result = match io::number(text).and_then(|n| i32::try_from(n).ok()) {
            Some(pid) => sys::kill(pid, signal),
            None => Err(Errno(libc::EINVAL)),
        };
        if let Err(error) = result {
            err!("kill: {}: {error}", Text(text));
            status = 1;
        }
    }
    status
}

pub fn id(args: &[&[u8]]) -> i32 {
    let o = options!(args, "ugGnr");
    let names = Names::load();
    let [uid, euid, gid, egid] = sys::ids();
    let (uid, euid, gid, egid, groups) = match o.operands.first() {
        None => (uid, euid, gid, egid, sys::groups()),
        Some(name) => match users::by_name(name) {
            Some(user) => (user.uid, user.uid, user.gid, user.gid, Vec::new()),
            None => {
                err!("id: {}: no such user", Text(name));
                return 1;
            }
        },
    };
    let mut out = Out::new(1);
    let (user, group) = if o.has(b'r') { (uid, gid) } else { (euid, egid) };
    let mut all = Vec::from([egid]);
    all.extend(groups.into_iter().filter(|g| *g != egid));
    if o.has(b'u') {
        out.line(if o.has(b'n') { names.user(user) } else { user.to_string() }.as_bytes());
    } else if o.has(b'g') {
        out.line(if o.has(b'n') { names.group(group) } else { group.to_string() }.as_bytes());
    } else if o.has(b'G') {
        let list: Vec<String> = all.iter().map(|g| if o.has(b'n') { names.group(*g) } else { g.to_string() }).collect();
        out.line(list.join(" ").as_bytes());
    } else {
        let show = |id: u32, name: Option<String>| name.map_or(id.to_string(), |name| alloc::format!("{id}({name})"));
        out!(out, "uid={} gid={}", show(uid, names.known_user(uid)), show(gid, names.known_group(gid)));
        if euid != uid {
            out!(out, " euid={}", show(euid, names.known_user(euid)));
        }
        let list: Vec<String> = all.iter().map(|g| show(*g, names.known_group(*g))).collect();
        out!(out, " groups={}\n", list.join(","));
    }
    0
}

pub fn whoami(_: &[&[u8]]) -> i32 {
    let user = sys::ids()[1];
    match Names::load().known_user(user) {
        Some(name) => {
            Out::new(1).line(name.as_bytes());
            0
        }
        None => {
            err!("whoami: user {user} has no name");
            1
        }
    }
}

pub fn env(args: &[&[u8]]) -> i32 {
    let o = options!(args, "+iu:0");
    let mut all: Vec<&[u8]> = if o.has(b'i') { Vec::new() } else { sys::environment() };
    let named = |entry: &[u8], name: &[u8]| entry.strip_prefix(name).is_some_and(|rest| rest.starts_with(b"="));
    for name in o.values(b'u') {
        all.retain(|entry| !named(entry, name));
    }
    let mut command = o.operands.as_slice();
    while let Some((first, rest)) = command.split_first()
        && let Some(at) = first.iter().position(|b| *b == b'=')
    {
        all.retain(|entry| !named(entry, &first[..at]));
        all.push(first);
        command = rest;
    }
    if command.is_empty() {
        let mut out = Out::new(1);
        let end: &[u8] = if o.has(b'0') { b"\0" } else { b"\n" };
        for entry in all {
            out.put(entry);
            out.put(end);
        }
        return 0;
    }
    let path = all.iter().find_map(|entry| entry.strip_prefix(b"PATH=")).unwrap_or(exec::DEFAULT_PATH);
    exec::exec(b"env", command, &all, path)
}

pub fn printenv(args: &[&[u8]]) -> i32 {
    let mut out = Out::new(1);
    if args.len() == 1 {
        sys::environment().into_iter().for_each(|entry| out.line(entry));
        return 0;
    }
    let mut status = 0;
    for name in &args[1..] {
        match exec::variable(name) {
            Some(value) => out.line(value),
            None => status = 1,
        }
    }
    status
}

pub fn which(args: &[&[u8]]) -> i32 {
    let o = options!(args, "a");
    let path = exec::variable(b"PATH").unwrap_or(exec::DEFAULT_PATH);
    let mut out = Out::new(1);
    let mut status = 0;
    for name in &o.operands {
        let mut found = false;
        for directory in path.split(|b| *b == b':') {
            if let Ok(file) = exec::find(name, directory) {
                out.line(&file);
                found = true;
                if !o.has(b'a') {
                    break;
                }
            }
        }
        status |= i32::from(!found);
    }
    status
}

pub fn xargs(args: &[&[u8]]) -> i32 {
    let o = options!(args, "+0rtn:I:L:P:", &[("null", b'0'), ("no-run-if-empty", b'r')]);
    let input = io::read_to_end(0).unwrap_or_default();
    let mut items: Vec<Vec<u8>> = Vec::new();
    if o.has(b'0') {
        items.extend(input.split(|b| *b == 0).filter(|i| !i.is_empty()).map(<[u8]>::to_vec));
    } else if o.has(b'I') {
        items.extend(input.split(|b| *b == b'\n').map(|l| l.trim_ascii().to_vec()).filter(|l| !l.is_empty()));
    } else {
        // Blanks separate; quotes and backslashes keep them.
        let (mut item, mut exists, mut quote, mut escaped) = (Vec::new(), false, None, false);
        for byte in input.iter().chain(b"\n") {
            if escaped {
                item.push(*byte);
                escaped = false;
            } else if quote == Some(*byte) {
                quote = None;
            } else if quote.is_some() {
                item.push(*byte);
            } else {
                match byte {
                    b'\\' => (escaped, exists) = (true, true),
                    b'\'' | b'"' => (quote, exists) = (Some(*byte), true),
                    b if b.is_ascii_whitespace() => {
                        if core::mem::take(&mut exists) || !item.is_empty() {
                            items.push(core::mem::take(&mut item));
                        }
                    }
                    b => item.push(*b),
                }
            }
        }
    }
    let command: Vec<&[u8]> = if o.operands.is_empty() { Vec::from([&b"echo"[..]]) } else { o.operands.clone() };
    let most =
        o.value(b'n').or(o.value(b'L')).and_then(io::number).filter(|n| *n > 0).map_or(usize::MAX, |n| n as usize);
    let mut status = 0;
    let mut run = |words: &[&[u8]]| -> bool {
        if o.has(b't') {
            io::Out::new(2).line(&words.join(&b' '));
        }
        match exec::run(b"xargs", words).map(sys::End::status) {
            Ok(0) => {}
            Ok(code @ (126 | 127)) => {
                status = code;
                return false;
            }
            Ok(255) => {
                status = 124;
                return false;
            }
            Ok(_) => status = 123,
            Err(error) => {
                err!("xargs: {error}");
                status = 126;
                return false;
            }
        }
        true
    };
    if let Some(mark) = o.value(b'I') {
        for item in &items {
            let replaced: Vec<Vec<u8>> = command.iter().map(|word| replace(word, mark, item)).collect();
            if !run(&replaced.iter().map(Vec::as_slice).collect::<Vec<_>>()) {
                break;
            }
        }
        return status;
    }
    if items.is_empty() {
        if !o.has(b'r') {
            run(&command);
        }
        return status;
    }
    let mut rest = items.as_slice();
    while !rest.is_empty() {
        // Well below the kernel's limit on all arguments together.
        let mut bytes = 0;
        let fit = rest.iter().take_while(|item| {
            bytes += item.len() + 9;
            bytes < 128 << 10
        });
        let count = fit.count().clamp(1, most);
        let words: Vec<&[u8]> = command.iter().copied().chain(rest[..count].iter().map(Vec::as_slice)).collect();
        if !run(&words) {
            break;
        }
        rest = &rest[count..];
    }
    status
}

fn replace(text: &[u8], mark: &[u8], with: &[u8]) -> Vec<u8> {
    let mut result = Vec::new();
    let mut rest = text;
    while !mark.is_empty()
        && let Some(at) = rest.windows(mark.len()).position(|w| w == mark)
    {
        result.extend_from_slice(&rest[..at]);
        result.extend_from_slice(with);
        rest = &rest[at + mark.len()..];
    }
    result.extend_from_slice(rest);
    result
}

pub fn time(args: &[&[u8]]) -> i32 {
    let o = options!(args, "+p");
    let start = sys::now();
    let pid = match sys::fork() {
        Ok(None) => sys::exit(exec::exec_here(b"time", &o.operands)),
        Ok(Some(pid)) => pid,
        Err(error) => {
            err!("time: {error}");
            return 126;
        }
    };
    let Ok((_, end, usage)) = sys::wait_usage(pid) else { return 126 };
    let real = (sys::now() - start) as f64 / 1e9;
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    err!("real {real:.4}\nuser {:.4}\nsys {:.4}", seconds(usage.ru_utime), seconds(usage.ru_stime));
    err!("maximum resident {} KiB, page faults {}", usage.ru_maxrss, usage.ru_minflt + usage.ru_majflt);
    end.status()
}

pub fn timeout(args: &[&[u8]]) -> i32 {
    let o = options!(args, "+s:k:");
    let (signal, grace) =
        (o.value(b's').map_or(Some(libc::SIGTERM), signals::parse), o.value(b'k').map(system::duration));
    let (Some(limit), Some(signal), false) =
        (o.operands.first().and_then(|t| system::duration(t)), signal, grace == Some(None))
    else {
        err!("usage: timeout [-s SIGNAL] [-k SECONDS] SECONDS COMMAND...");
        return 125;
    };
    sys::block_signals(true);
    let pid = match sys::fork() {
        Ok(None) => {
            sys::block_signals(false);
            sys::exit(exec::exec_here(b"timeout", &o.operands[1..]))
        }
        Ok(Some(pid)) => pid,
        Err(error) => {
            err!("timeout: {error}");
            return 125;
        }
    };
    let mut deadline = Some(sys::now().saturating_add(limit)).filter(|_| limit > 0);
    let mut expired = false;
    let mut last = signal;
    loop {
        if let Ok(Some((_, end))) = sys::wait(pid, libc::WNOHANG) {
            return if expired && last != libc::SIGKILL { 124 } else { end.status() };
        }
        match sys::wait_signal(deadline.map(|d| d.saturating_sub(sys::now()))) {
            Ok(libc::SIGCHLD) | Err(Errno(libc::EINTR)) => {}
            Ok(other) => drop(sys::kill(pid, other)),
            Err(_) => {
                last = if expired { libc::SIGKILL } else { signal };
                let _ = sys::kill(pid, last);
                let _ = sys::kill(pid, libc::SIGCONT);
                deadline = if expired { None } else { grace.flatten().map(|g| sys::now() + g) };
                expired = true;
            }
        }
    }
}

/// Capabilities by bit (capabilities(7), linux/capability.h).
const CAPABILITIES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

pub fn caps(args: &[&[u8]]) -> i32 {
    let pid = args.get(1).copied().unwrap_or(b"self");
    let status = match io::read_file(&[b"/proc/", pid, b"/status"].concat()) {
        Ok(status) => status,
        Err(error) => {
            err!("caps: {}: {error}", Text(pid));
            return 1;
        }
    };
    let mut out = Out::new(1);
    for line in status.split(|b| *b == b'\n') {
        let mut parts = io::words(line);
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
        if name.starts_with(b"NoNewPrivs") || name.starts_with(b"Seccomp") {
            out.line(&[name, b" ", value].concat());
        }
        let Some(set) = name.strip_prefix(b"Cap") else { continue };
        let bits = core::str::from_utf8(value).ok().and_then(|v| u64::from_str_radix(v, 16).ok()).unwrap_or(0);
        let names: Vec<&str> =
            CAPABILITIES.iter().enumerate().filter(|(i, _)| bits >> i & 1 != 0).map(|(_, n)| *n).collect();
        let unknown = bits >> CAPABILITIES.len();
        out!(out, "Cap{} {}", Text(set), if names.is_empty() { "none".into() } else { names.join(",") });
        if unknown != 0 {
            out!(out, " and unknown bits {:#x}", unknown << CAPABILITIES.len());
        }
        out.put(b"\n");
    }
    0
}
