//! Applets on files and directories.

use crate::io::{self, Out, Text};
use crate::sys::{self, Errno, Result, Stat};
use crate::users::{self, Names};
use crate::{err, options, out, pattern, system};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

fn kind(stat: &Stat) -> u32 {
    stat.st_mode & libc::S_IFMT
}

fn is_directory(path: &[u8]) -> bool {
    sys::stat(path, true).is_ok_and(|s| kind(&s) == libc::S_IFDIR)
}

fn report(applet: &str, path: &[u8], error: impl core::fmt::Display) -> i32 {
    err!("{applet}: {}: {error}", Text(path));
    1
}

/// Applies `f` to each operand and reports failures.
fn each(applet: &str, operands: &[&[u8]], mut f: impl FnMut(&[u8]) -> Result<()>) -> i32 {
    if operands.is_empty() {
        err!("{applet}: missing operand; try --help");
        return 2;
    }
    operands.iter().fold(0, |status, path| match f(path) {
        Ok(()) => status,
        Err(error) => report(applet, path, error),
    })
}

/// Visits a tree, parents first, links not followed. The depth of the start is 0.
pub fn walk(path: &[u8], f: &mut dyn FnMut(&[u8], &Stat)) {
    walk_depth(path, 0, usize::MAX, &mut |path, stat, _| f(path, stat), false);
}

fn walk_depth(
    path: &[u8],
    depth: usize,
    deepest: usize,
    f: &mut dyn FnMut(&[u8], &Stat, usize),
    children_first: bool,
) -> i32 {
    let stat = match sys::stat(path, false) {
        Ok(stat) => stat,
        Err(error) => {
            io::complain(path, &error);
            return 1;
        }
    };
    if !children_first {
        f(path, &stat, depth);
    }
    let mut status = 0;
    if kind(&stat) == libc::S_IFDIR && depth < deepest {
        match sys::read_dir(path) {
            Ok(mut entries) => {
                entries.sort_by(|a, b| a.name.cmp(&b.name));
                for entry in entries {
                    status |= walk_depth(&io::join(path, &entry.name), depth + 1, deepest, f, children_first);
                }
            }
            Err(error) => {
                io::complain(path, &error);
                status = 1;
            }
        }
    }
    if children_first {
        f(path, &stat, depth);
    }
    status
}

