//! Applets on the system: names, time, memory, mounts, the terminal.

use crate::io::{self, Out, Text};
use crate::sys;
use crate::{err, options, out};
use alloc::string::ToString;
use alloc::vec::Vec;

pub fn uname(args: &[&[u8]]) -> i32 {
    let o = options!(args, "asnrvmopi", &[("all", b'a')]);
    let name = sys::uname();
    let text = |field: &[libc::c_char]| field.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect::<Vec<u8>>();
    let fields = [
        (b's', text(&name.sysname)),
        (b'n', text(&name.nodename)),
        (b'r', text(&name.release)),
        (b'v', text(&name.version)),
        (b'm', text(&name.machine)),
        (b'o', b"Linux".to_vec()),
    ];
    let any = args.len() > 1;
    let wanted = fields.iter().filter(|(l, _)| {
        o.has(b'a') || o.has(*l) || (!any && *l == b's') || (*l == b'm' && (o.has(b'p') || o.has(b'i')))
    });
    let wanted: Vec<&[u8]> = wanted.map(|(_, t)| t.as_slice()).collect();
    Out::new(1).line(&wanted.join(&b' '));
    0
}

pub fn hostname(args: &[&[u8]]) -> i32 {
    if let Some(name) = args.get(1).filter(|a| !a.starts_with(b"-")) {
        return fails("hostname", name, sys::set_hostname(name));
    }
    uname(&[b"uname", b"-n"])
}

fn fails(applet: &str, what: &[u8], result: sys::Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            err!("{applet}: {}: {error}", Text(what));
            1
        }
    }
}

pub fn pwd(_: &[&[u8]]) -> i32 {
    match sys::getcwd() {
        Ok(directory) => {
            Out::new(1).line(&directory);
            0
        }
        Err(error) => fails("pwd", b".", Err(error)),
    }
}

/// `1.5`, `10s`, `2m`, `1h`, `1d` or `infinity` in nanoseconds.
pub fn duration(text: &[u8]) -> Option<u64> {
    if text == b"infinity" || text == b"inf" {
        return Some(u64::MAX);
    }
    let (number, unit) = match text.split_last()? {
        (b's', rest) => (rest, 1.0),
        (b'm', rest) => (rest, 60.0),
        (b'h', rest) => (rest, 3600.0),
        (b'd', rest) => (rest, 86400.0),
        _ => (text, 1.0),
    };
    let number: f64 = core::str::from_utf8(number).ok()?.parse().ok()?;
    (number >= 0.0 && number.is_finite()).then_some((number * unit * 1e9) as u64)
}

pub fn sleep(args: &[&[u8]]) -> i32 {
    let mut total = 0u64;
    if args.len() < 2 {
        err!("usage: sleep SECONDS[smhd]...");
        return 2;
    }
    for text in &args[1..] {
        match duration(text) {
            Some(time) => total = total.saturating_add(time),
            None => {
                err!("sleep: {}: not a duration", Text(text));
                return 1;
            }
        }
    }
    let end = sys::now().saturating_add(total);
    loop {
        let left = end.saturating_sub(sys::now());
        if left == 0 {
            return 0;
        }
        let _ = sys::sleep(left);
    }
}

pub fn sync(_: &[&[u8]]) -> i32 {
    sys::sync();
    0
}

pub fn nproc(_: &[&[u8]]) -> i32 {
    let count: u32 = sys::affinity().unwrap_or_default().iter().map(|w| w.count_ones()).sum();
    out!(Out::new(1), "{}\n", count.max(1));
    0
}

// ---- time ----