/// The mode as `ls -l` shows it, `drwxr-xr-x`.
pub fn mode_text(mode: u32) -> String {
    let mut text = String::new();
    text.push(match mode & libc::S_IFMT {
        libc::S_IFDIR => 'd',
        libc::S_IFLNK => 'l',
        libc::S_IFCHR => 'c',
        libc::S_IFBLK => 'b',
        libc::S_IFIFO => 'p',
        libc::S_IFSOCK => 's',
        _ => '-',
    });
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift & 7;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn device(number: u64) -> (u64, u64) {
    ((number >> 8 & 0xfff) | (number >> 32 & !0xfff), (number & 0xff) | (number >> 12 & !0xff))
}

/// Owner and group, size, and number of links, as `ls -l` shows them.
type Columns = ([String; 2], String, String);

struct Listed {
    name: Vec<u8>,
    path: Vec<u8>,
    stat: Stat,
}

pub fn ls(args: &[&[u8]]) -> i32 {
    let o = options!(args, "lahR1dAtSrFinCLpg", &[("all", b'a'), ("human-readable", b'h'), ("recursive", b'R')]);
    let names = Names::load();
    let mut out = Out::new(1);
    let mut status = 0;
    let (mut plain, mut directories) = (Vec::new(), Vec::new());
    let operands = if o.operands.is_empty() { Vec::from([&b"."[..]]) } else { o.operands.clone() };
    for operand in &operands {
        let follow = !o.has(b'l') && !o.has(b'd') || o.has(b'L');
        match sys::stat(operand, follow).or_else(|_| sys::stat(operand, false)) {
            Ok(stat) if kind(&stat) == libc::S_IFDIR && !o.has(b'd') => directories.push(operand.to_vec()),
            Ok(stat) => plain.push(Listed { name: operand.to_vec(), path: operand.to_vec(), stat }),
            Err(error) => status = report("ls", operand, error),
        }
    }
    let columns = !o.has(b'1') && !o.has(b'l') && (o.has(b'C') || sys::is_terminal(1));
    let columns = columns.then(|| sys::terminal_size(1).map_or(80, |(_, c)| usize::from(c.max(20))));
    let show = |out: &mut Out, mut list: Vec<Listed>| {
        list.sort_by(|a, b| {
            let order = match o.last_of(b"tS") {
                Some(b't') => (b.stat.st_mtime, b.stat.st_mtime_nsec).cmp(&(a.stat.st_mtime, a.stat.st_mtime_nsec)),
                Some(_) => b.stat.st_size.cmp(&a.stat.st_size),
                None => core::cmp::Ordering::Equal,
            };
            let order = order.then_with(|| a.name.cmp(&b.name));
            if o.has(b'r') { order.reverse() } else { order }
        });
        let mark = |stat: &Stat| match kind(stat) {
            libc::S_IFDIR if o.has(b'F') || o.has(b'p') => "/",
            libc::S_IFLNK if o.has(b'F') => "@",
            libc::S_IFIFO if o.has(b'F') => "|",
            libc::S_IFSOCK if o.has(b'F') => "=",
            libc::S_IFREG if o.has(b'F') && stat.st_mode & 0o111 != 0 => "*",
            _ => "",
        };
        if let Some(width) = columns {
            let widest = list.iter().map(|l| l.name.len() + mark(&l.stat).len()).max().unwrap_or(0) + 2;
            let across = (width / widest).max(1);
            let down = list.len().div_ceil(across);
            for row in 0..down {
                for (column, item) in list.iter().skip(row).step_by(down).enumerate() {
                    let shown = [&item.name, mark(&item.stat).as_bytes()].concat();
                    out.put(&shown);
                    if row + (column + 1) * down < list.len() {
                        (shown.len()..widest).for_each(|_| out.put(b" "));
                    }
                }
                out.put(b"\n");
            }
            return;
        }
        let size = |stat: &Stat| match kind(stat) {
            libc::S_IFCHR | libc::S_IFBLK => {
                let (major, minor) = device(stat.st_rdev);
                alloc::format!("{major}, {minor}")
            }
            _ if o.has(b'h') => io::human(stat.st_size as u64),
            _ => stat.st_size.to_string(),
        };
        let owner = |stat: &Stat| {
            if o.has(b'n') {
                [stat.st_uid.to_string(), stat.st_gid.to_string()]
            } else {
                [names.user(stat.st_uid), names.group(stat.st_gid)]
            }
        };
        let long: Vec<_> = list
            .iter()
            .filter(|_| o.has(b'l'))
            .map(|l| (owner(&l.stat), size(&l.stat), l.stat.st_nlink.to_string()))
            .collect();
        let width = |f: fn(&Columns) -> usize| long.iter().map(f).max().unwrap_or(0);
        let (users, groups) = (width(|l| l.0[0].len()), width(|l| l.0[1].len()));
        let (sizes, links) = (width(|l| l.1.len()), width(|l| l.2.len()));
        let now = sys::clock(libc::CLOCK_REALTIME).tv_sec;
        for (index, item) in list.iter().enumerate() {
            if o.has(b'i') {
                out!(out, "{:>8} ", item.stat.st_ino);
            }
            if let Some((owner, size, link)) = long.get(index) {
                let time = system::Time::from_unix(item.stat.st_mtime);
                let when = if (now - item.stat.st_mtime).abs() < 182 * 86400 {
                    time.format(b"%b %e %H:%M")
                } else {
                    time.format(b"%b %e  %Y")
                };
                let mode = mode_text(item.stat.st_mode);
                out!(
                    out,
                    "{mode} {link:>links$} {:<users$} {:<groups$} {size:>sizes$} {} ",
                    owner[0],
                    owner[1],
                    Text(&when)
                );
            }
            out.put(&item.name);
            out.put(mark(&item.stat).as_bytes());
            if o.has(b'l') && kind(&item.stat) == libc::S_IFLNK {
                out.put(b" -> ");
                out.put(&sys::readlink(&item.path).unwrap_or_default());
            }
            out.put(b"\n");
        }
    };
    let titled = directories.len() + plain.len() > 1 || o.has(b'R');
    let mut first = plain.is_empty();
    if !plain.is_empty() {
        show(&mut out, plain);
    }
    directories.sort();
    directories.reverse();
    while let Some(directory) = directories.pop() {
        let entries = match sys::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) => {
                status = report("ls", &directory, error);
                continue;
            }
        };
        let mut list = Vec::new();
        let mut all: Vec<Vec<u8>> = entries.into_iter().map(|e| e.name).collect();
        if o.has(b'a') {
            all.extend([b".".to_vec(), b"..".to_vec()]);
        }
        for name in all {
            if name.starts_with(b".") && !o.has(b'a') && !o.has(b'A') {
                continue;
            }
            let path = io::join(&directory, &name);
            match sys::stat(&path, o.has(b'L')) {
                Ok(stat) => list.push(Listed { name, path, stat }),
                Err(error) => status = report("ls", &path, error),
            }
        }
        if titled {
            if !core::mem::replace(&mut first, false) {
                out.put(b"\n");
            }
            out.put(&directory);
            out.put(b":\n");
        }
        if o.has(b'l') {
            out!(out, "total {}\n", list.iter().map(|l| l.stat.st_blocks as u64 / 2).sum::<u64>());
        }
        if o.has(b'R') {
            let below = list.iter().filter(|l| kind(&l.stat) == libc::S_IFDIR && l.name != b"." && l.name != b"..");
            let mut below: Vec<Vec<u8>> = below.map(|l| l.path.clone()).collect();
            below.sort();
            directories.extend(below.into_iter().rev());
        }
        show(&mut out, list);
    }
    status
}

pub fn mkdir(args: &[&[u8]]) -> i32 {
    let o = options!(args, "pm:v", &[("parents", b'p')]);
    let mode = match o.value(b'm').map(|m| new_mode(m, 0o777, true).ok_or(m)) {
        None => None,
        Some(Ok(mode)) => Some(mode),
        Some(Err(bad)) => return report("mkdir", bad, "bad mode"),
    };
    each("mkdir", &o.operands, |path| {
        if o.has(b'p') {
            for (at, _) in path.iter().enumerate().skip(1).filter(|(_, b)| **b == b'/') {
                if let Err(error) = sys::mkdir(&path[..at], 0o777)
                    && !is_directory(&path[..at])
                {
                    return Err(error);
                }
            }
        }
        match sys::mkdir(path, 0o777) {
            Err(Errno(libc::EEXIST)) if o.has(b'p') && is_directory(path) => return Ok(()),
            other => other?,
        }
        // Exactly the mode asked for, whatever the umask.
        mode.map_or(Ok(()), |mode| sys::chmod(path, mode))
    })
}

pub fn rmdir(args: &[&[u8]]) -> i32 {
    let o = options!(args, "p");
    each("rmdir", &o.operands, |path| {
        sys::rmdir(path)?;
        let mut path = path;
        while o.has(b'p')
            && let Some(at) = path.iter().rposition(|b| *b == b'/').filter(|at| *at > 0)
        {
            path = &path[..at];
            sys::rmdir(path)?;
        }
        Ok(())
    })
}

fn remove(path: &[u8]) -> Result<()> {
    match sys::unlink(path) {
        Err(Errno(libc::EISDIR | libc::EPERM)) if sys::stat(path, false).is_ok_and(|s| kind(&s) == libc::S_IFDIR) => {}
        other => return other,
    }
    for entry in sys::read_dir(path)? {
        remove(&io::join(path, &entry.name))?;
    }
    sys::rmdir(path)
}

pub fn rm(args: &[&[u8]]) -> i32 {
    let o = options!(args, "rRfiv", &[("recursive", b'r'), ("force", b'f')]);
    if o.operands.is_empty() && o.has(b'f') {
        return 0;
    }
    each("rm", &o.operands, |path| {
        if matches!(io::base_name(path), b"." | b".." | b"/") {
            return Err(Errno(libc::EINVAL));
        }
        let result = if o.has(b'r') || o.has(b'R') { remove(path) } else { sys::unlink(path) };
        match result {
            Err(Errno(libc::ENOENT | libc::ENOTDIR)) if o.has(b'f') => Ok(()),
            other => other,
        }
    })
}

struct Copy {
    recursive: bool,
    preserve: bool,
    follow: bool,
    force: bool,
}

impl Copy {
    fn copy(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let stat = sys::stat(from, self.follow)?;
        match kind(&stat) {
            libc::S_IFDIR => {
                if !self.recursive {
                    return Err(Errno(libc::EISDIR));
                }
                // The list first: a copy into itself would never end.
                let entries = sys::read_dir(from)?;
                match sys::mkdir(to, stat.st_mode & 0o777 | 0o700) {
                    Err(Errno(libc::EEXIST)) if is_directory(to) => {}
                    other => other?,
                }
                for entry in entries {
                    self.copy(&io::join(from, &entry.name), &io::join(to, &entry.name))?;
                }
            }
            libc::S_IFLNK => {
                let target = sys::readlink(from)?;
                let _ = sys::unlink(to);
                sys::symlink(&target, to)?;
            }
            libc::S_IFREG => copy_data(from, to, stat.st_mode & 0o777, self.force)?,
            _ if self.recursive => {
                let _ = sys::unlink(to);
                sys::mknod(to, stat.st_mode, stat.st_rdev)?;
            }
            _ => copy_data(from, to, 0o666, self.force)?,
        }
        if self.preserve {
            if sys::ids()[1] == 0 {
                sys::chown(to, stat.st_uid, stat.st_gid, false)?;
            }
            if kind(&stat) != libc::S_IFLNK {
                sys::chmod(to, stat.st_mode & 0o7777)?;
            }
            let time = |seconds, nanoseconds| sys::timespec { tv_sec: seconds, tv_nsec: nanoseconds };
            let times = [time(stat.st_atime, stat.st_atime_nsec), time(stat.st_mtime, stat.st_mtime_nsec)];
            sys::set_times(to, Some(times), false)?;
        }
        Ok(())
    }
}