/// A moment taken apart, in UTC.
pub struct Time {
    unix: i64,
    year: i64,
    month: usize,
    day: i64,
    weekday: usize,
    yearday: i64,
    seconds: i64,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl Time {
    /// From seconds since 1970. The year is thought to begin in March, so that the leap day is its last.
    pub fn from_unix(unix: i64) -> Self {
        let (days, seconds) = (unix.div_euclid(86400), unix.rem_euclid(86400));
        let from_march = days + 719_468;
        let (era, day_of_era) = (from_march.div_euclid(146_097), from_march.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let month = (month + 2) % 12;
        let year = era * 400 + year_of_era + i64::from(month < 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][month as usize];
        let yearday = before + day - 1 + i64::from(leap && month > 1);
        let weekday = (days + 4).rem_euclid(7) as usize;
        Self { unix, year, month: month as usize, day, weekday, yearday, seconds }
    }

    /// As strftime(3) in the C locale and UTC.
    pub fn format(&self, format: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        let (hour, minute, second) = (self.seconds / 3600, self.seconds / 60 % 60, self.seconds % 60);
        let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
        let mut bytes = format.iter();
        while let Some(byte) = bytes.next() {
            if *byte != b'%' {
                text.push(*byte);
                continue;
            }
            let mut letter = bytes.next();
            let bare = letter == Some(&b'-');
            if bare {
                letter = bytes.next();
            }
            let two = |n: i64| if bare { n.to_string() } else { alloc::format!("{n:02}") };
            let shown = match letter {
                Some(b'Y') => self.year.to_string(),
                Some(b'y') => two(self.year % 100),
                Some(b'C') => two(self.year / 100),
                Some(b'm') => two(self.month as i64 + 1),
                Some(b'd') => two(self.day),
                Some(b'e') => alloc::format!("{:2}", self.day),
                Some(b'H') => two(hour),
                Some(b'I') => two(twelve),
                Some(b'M') => two(minute),
                Some(b'S') => two(second),
                Some(b'p') => if hour < 12 { "AM" } else { "PM" }.to_string(),
                Some(b'j') => alloc::format!("{:03}", self.yearday + 1),
                Some(b'u') => (if self.weekday == 0 { 7 } else { self.weekday }).to_string(),
                Some(b'w') => self.weekday.to_string(),
                Some(b'a') => DAYS[self.weekday][..3].to_string(),
                Some(b'A') => DAYS[self.weekday].to_string(),
                Some(b'b' | b'h') => MONTHS[self.month][..3].to_string(),
                Some(b'B') => MONTHS[self.month].to_string(),
                Some(b's') => self.unix.to_string(),
                Some(b'N') => alloc::format!("{:09}", sys::clock(libc::CLOCK_REALTIME).tv_nsec),
                Some(b'Z') => "UTC".to_string(),
                Some(b'z') => "+0000".to_string(),
                Some(b'n') => "\n".to_string(),
                Some(b't') => "\t".to_string(),
                Some(b'%') => "%".to_string(),
                Some(b'T') => return_into(&mut text, self.format(b"%H:%M:%S")),
                Some(b'R') => return_into(&mut text, self.format(b"%H:%M")),
                Some(b'F') => return_into(&mut text, self.format(b"%Y-%m-%d")),
                Some(b'D' | b'x') => return_into(&mut text, self.format(b"%m/%d/%y")),
                Some(b'X') => return_into(&mut text, self.format(b"%H:%M:%S")),
                Some(b'c') => return_into(&mut text, self.format(b"%a %b %e %H:%M:%S %Y")),
                Some(other) => alloc::format!("%{}", char::from(*other)),
                None => "%".to_string(),
            };
            text.extend_from_slice(shown.as_bytes());
        }
        text
    }
}

/// Appends a composed format, leaving nothing more to append.
fn return_into(text: &mut Vec<u8>, composed: Vec<u8>) -> alloc::string::String {
    text.extend(composed);
    alloc::string::String::new()
}

pub fn date(args: &[&[u8]]) -> i32 {
    let o = options!(args, "ud:s:IR", &[("date", b'd'), ("set", b's'), ("utc", b'u')]);
    let seconds = |text: &[u8]| text.strip_prefix(b"@").and_then(io::number);
    let mut now = sys::clock(libc::CLOCK_REALTIME).tv_sec;
    for letter in [b'd', b's'] {
        let Some(text) = o.value(letter) else { continue };
        let Some(time) = seconds(text).or_else(|| (text == b"now").then_some(now)) else {
            err!("date: {}: the time is given as @SECONDS since 1970", Text(text));
            return 1;
        };
        now = time;
        if letter == b's'
            && let Err(error) = sys::set_clock(time)
        {
            err!("date: cannot set the clock: {error}");
            return 1;
        }
    }
    let format: &[u8] = match o.operands.first().map(|f| f.strip_prefix(b"+").ok_or(*f)) {
        None if o.has(b'I') => b"%Y-%m-%d",
        None if o.has(b'R') => b"%a, %d %b %Y %H:%M:%S +0000",
        None => b"%a %b %e %H:%M:%S UTC %Y",
        Some(Ok(format)) => format,
        Some(Err(bad)) => {
            err!("date: {}: a format begins with +", Text(bad));
            return 1;
        }
    };
    Out::new(1).line(&Time::from_unix(now).format(format));
    0
}

// ---- memory and file systems ----

/// A line of /proc/meminfo in KiB, by its name with the colon.
pub fn memory(name: &[u8]) -> Option<u64> {
    let text = io::read_file(b"/proc/meminfo").ok()?;
    let line = text.split(|b| *b == b'\n').find(|l| l.starts_with(name))?;
    io::number(io::words(line).nth(1)?).map(|n| n as u64)
}

pub fn free(args: &[&[u8]]) -> i32 {
    let o = options!(args, "hbkmg");
    let get = |name: &[u8]| memory(name).unwrap_or(0) * 1024;
    if memory(b"MemTotal:").is_none() {
        err!("free: no /proc/meminfo: is /proc mounted?");
        return 1;
    }
    let show = |bytes: u64| match o.last_of(b"hbkmg") {
        Some(b'h') => io::human(bytes),
        Some(b'b') => bytes.to_string(),
        Some(b'm') => (bytes >> 20).to_string(),
        Some(b'g') => (bytes >> 30).to_string(),
        _ => (bytes >> 10).to_string(),
    };
    let (total, unused, available) = (get(b"MemTotal:"), get(b"MemFree:"), get(b"MemAvailable:"));
    let cache = get(b"Buffers:") + get(b"Cached:") + get(b"SReclaimable:");
    let used = total.saturating_sub(available);
    let mut out = Out::new(1);
    out!(
        out,
        "{:<6} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11}\n",
        "",
        "total",
        "used",
        "free",
        "shared",
        "buff/cache",
        "available"
    );
    let row = [total, used, unused, get(b"Shmem:"), cache, available].map(show);
    out!(
        out,
        "{:<6} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11}\n",
        "Mem:",
        row[0],
        row[1],
        row[2],
        row[3],
        row[4],
        row[5]
    );
    let (swap, swap_free) = (get(b"SwapTotal:"), get(b"SwapFree:"));
    let row = [swap, swap.saturating_sub(swap_free), swap_free].map(show);
    out!(out, "{:<6} {:>11} {:>11} {:>11}\n", "Swap:", row[0], row[1], row[2]);
    0
}

struct Mount {
    source: Vec<u8>,
    target: Vec<u8>,
    kind: Vec<u8>,
    options: Vec<u8>,
}

/// The mounts of this namespace; `\040` and its like decoded.
fn mounts() -> sys::Result<Vec<Mount>> {
    let text = io::read_file(b"/proc/self/mounts")?;
    let decode = |field: &[u8]| {
        let mut bytes = Vec::new();
        let mut rest = field;
        while let Some((first, after)) = rest.split_first() {
            let code = (*first == b'\\').then(|| after.get(..3)).flatten();
            let code = code.and_then(|c| u8::from_str_radix(core::str::from_utf8(c).ok()?, 8).ok());
            bytes.push(code.unwrap_or(*first));
            rest = if code.is_some() { &after[3..] } else { after };
        }
        bytes
    };
    let parse = |line: &[u8]| {
        let mut fields = io::words(line).map(decode);
        Some(Mount { source: fields.next()?, target: fields.next()?, kind: fields.next()?, options: fields.next()? })
    };
    Ok(text.split(|b| *b == b'\n').filter_map(parse).collect())
}

pub fn df(args: &[&[u8]]) -> i32 {
    let o = options!(args, "hkmaTPi");
    let mut status = 0;
    let all = match mounts() {
        Ok(all) => all,
        Err(error) => return fails("df", b"/proc/self/mounts", Err(error)),
    };
    let mut rows = Vec::new();
    let mut row = |source: &[u8], target: &[u8], explicit: bool| {
        let fs = match sys::statfs(target) {
            Ok(fs) => fs,
            Err(error) => return if explicit { fails("df", target, Err(error)) } else { 0 },
        };
        if fs.f_blocks == 0 && !explicit && !o.has(b'a') {
            return 0;
        }
        let unit = fs.f_bsize as u64;
        let (total, free, available) = (fs.f_blocks * unit, fs.f_bfree * unit, fs.f_bavail * unit);
        let used = total.saturating_sub(free);
        let percent = (used * 100).div_ceil((used + available).max(1));
        let show = |bytes: u64| match o.last_of(b"hkm") {
            Some(b'h') => io::human(bytes),
            Some(b'm') => (bytes >> 20).to_string(),
            _ => (bytes >> 10).to_string(),
        };
        rows.push((source.to_vec(), [show(total), show(used), show(available)], percent, target.to_vec()));
        0
    };
    if o.operands.is_empty() {
        all.iter().for_each(|m| status |= row(&m.source, &m.target, false));
    }
    for path in &o.operands {
        let device = sys::stat(path, true).map(|s| s.st_dev);
        let found = all.iter().rev().find(|m| device.is_ok() && sys::stat(&m.target, true).map(|s| s.st_dev) == device);
        status |= match found {
            Some(mount) => row(&mount.source, &mount.target, true),
            None => row(b"-", path, true),
        };
    }
    let width = rows.iter().map(|r| r.0.len()).max().unwrap_or(0).max(10);
    let mut out = Out::new(1);
    let unit = if o.has(b'h') {
        "Size"
    } else if o.has(b'm') {
        "1M-blocks"
    } else {
        "1K-blocks"
    };
    out!(out, "{:<width$} {unit:>10} {:>10} {:>10} Use% Mounted on\n", "Filesystem", "Used", "Available");
    for (source, [total, used, available], percent, target) in rows {
        out!(out, "{:<width$} {total:>10} {used:>10} {available:>10} {percent:>3}% {}\n", Text(&source), Text(&target));
    }
    status
}

/// Mount options that are flags: name, flag, and whether the name clears it.
const MOUNT_FLAGS: [(&str, u64, bool); 26] = [
    ("ro", libc::MS_RDONLY, false),
    ("rw", libc::MS_RDONLY, true),
    ("nosuid", libc::MS_NOSUID, false),
    ("suid", libc::MS_NOSUID, true),
    ("nodev", libc::MS_NODEV, false),
    ("dev", libc::MS_NODEV, true),
    ("noexec", libc::MS_NOEXEC, false),
    ("exec", libc::MS_NOEXEC, true),
    ("sync", libc::MS_SYNCHRONOUS, false),
    ("async", libc::MS_SYNCHRONOUS, true),
    ("noatime", libc::MS_NOATIME, false),
    ("atime", libc::MS_NOATIME, true),
    ("nodiratime", libc::MS_NODIRATIME, false),
    ("relatime", libc::MS_RELATIME, false),
    ("strictatime", libc::MS_STRICTATIME, false),
    ("remount", libc::MS_REMOUNT, false),
    ("bind", libc::MS_BIND, false),
    ("rbind", libc::MS_BIND | libc::MS_REC, false),
    ("move", libc::MS_MOVE, false),
    ("private", libc::MS_PRIVATE, false),
    ("rprivate", libc::MS_PRIVATE | libc::MS_REC, false),
    ("slave", libc::MS_SLAVE, false),
    ("rslave", libc::MS_SLAVE | libc::MS_REC, false),
    ("shared", libc::MS_SHARED, false),
    ("rshared", libc::MS_SHARED | libc::MS_REC, false),
    ("defaults", 0, false),
];

pub fn mount(args: &[&[u8]]) -> i32 {
    // `--bind` and its like are spelled as long options; they are the mount options of that name.
    let mut words: Vec<&[u8]> = Vec::new();
    let mut listed: Vec<&[u8]> = Vec::new();
    for arg in args {
        match arg.strip_prefix(b"--").or_else(|| arg.strip_prefix(b"--make-")) {
            Some(name) if !name.is_empty() && name != b"types" => {
                listed.push(name.strip_prefix(b"make-").unwrap_or(name))
            }
            _ => words.push(arg),
        }
    }
    let o = options!(&words, "t:o:rwv");
    if o.operands.is_empty() && listed.is_empty() {
        let mut out = Out::new(1);
        return match mounts() {
            Ok(all) => {
                for m in all.iter().filter(|m| o.value(b't').is_none_or(|t| t == m.kind)) {
                    out!(
                        out,
                        "{} on {} type {} ({})\n",
                        Text(&m.source),
                        Text(&m.target),
                        Text(&m.kind),
                        Text(&m.options)
                    );
                }
                0
            }
            Err(error) => fails("mount", b"/proc/self/mounts", Err(error)),
        };
    }
    let mut flags = if o.has(b'r') { libc::MS_RDONLY } else { 0 };
    let mut data: Vec<&[u8]> = Vec::new();
    listed.extend(o.values(b'o').into_iter().flat_map(|list| list.split(|b| *b == b',')));
    for option in listed {
        match MOUNT_FLAGS.iter().find(|(name, ..)| name.as_bytes() == option) {
            Some((_, flag, false)) => flags |= flag,
            Some((_, flag, true)) => flags &= !flag,
            None => data.push(option),
        }
    }
    let (source, target) = match o.operands.as_slice() {
        [target] => (&b"none"[..], *target),
        [source, target] => (*source, *target),
        _ => {
            err!("usage: mount [-t TYPE] [-o OPTIONS] SOURCE TARGET");
            return 2;
        }
    };
    let data = data.join(&b',');
    let kind = o.value(b't').unwrap_or(b"");
    let needs_kind = flags
        & (libc::MS_BIND | libc::MS_MOVE | libc::MS_REMOUNT | libc::MS_PRIVATE | libc::MS_SLAVE | libc::MS_SHARED)
        == 0;
    if !kind.is_empty() || !needs_kind {
        let result = sys::mount(source, target, kind, flags, &data);
        // The first call of a bind mount ignores its other flags; a second one applies them.
        let rest = flags & !(libc::MS_BIND | libc::MS_REC);
        let again = flags & libc::MS_BIND != 0 && rest != 0 && rest & libc::MS_REMOUNT == 0;
        let result = if again {
            result.and_then(|()| sys::mount(source, target, kind, flags | libc::MS_REMOUNT, &data))
        } else {
            result
        };
        return fails("mount", target, result);
    }
    // Without a type, each the kernel knows for block devices.
    let known = io::read_file(b"/proc/filesystems").unwrap_or_default();
    let mut result = Err(sys::Errno(libc::ENODEV));
    for kind in known
        .split(|b| *b == b'\n')
        .filter(|l| !l.starts_with(b"nodev"))
        .map(|l| l.trim_ascii())
        .filter(|l| !l.is_empty())
    {
        result = sys::mount(source, target, kind, flags, &data);
        if result.is_ok() {
            break;
        }
    }
    fails("mount", target, result)
}

pub fn umount(args: &[&[u8]]) -> i32 {
    let o = options!(args, "lfv");
    let flags = if o.has(b'l') { libc::MNT_DETACH } else { 0 } | if o.has(b'f') { libc::MNT_FORCE } else { 0 };
    if o.operands.is_empty() {
        err!("usage: umount [-lf] TARGET...");
        return 2;
    }
    o.operands.iter().fold(0, |status, target| status.max(fails("umount", target, sys::umount(target, flags))))
}

// ---- terminal ----

pub fn tty(_: &[&[u8]]) -> i32 {
    if !sys::is_terminal(0) {
        Out::new(1).line(b"not a tty");
        return 1;
    }
    Out::new(1).line(&sys::readlink(b"/proc/self/fd/0").unwrap_or_else(|_| b"/dev/tty".to_vec()));
    0
}

pub fn stty(args: &[&[u8]]) -> i32 {
    let mut terminal = match sys::terminal(0) {
        Ok(terminal) => terminal,
        Err(error) => return fails("stty", b"standard input", Err(error)),
    };
    let (rows, columns) = sys::terminal_size(0).unwrap_or((0, 0));
    let flags = [
        ("echo", libc::ECHO),
        ("icanon", libc::ICANON),
        ("isig", libc::ISIG),
        ("echoe", libc::ECHOE),
        ("iexten", libc::IEXTEN),
    ];
    let mut words = args[1..].iter();
    let mut out = Out::new(1);
    if args.len() == 1 || args[1] == b"-a" {
        out!(out, "rows {rows}; columns {columns};\n");
        for (name, flag) in flags {
            out!(out, "{}{name} ", if terminal.lflag & flag == 0 { "-" } else { "" });
        }
        out.put(b"\n");
        return 0;
    }
    let (mut new_rows, mut new_columns) = (rows, columns);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|w| io::number(w)).and_then(|n| u16::try_from(n).ok());
        match *word {
            b"size" => out!(out, "{rows} {columns}\n"),
            b"rows" => new_rows = number().unwrap_or(rows),
            b"cols" | b"columns" => new_columns = number().unwrap_or(columns),
            b"raw" | b"-cooked" => {
                terminal.lflag &= !(libc::ICANON | libc::ISIG | libc::IEXTEN);
                terminal.iflag &= !(libc::ICRNL | libc::IXON | libc::BRKINT | libc::INPCK | libc::ISTRIP);
                terminal.oflag &= !libc::OPOST;
            }
            b"sane" | b"-raw" | b"cooked" => {
                terminal.lflag |= libc::ICANON | libc::ISIG | libc::IEXTEN | libc::ECHO | libc::ECHOE | libc::ECHOK;
                terminal.iflag |= libc::ICRNL | libc::IXON;
                terminal.oflag |= libc::OPOST | libc::ONLCR;
            }
            word => {
                let off = word.starts_with(b"-");
                let name = word.strip_prefix(b"-").unwrap_or(word);
                let Some((_, flag)) = flags.iter().find(|(n, _)| n.as_bytes() == name) else {
                    err!("stty: {}: unknown setting", Text(word));
                    return 1;
                };
                if off { terminal.lflag &= !flag } else { terminal.lflag |= flag }
            }
        }
    }
    if (new_rows, new_columns) != (rows, columns)
        && let Err(error) = sys::set_terminal_size(0, new_rows, new_columns)
    {
        return fails("stty", b"size", Err(error));
    }
    fails("stty", b"standard input", sys::set_terminal(0, &terminal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days_and_the_epoch() {
        for (unix, text) in [
            (0, "1970-01-01 Thu 001"),
            (951_782_400, "2000-02-29 Tue 060"),
            (-1, "1969-12-31 Wed 365"),
            (1_735_689_599, "2024-12-31 Tue 366"),
        ] {
            assert_eq!(Time::from_unix(unix).format(b"%F %a %j"), text.as_bytes());
        }
    }

    #[test]
    fn durations_take_fractions_and_units() {
        assert_eq!(duration(b"0.5"), Some(500_000_000));
        assert_eq!(duration(b"2m"), Some(120_000_000_000));
        assert_eq!(duration(b"-1"), None);
        assert_eq!(duration(b"x"), None);
    }
}