fn copy_data(from: &[u8], to: &[u8], mode: u32, force: bool) -> Result<()> {
    let source = sys::open(from, libc::O_RDONLY, 0)?;
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC;
    if let (Ok(a), Ok(b)) = (sys::fstat(source), sys::stat(to, true))
        && (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
    {
        sys::close(source);
        return Err(Errno(libc::EEXIST));
    }
    let opened = sys::open(to, flags, mode).or_else(|error| {
        if !force {
            return Err(error);
        }
        sys::unlink(to)?;
        sys::open(to, flags, mode)
    });
    let target = match opened {
        Ok(fd) => fd,
        Err(error) => {
            sys::close(source);
            return Err(error);
        }
    };
    let mut buffer = alloc::vec![0u8; 128 << 10];
    let result = loop {
        match sys::read(source, &mut buffer) {
            Ok(0) => break Ok(()),
            Ok(n) => {
                if let Err(error) = sys::write_all(target, &buffer[..n]) {
                    break Err(error);
                }
            }
            Err(error) => break Err(error),
        }
    };
    sys::close(source);
    sys::close(target);
    result
}

type FromTo = (Vec<u8>, Vec<u8>);

/// For `cp`, `mv` and `ln`: each source with the path it goes to.
fn targets(applet: &str, operands: &[&[u8]], whole: bool) -> core::result::Result<Vec<FromTo>, i32> {
    let Some((target, sources)) = operands.split_last().filter(|(_, s)| !s.is_empty()) else {
        err!("{applet}: needs a source and a target; try --help");
        return Err(2);
    };
    let into = is_directory(target) && !whole;
    if sources.len() > 1 && !into {
        return Err(report(applet, target, Errno(libc::ENOTDIR)));
    }
    let to = |source: &[u8]| if into { io::join(target, io::base_name(source)) } else { target.to_vec() };
    Ok(sources.iter().map(|source| (source.to_vec(), to(source))).collect())
}

pub fn cp(args: &[&[u8]]) -> i32 {
    let o = options!(args, "arRpfLPdTv", &[("recursive", b'r'), ("archive", b'a')]);
    let copy = Copy {
        recursive: o.has(b'r') || o.has(b'R') || o.has(b'a'),
        preserve: o.has(b'p') || o.has(b'a'),
        follow: o.has(b'L') || !(o.has(b'a') || o.has(b'P') || o.has(b'd') || o.has(b'r') || o.has(b'R')),
        force: o.has(b'f'),
    };
    match targets("cp", &o.operands, o.has(b'T')) {
        Ok(list) => list.iter().fold(0, |status, (from, to)| match copy.copy(from, to) {
            Ok(()) => status,
            Err(Errno(libc::EISDIR)) if !copy.recursive => report("cp", from, "is a directory; -r copies it"),
            Err(error) => report("cp", from, error),
        }),
        Err(status) => status,
    }
}

pub fn mv(args: &[&[u8]]) -> i32 {
    let o = options!(args, "fniTv");
    match targets("mv", &o.operands, o.has(b'T')) {
        Ok(list) => list.iter().fold(0, |status, (from, to)| {
            if o.has(b'n') && sys::stat(to, false).is_ok() {
                return status;
            }
            let result = match sys::rename(from, to) {
                Err(Errno(libc::EXDEV)) => {
                    let copy = Copy { recursive: true, preserve: true, follow: false, force: true };
                    copy.copy(from, to).and_then(|()| remove(from))
                }
                other => other,
            };
            result.map_or_else(|error| report("mv", from, error), |()| status)
        }),
        Err(status) => status,
    }
}

pub fn ln(args: &[&[u8]]) -> i32 {
    let o = options!(args, "sfnvT");
    let mut operands = o.operands.clone();
    if operands.len() == 1 {
        operands.push(b".");
    }
    let whole = o.has(b'T')
        || (o.has(b'n')
            && operands.last().is_some_and(|t| sys::stat(t, false).is_ok_and(|s| kind(&s) == libc::S_IFLNK)));
    match targets("ln", &operands, whole) {
        Ok(list) => list.iter().fold(0, |status, (from, to)| {
            if o.has(b'f') {
                let _ = sys::unlink(to);
            }
            let result = if o.has(b's') { sys::symlink(from, to) } else { sys::link(from, to) };
            result.map_or_else(|error| report("ln", to, error), |()| status)
        }),
        Err(status) => status,
    }
}

pub fn touch(args: &[&[u8]]) -> i32 {
    let o = options!(args, "cd:am");
    let time = match o.value(b'd').map(|t| t.strip_prefix(b"@").and_then(io::number).ok_or(t)) {
        None => None,
        Some(Ok(seconds)) => Some([sys::timespec { tv_sec: seconds, tv_nsec: 0 }; 2]),
        Some(Err(bad)) => return report("touch", bad, "the time is given as @SECONDS"),
    };
    each("touch", &o.operands, |path| match sys::set_times(path, time, true) {
        Err(Errno(libc::ENOENT)) if o.has(b'c') => Ok(()),
        Err(Errno(libc::ENOENT)) => {
            sys::close(sys::open(path, libc::O_WRONLY | libc::O_CREAT, 0o666)?);
            time.map_or(Ok(()), |time| sys::set_times(path, Some(time), true))
        }
        other => other,
    })
}

/// The mode that `text` (`755` or `u+x,go-w`) makes of `old`.
fn new_mode(text: &[u8], old: u32, directory: bool) -> Option<u32> {
    let text = core::str::from_utf8(text).ok()?;
    if let Ok(mode) = u32::from_str_radix(text, 8) {
        return (mode <= 0o7777).then_some(mode);
    }
    let mut mode = old & 0o7777;
    for clause in text.split(',') {
        let split = clause.find(['+', '-', '='])?;
        let (who, rest) = clause.split_at(split);
        let mut mask = 0;
        for letter in who.chars() {
            mask |= match letter {
                'u' => 0o4700,
                'g' => 0o2070,
                'o' => 0o1007,
                'a' => 0o7777,
                _ => return None,
            };
        }
        if who.is_empty() {
            let umask = sys::umask(0);
            sys::umask(umask);
            mask = 0o7777 & !umask;
        }
        let mut operator = '+';
        let mut bits = 0;
        let apply = |operator: char, bits: u32, mode: u32| match operator {
            '+' => mode | bits & mask,
            '-' => mode & !(bits & mask),
            _ => mode & !(mask & 0o777) | bits & mask,
        };
        for (index, letter) in rest.chars().enumerate() {
            match letter {
                '+' | '-' | '=' => {
                    if index > 0 {
                        mode = apply(operator, bits, mode);
                    }
                    (operator, bits) = (letter, 0);
                }
                'r' => bits |= 0o444,
                'w' => bits |= 0o222,
                'x' => bits |= 0o111,
                'X' if directory || old & 0o111 != 0 => bits |= 0o111,
                'X' => {}
                's' => bits |= 0o6000,
                't' => bits |= 0o1000,
                _ => return None,
            }
        }
        mode = apply(operator, bits, mode);
    }
    Some(mode)
}

pub fn chmod(args: &[&[u8]]) -> i32 {
    // A mode may begin with a dash, like an option.
    let recursive = args.get(1).is_some_and(|a| *a == b"-R");
    let rest = &args[1 + usize::from(recursive)..];
    let Some((mode, files)) = rest.split_first().filter(|(_, files)| !files.is_empty()) else {
        err!("usage: chmod [-R] MODE FILE...");
        return 2;
    };
    if new_mode(mode, 0, false).is_none() {
        return report("chmod", mode, "bad mode");
    }
    let change = |path: &[u8], stat: &Stat| {
        let new = new_mode(mode, stat.st_mode, kind(stat) == libc::S_IFDIR).unwrap_or(0);
        sys::chmod(path, new)
    };
    each("chmod", files, |path| {
        let mut result = Ok(());
        if recursive {
            walk(path, &mut |path, stat| {
                if kind(stat) != libc::S_IFLNK {
                    result = result.and(change(path, stat));
                }
            });
            return result;
        }
        change(path, &sys::stat(path, true)?)
    })
}

pub fn chown(args: &[&[u8]]) -> i32 {
    let o = options!(args, "Rhv");
    let Some((owner, files)) = o.operands.split_first() else {
        err!("usage: chown [-Rh] USER[:GROUP] FILE...");
        return 2;
    };
    let mut parts = owner.splitn(2, |b| *b == b':');
    let part = |text: Option<&[u8]>, f: fn(&[u8]) -> Option<u32>| match text {
        None | Some(b"") => Some(u32::MAX),
        Some(text) => f(text),
    };
    let (Some(user), Some(group)) = (part(parts.next(), users::user_id), part(parts.next(), users::group_id)) else {
        return report("chown", owner, "no such user or group");
    };
    let follow = !o.has(b'h') && !o.has(b'R');
    each("chown", files, |path| {
        if !o.has(b'R') {
            return sys::chown(path, user, group, follow);
        }
        let mut result = Ok(());
        walk(path, &mut |path, _| result = result.and(sys::chown(path, user, group, false)));
        result
    })
}

pub fn stat(args: &[&[u8]]) -> i32 {
    let o = options!(args, "Lc:");
    let names = Names::load();
    let mut out = Out::new(1);
    each("stat", &o.operands, |path| {
        let stat = sys::stat(path, o.has(b'L'))?;
        let what = match kind(&stat) {
            libc::S_IFDIR => "directory",
            libc::S_IFLNK => "symbolic link",
            libc::S_IFCHR => "character special file",
            libc::S_IFBLK => "block special file",
            libc::S_IFIFO => "fifo",
            libc::S_IFSOCK => "socket",
            _ if stat.st_size == 0 => "regular empty file",
            _ => "regular file",
        };
        let time = |seconds| {
            String::from_utf8_lossy(&system::Time::from_unix(seconds).format(b"%Y-%m-%d %H:%M:%S +0000")).into_owned()
        };
        let Some(format) = o.value(b'c') else {
            out!(out, "  File: {}\n", Text(path));
            out!(
                out,
                "  Size: {:<12} Blocks: {:<8} IO Block: {} {what}\n",
                stat.st_size,
                stat.st_blocks,
                stat.st_blksize
            );
            out!(out, "Device: {:x}h Inode: {:<10} Links: {}\n", stat.st_dev, stat.st_ino, stat.st_nlink);
            let (user, group) = (names.user(stat.st_uid), names.group(stat.st_gid));
            out!(
                out,
                "Access: ({:04o}/{}) Uid: ({}/{user}) Gid: ({}/{group})\n",
                stat.st_mode & 0o7777,
                mode_text(stat.st_mode),
                stat.st_uid,
                stat.st_gid
            );
            out!(
                out,
                "Access: {}\nModify: {}\nChange: {}\n",
                time(stat.st_atime),
                time(stat.st_mtime),
                time(stat.st_ctime)
            );
            return Ok(());
        };
        let mut bytes = format.iter();
        while let Some(byte) = bytes.next() {
            if *byte != b'%' {
                out.put(&[*byte]);
                continue;
            }
            match bytes.next() {
                Some(b'n') => out.put(path),
                Some(b's') => out!(out, "{}", stat.st_size),
                Some(b'b') => out!(out, "{}", stat.st_blocks),
                Some(b'a') => out!(out, "{:o}", stat.st_mode & 0o7777),
                Some(b'A') => out.put(mode_text(stat.st_mode).as_bytes()),
                Some(b'f') => out!(out, "{:x}", stat.st_mode),
                Some(b'F') => out.put(what.as_bytes()),
                Some(b'u') => out!(out, "{}", stat.st_uid),
                Some(b'g') => out!(out, "{}", stat.st_gid),
                Some(b'U') => out.put(names.user(stat.st_uid).as_bytes()),
                Some(b'G') => out.put(names.group(stat.st_gid).as_bytes()),
                Some(b'h') => out!(out, "{}", stat.st_nlink),
                Some(b'i') => out!(out, "{}", stat.st_ino),
                Some(b'd') => out!(out, "{}", stat.st_dev),
                Some(b'X') => out!(out, "{}", stat.st_atime),
                Some(b'Y') => out!(out, "{}", stat.st_mtime),
                Some(b'y') => out.put(time(stat.st_mtime).as_bytes()),
                Some(b'Z') => out!(out, "{}", stat.st_ctime),
                Some(other) => out.put(&[b'%', *other]),
                None => out.put(b"%"),
            }
        }
        out.put(b"\n");
        Ok(())
    })
}

pub fn du(args: &[&[u8]]) -> i32 {
    let o = options!(args, "hsakm");
    let mut out = Out::new(1);
    let operands = if o.operands.is_empty() { Vec::from([&b"."[..]]) } else { o.operands.clone() };
    let mut status = 0;
    for operand in operands {
        // Sums of the open directories by depth; files with several links count once.
        let mut sums: Vec<u64> = Vec::new();
        let mut seen = alloc::collections::BTreeSet::new();
        status |= walk_depth(
            operand,
            0,
            usize::MAX,
            &mut |path, stat, depth| {
                sums.resize(sums.len().max(depth + 2), 0);
                let own = stat.st_nlink < 2 || kind(stat) == libc::S_IFDIR || seen.insert((stat.st_dev, stat.st_ino));
                let mut size = if own { stat.st_blocks as u64 * 512 } else { 0 };
                let directory = kind(stat) == libc::S_IFDIR;
                if directory {
                    size += core::mem::take(&mut sums[depth + 1]);
                }
                sums[depth] += size;
                if depth == 0 || (!o.has(b's') && (directory || o.has(b'a'))) {
                    match (o.has(b'h'), o.has(b'm')) {
                        (true, _) => out!(out, "{}\t{}\n", io::human(size), Text(path)),
                        (_, true) => out!(out, "{}\t{}\n", size.div_ceil(1 << 20), Text(path)),
                        _ => out!(out, "{}\t{}\n", size / 1024, Text(path)),
                    }
                }
            },
            true,
        );
    }
    status
}

pub fn dd(args: &[&[u8]]) -> i32 {
    let (mut input, mut output) = (None, None);
    let (mut block, mut count, mut skip, mut seek) = (512, u64::MAX, 0, 0);
    let (mut notrunc, mut fsync, mut quiet) = (false, false, false);
    for arg in &args[1..] {
        let Some(at) = arg.iter().position(|b| *b == b'=') else {
            return report("dd", arg, "operands have the form name=value");
        };
        let (name, value) = (&arg[..at], &arg[at + 1..]);
        let target = match name {
            b"if" => {
                input = Some(value);
                continue;
            }
            b"of" => {
                output = Some(value);
                continue;
            }
            b"conv" | b"oflag" | b"iflag" => {
                notrunc |= io::contains(value, b"notrunc");
                fsync |= io::contains(value, b"sync");
                continue;
            }
            b"status" => {
                quiet = value == b"none";
                continue;
            }
            b"bs" => &mut block,
            b"count" => &mut count,
            b"skip" => &mut skip,
            b"seek" => &mut seek,
            _ => return report("dd", arg, "unknown operand"),
        };
        match io::size(value) {
            Some(number) => *target = number,
            None => return report("dd", arg, "bad number"),
        }
    }
    if block == 0 || block > 1 << 30 {
        return report("dd", b"bs", "must be between 1 and 1 GiB");
    }
    let flags = libc::O_RDWR | libc::O_CREAT | if notrunc || seek > 0 { 0 } else { libc::O_TRUNC };
    let source = match input.map_or(Ok(0), |name| sys::open(name, libc::O_RDONLY, 0)) {
        Ok(fd) => fd,
        Err(error) => return report("dd", input.unwrap_or_default(), error),
    };
    let open = |name: &[u8]| {
        sys::open(name, flags, 0o666).or_else(|_| sys::open(name, flags & !libc::O_RDWR | libc::O_WRONLY, 0o666))
    };
    let target = match output.map_or(Ok(1), open) {
        Ok(fd) => fd,
        Err(error) => return report("dd", output.unwrap_or_default(), error),
    };
    let mut buffer = alloc::vec![0u8; block as usize];
    if skip > 0 && sys::seek(source, (skip * block) as i64, libc::SEEK_CUR).is_err() {
        for _ in 0..skip {
            if !matches!(sys::read(source, &mut buffer), Ok(1..)) {
                break;
            }
        }
    }
    if seek > 0 {
        if let Err(error) = sys::seek(target, (seek * block) as i64, libc::SEEK_CUR) {
            return report("dd", output.unwrap_or(b"standard output"), error);
        }
        if !notrunc {
            let _ = sys::truncate(target, seek * block);
        }
    }
    let start = sys::now();
    let (mut whole, mut part, mut bytes, mut status) = (0u64, 0u64, 0u64, 0);
    while whole + part < count {
        match sys::read(source, &mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                if n == buffer.len() {
                    whole += 1
                } else {
                    part += 1
                }
                if let Err(error) = sys::write_all(target, &buffer[..n]) {
                    status = report("dd", output.unwrap_or(b"standard output"), error);
                    break;
                }
                bytes += n as u64;
            }
            Err(error) => {
                status = report("dd", input.unwrap_or(b"standard input"), error);
                break;
            }
        }
    }
    if fsync {
        let _ = sys::fsync(target);
    }
    if !quiet {
        let seconds = (sys::now() - start) as f64 / 1e9;
        err!("{whole}+{part} records in\n{whole}+{part} records out");
        err!("{bytes} bytes copied, {seconds:.6} s, {:.1} MB/s", bytes as f64 / 1e6 / seconds.max(1e-9));
    }
    status
}

/// A test of `find`: whether it is negated, its name, its arguments.
type Condition<'a> = (bool, &'a [u8], Vec<&'a [u8]>);

pub fn find(args: &[&[u8]]) -> i32 {
    let first = args[1..].iter().position(|a| a.starts_with(b"-") || *a == b"!").unwrap_or(args.len() - 1);
    let (paths, tests) = args[1..].split_at(first);
    let paths = if paths.is_empty() { &[&b"."[..]][..] } else { paths };
    let (mut deepest, mut least) = (usize::MAX, 0);
    let mut status = 0;
    let mut matched: Vec<(Vec<u8>, Stat)> = Vec::new();
    // The tests run on each file in order; the first that is false ends it.
    let mut at = 0;
    let mut conditions: Vec<Condition<'_>> = Vec::new();
    let mut negated = false;
    while at < tests.len() {
        let name = tests[at];
        at += 1;
        let takes = match name {
            b"!" | b"-not" => {
                negated = !negated;
                continue;
            }
            b"-print" | b"-print0" | b"-delete" | b"-depth" | b"-empty" | b"-xdev" | b"-executable" => 0,
            b"-name" | b"-iname" | b"-path" | b"-type" | b"-maxdepth" | b"-mindepth" | b"-size" | b"-newer"
            | b"-user" | b"-perm" => 1,
            b"-exec" => match tests[at..].iter().position(|t| *t == b";" || *t == b"+") {
                Some(end) => end + 1,
                None => return report("find", name, "needs a ; at its end"),
            },
            _ => return report("find", name, "unknown test"),
        };
        let Some(values) = tests.get(at..at + takes) else { return report("find", name, "needs an argument") };
        at += takes;
        match name {
            b"-maxdepth" | b"-mindepth" => {
                let Some(depth) = io::number(values[0]).and_then(|n| usize::try_from(n).ok()) else {
                    return report("find", values[0], "bad depth");
                };
                if name == b"-maxdepth" { deepest = depth } else { least = depth }
            }
            b"-depth" | b"-xdev" => {}
            _ => conditions.push((negated, name, values.to_vec())),
        }
        negated = false;
    }
    let acts = |name: &[u8]| matches!(name, b"-print" | b"-print0" | b"-delete" | b"-exec");
    let children_first = conditions.iter().any(|c| c.1 == b"-delete") || tests.contains(&&b"-depth"[..]);
    for path in paths {
        let mut visit = |path: &[u8], stat: &Stat, depth: usize| {
            if depth >= least {
                matched.push((path.to_vec(), *stat));
            }
        };
        status |= walk_depth(path, 0, deepest, &mut visit, children_first);
    }
    let mut out = Out::new(1);
    for (path, stat) in &matched {
        let mut holds = true;
        for (negated, name, values) in &conditions {
            let value = values.first().copied().unwrap_or_default();
            let base = io::base_name(path);
            let result = match *name {
                b"-name" => pattern::matches(value, base),
                b"-iname" => pattern::matches(&value.to_ascii_lowercase(), &base.to_ascii_lowercase()),
                b"-path" => pattern::matches(value, path),
                b"-type" => {
                    value.first()
                        == Some(&match mode_text(stat.st_mode).as_bytes()[0] {
                            b'-' => b'f',
                            letter => letter,
                        })
                }
                b"-empty" => match kind(stat) {
                    libc::S_IFDIR => sys::read_dir(path).is_ok_and(|e| e.is_empty()),
                    _ => stat.st_size == 0,
                },
                b"-executable" => sys::access(path, libc::X_OK).is_ok(),
                b"-newer" => sys::stat(value, true)
                    .is_ok_and(|s| (stat.st_mtime, stat.st_mtime_nsec) > (s.st_mtime, s.st_mtime_nsec)),
                b"-user" => users::user_id(value) == Some(stat.st_uid),
                b"-perm" => {
                    core::str::from_utf8(value).ok().and_then(|v| u32::from_str_radix(v, 8).ok())
                        == Some(stat.st_mode & 0o7777)
                }
                b"-size" => {
                    let (sign, text) = match value.first() {
                        Some(sign @ (b'+' | b'-')) => (*sign, &value[1..]),
                        _ => (b'=', value),
                    };
                    // Without a letter the unit is 512 bytes; a size is rounded up to its unit.
                    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
                    let unit = if digits == text.len() {
                        512
                    } else {
                        io::size(&[b"1", &text[digits..]].concat()).unwrap_or(512)
                    };
                    let wanted = io::number(&text[..digits]).unwrap_or(0) as u64;
                    let size = (stat.st_size as u64).div_ceil(unit);
                    match sign {
                        b'+' => size > wanted,
                        b'-' => size < wanted,
                        _ => size == wanted,
                    }
                }
                b"-print" => {
                    out.line(path);
                    true
                }
                b"-print0" => {
                    out.put(path);
                    out.put(b"\0");
                    true
                }
                b"-delete" => {
                    let result = if kind(stat) == libc::S_IFDIR { sys::rmdir(path) } else { sys::unlink(path) };
                    result.map_err(|error| status = report("find", path, error)).is_ok()
                }
                _ => {
                    out.flush();
                    let words: Vec<&[u8]> = values[..values.len() - 1]
                        .iter()
                        .map(|w| if *w == b"{}" { path.as_slice() } else { w })
                        .collect();
                    crate::exec::run(b"find", &words).is_ok_and(|end| end.status() == 0)
                }
            };
            if result == *negated {
                holds = false;
                break;
            }
        }
        if holds && !conditions.iter().any(|c| acts(c.1)) {
            out.line(path);
        }
    }
    status
}

pub fn basename(args: &[&[u8]]) -> i32 {
    let Some(path) = args.get(1) else {
        err!("usage: basename NAME [SUFFIX]");
        return 2;
    };
    let base = io::base_name(path);
    let stripped = args.get(2).and_then(|suffix| base.strip_suffix(*suffix)).filter(|rest| !rest.is_empty());
    Out::new(1).line(stripped.unwrap_or(base));
    0
}

fn directory_of(path: &[u8]) -> &[u8] {
    let trim = |path: &[u8]| path.iter().rposition(|b| *b != b'/').map_or(0, |at| at + 1);
    let end = trim(path);
    if end == 0 {
        return if path.is_empty() { b"." } else { b"/" };
    }
    match path[..end].iter().rposition(|b| *b == b'/') {
        None => b".",
        Some(slash) => match trim(&path[..slash]) {
            0 => b"/",
            end => &path[..end],
        },
    }
}

pub fn dirname(args: &[&[u8]]) -> i32 {
    let mut out = Out::new(1);
    each("dirname", &args[1..], |path| {
        out.line(directory_of(path));
        Ok(())
    })
}

/// The absolute path without links, `.` and `..`; the last component need not exist.
fn resolve(path: &[u8]) -> Result<Vec<u8>> {
    let mut todo: Vec<Vec<u8>> = path.split(|b| *b == b'/').rev().map(<[u8]>::to_vec).collect();
    let mut done = if path.starts_with(b"/") { Vec::new() } else { sys::getcwd()? };
    if done == b"/" {
        done.clear();
    }
    let mut links = 0;
    while let Some(part) = todo.pop() {
        match part.as_slice() {
            b"" | b"." => {}
            b".." => done.truncate(done.iter().rposition(|b| *b == b'/').unwrap_or(0)),
            name => {
                let next = [&done, &b"/"[..], name].concat();
                match sys::stat(&next, false) {
                    Ok(stat) if kind(&stat) == libc::S_IFLNK => {
                        links += 1;
                        if links > 40 {
                            return Err(Errno(libc::ELOOP));
                        }
                        let target = sys::readlink(&next)?;
                        if target.starts_with(b"/") {
                            done.clear();
                        }
                        todo.extend(target.split(|b| *b == b'/').rev().map(<[u8]>::to_vec));
                    }
                    Ok(_) => done = next,
                    Err(Errno(libc::ENOENT)) if todo.iter().all(Vec::is_empty) => done = next,
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(if done.is_empty() { b"/".to_vec() } else { done })
}

pub fn readlink(args: &[&[u8]]) -> i32 {
    let o = options!(args, "fnem");
    let mut out = Out::new(1);
    let mut status = 0;
    for path in &o.operands {
        let result = if o.has(b'f') || o.has(b'm') || o.has(b'e') { resolve(path) } else { sys::readlink(path) };
        match result {
            Ok(target) => {
                out.put(&target);
                if !o.has(b'n') {
                    out.put(b"\n");
                }
            }
            // As elsewhere, silent: scripts ask whether something is a link.
            Err(_) => status = 1,
        }
    }
    status
}

pub fn realpath(args: &[&[u8]]) -> i32 {
    let o = options!(args, "ems");
    let mut out = Out::new(1);
    each("realpath", &o.operands, |path| {
        out.line(&resolve(path)?);
        Ok(())
    })
}

pub fn mknod(args: &[&[u8]]) -> i32 {
    let o = options!(args, "m:");
    let mode = o.value(b'm').map_or(Some(0o666), |m| new_mode(m, 0o666, false));
    let number = |index: usize| o.operands.get(index).and_then(|t| io::number(t)).map(|n| n as u64);
    let (Some(name), Some(letter), Some(mode)) = (o.operands.first(), o.operands.get(1), mode) else {
        err!("usage: mknod [-m MODE] NAME b|c|p [MAJOR MINOR]");
        return 2;
    };
    let (kind, device) = match (*letter, number(2), number(3)) {
        (b"p", None, None) => (libc::S_IFIFO, 0),
        (b"b", Some(major), Some(minor)) => (libc::S_IFBLK, libc::makedev(major as u32, minor as u32)),
        (b"c" | b"u", Some(major), Some(minor)) => (libc::S_IFCHR, libc::makedev(major as u32, minor as u32)),
        _ => return report("mknod", letter, "the kind is b or c with two numbers, or p"),
    };
    each("mknod", &[*name], |name| sys::mknod(name, kind | mode, device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbolic_modes_change_what_they_name() {
        for (text, old, new) in [
            ("755", 0, 0o755),
            ("u+x", 0o644, 0o744),
            ("go-w", 0o666, 0o644),
            ("a=r", 0o777, 0o444),
            ("u=rwx,go=rx", 0, 0o755),
            ("+t", 0o755, 0o1755),
            ("u+s", 0o755, 0o4755),
        ] {
            assert_eq!(new_mode(text.as_bytes(), old, false), Some(new), "{text}");
        }
        assert_eq!(new_mode(b"u+q", 0, false), None);
    }

    #[test]
    fn directories_of_paths() {
        for (path, directory) in [("a/b", "a"), ("a", "."), ("/a", "/"), ("/", "/"), ("a//b//", "a"), ("", ".")] {
            assert_eq!(directory_of(path.as_bytes()), directory.as_bytes(), "{path}");
        }
    }

    #[test]
    fn modes_are_shown_with_their_special_bits() {
        assert_eq!(mode_text(libc::S_IFDIR | 0o1777), "drwxrwxrwt");
        assert_eq!(mode_text(libc::S_IFREG | 0o4644), "-rwSr--r--");
    }
}
