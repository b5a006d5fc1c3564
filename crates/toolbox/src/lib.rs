//! The toolbox: the userland of Strata's default image in one static program, and the workloads its comparisons run.
//!
//! The name it is called by, or else the first argument, selects an applet. There is one module a family; each
//! applet is a function from its arguments (the first is its name) to its exit status. Nothing here uses the
//! standard library: see `build.rs` and [`rt`] for why, [`sys`] for what replaces it.
#![cfg_attr(not(test), no_std)]
// The program's own modules document themselves by their one-line helps in `APPLETS`.
#![allow(missing_docs)]

extern crate alloc;

pub mod bench;
pub mod exec;
pub mod files;
pub mod init;
pub mod io;
pub mod net;
pub mod options;
pub mod pattern;
pub mod process;
pub mod regex;
pub mod rt;
pub mod sh;
pub mod sha256;
pub mod signals;
pub mod sys;
pub mod system;
pub mod test;
pub mod text;
pub mod users;

/// A command of the toolbox.
pub struct Applet {
    /// What it is called by.
    pub name: &'static str,
    /// Arguments and purpose, in one line.
    pub help: &'static str,
    run: fn(&[&[u8]]) -> i32,
}

macro_rules! applets {
    ($($name:literal $run:path, $help:literal;)*) => {
        /// All applets, by name.
        pub const APPLETS: &[Applet] = &[$(Applet { name: $name, help: $help, run: $run }),*];
    };
}

applets! {
    "[" test::test, "EXPRESSION ] - evaluate a condition";
    "basename" files::basename, "NAME [SUFFIX] - the last component of a path";
    "bench" bench::main, "LIST | NAME [--seconds S] [--ops N] [--json] [--dir DIR] - run a built-in workload";
    "caps" process::caps, "[PID] - the capability sets of a process";
    "cat" text::cat, "[-n] [FILE...] - concatenate files";
    "chmod" files::chmod, "[-R] MODE FILE... - change permissions";
    "chown" files::chown, "[-Rh] USER[:GROUP] FILE... - change the owner";
    "cp" files::cp, "[-arpfL] SOURCE... TARGET - copy files";
    "cut" text::cut, "-f LIST [-d C] [-s] | -c LIST [FILE...] - parts of lines";
    "date" system::date, "[-u] [-d @SECONDS] [-s @SECONDS] [+FORMAT] - show or set the time";
    "dd" files::dd, "[if=] [of=] [bs=] [count=] [skip=] [seek=] [conv=notrunc,fsync] - copy blocks";
    "df" system::df, "[-h] [FILE...] - free space of file systems";
    "dirname" files::dirname, "NAME... - all but the last component of a path";
    "du" files::du, "[-hsak] [FILE...] - space used by files";
    "echo" text::echo, "[-n] [WORD...] - print words";
    "egrep" text::grep, "PATTERN [FILE...] - grep -E";
    "env" process::env, "[-i] [-u NAME] [NAME=VALUE...] [COMMAND...] - run with a changed environment";
    "false" false_, "- do nothing, unsuccessfully";
    "find" files::find, "[PATH...] [-name P] [-type T] [-maxdepth N] [-exec COMMAND ;] [-delete] - search for files";
    "free" system::free, "[-hbm] - memory in use";
    "grep" text::grep, "[-ivncqrElFohwxAB] [-e] PATTERN [FILE...] - search lines";
    "head" text::head, "[-n N | -c N] [FILE...] - the start of files";
    "hostname" system::hostname, "[NAME] - show or set the name of the host";
    "id" process::id, "[-ugnrG] [USER] - user and groups";
    "init" init::main, "[--] COMMAND... - run a command as its child, forward signals, reap orphans";
    "ip" net::ip, "[-br] addr|link|route [show|add|del|set] ... - network interfaces, addresses and routes";
    "kill" process::kill, "[-SIGNAL] PID... | -l - send a signal";
    "ln" files::ln, "[-sfn] TARGET... LINK - make links";
    "ls" files::ls, "[-lahR1dAtSrFin] [FILE...] - list directories";
    "mkdir" files::mkdir, "[-p] [-m MODE] DIRECTORY... - make directories";
    "mknod" files::mknod, "[-m MODE] NAME b|c|p [MAJOR MINOR] - make a special file";
    "mount" system::mount, "[-t TYPE] [-o OPTIONS] [--bind] SOURCE TARGET - attach a file system, or list all";
    "mv" files::mv, "[-fn] SOURCE... TARGET - move files";
    "nc" net::nc, "[-l] [-p PORT] [HOST] [PORT] - connect or listen, TCP over IPv4";
    "nproc" system::nproc, "- the number of CPUs";
    "printenv" process::printenv, "[NAME...] - show the environment";
    "printf" text::printf, "FORMAT [ARGUMENT...] - print formatted";
    "ps" process::ps, "[-ef | aux] [-o FIELDS] [-p PID] - list processes";
    "pwd" system::pwd, "- the current directory";
    "readlink" files::readlink, "[-fn] FILE... - where links lead";
    "realpath" files::realpath, "FILE... - absolute paths without links";
    "rm" files::rm, "[-rf] FILE... - remove files";
    "rmdir" files::rmdir, "[-p] DIRECTORY... - remove empty directories";
    "sed" text::sed, "[-nEi] SCRIPT [FILE...] - edit lines with s, p, d, q and =";
    "seq" text::seq, "[-w] [-s SEPARATOR] [FIRST [STEP]] LAST - print numbers";
    "sh" sh::main, "[-ceux] [-o OPTION] [COMMAND | SCRIPT] [ARGUMENT...] - the shell";
    "sha256sum" sha256::main, "[-c] [FILE...] - print or check SHA-256 sums";
    "sleep" system::sleep, "SECONDS[smhd]... - wait";
    "sort" text::sort, "[-nrufhsc] [-t C] [-k FIELD] [-o FILE] [FILE...] - sort lines";
    "stat" files::stat, "[-L] [-c FORMAT] FILE... - metadata of files";
    "stty" system::stty, "[size | -a | sane | [-]echo | raw | rows N | cols N] - settings of the terminal";
    "sync" system::sync, "- write cached data to disks";
    "tail" text::tail, "[-n N | -c N] [-f] [FILE...] - the end of files";
    "tee" text::tee, "[-a] FILE... - copy input to files and output";
    "test" test::test, "EXPRESSION - evaluate a condition";
    "time" process::time, "COMMAND... - how long a command takes";
    "timeout" process::timeout, "[-s SIGNAL] [-k SECONDS] SECONDS COMMAND... - stop a command after a time";
    "touch" files::touch, "[-c] [-d @SECONDS] FILE... - create files or renew their times";
    "tr" text::tr, "[-cds] SET1 [SET2] - translate characters";
    "true" true_, "- do nothing, successfully";
    "tty" system::tty, "- the name of the terminal";
    "umount" system::umount, "[-lf] TARGET... - detach file systems";
    "uname" system::uname, "[-asnrvmo] - the kernel's name and release";
    "uniq" text::uniq, "[-cdui] [FILE] - drop repeated lines";
    "wc" text::wc, "[-lwc] [FILE...] - count lines, words and bytes";
    "which" process::which, "[-a] NAME... - where a command is";
    "whoami" process::whoami, "- the name of the user";
    "xargs" process::xargs, "[-0rt] [-n N] [-I TEXT] COMMAND... - run a command with arguments from input";
    "yes" text::yes, "[WORD...] - print a line for ever";
}

fn true_(_: &[&[u8]]) -> i32 {
    0
}

fn false_(_: &[&[u8]]) -> i32 {
    1
}

/// The applet of this name; for a login shell the name may begin with a dash.
pub fn applet(name: &[u8]) -> Option<&'static Applet> {
    APPLETS.binary_search_by(|a| a.name.as_bytes().cmp(name)).ok().map(|index| &APPLETS[index])
}

/// Runs an applet in this process.
pub fn run_applet(applet: &Applet, args: &[&[u8]]) -> i32 {
    let own_words = matches!(applet.name, "echo" | "printf" | "test" | "true" | "false" | "[" | "yes");
    if args.get(1) == Some(&&b"--help"[..]) && !own_words {
        out!(io::Out::new(1), "usage: {} {}\n", applet.name, applet.help);
        return 0;
    }
    let status = (applet.run)(args);
    if status == 0 && io::output_failed() { 1 } else { status }
}

/// Runs the program; the exit status.
pub fn run() -> i32 {
    let args = sys::args();
    let called = args.first().map_or(&b"toolbox"[..], |name| io::base_name(name));
    if let Some(applet) = applet(called.strip_prefix(b"-").unwrap_or(called)) {
        return run_applet(applet, &args);
    }
    match args.get(1).copied() {
        // Called by a name of its own: lists what it can do.
        None | Some(b"--help") => {
            let mut out = io::Out::new(1);
            out!(out, "usage: toolbox APPLET [ARGUMENT...] | --list | --install DIRECTORY\n\n");
            for applet in APPLETS {
                out!(out, "  {} {}\n", applet.name, applet.help);
            }
            0
        }
        Some(b"--list") => {
            let mut out = io::Out::new(1);
            APPLETS.iter().for_each(|applet| out.line(applet.name.as_bytes()));
            0
        }
        Some(b"--install") => install(args.get(2).copied().unwrap_or(b"/bin")),
        Some(name) => match applet(name) {
            Some(applet) => run_applet(applet, &args[1..]),
            None => {
                err!("toolbox: {}: no such applet; toolbox --list names them", io::Text(name));
                127
            }
        },
    }
}

/// Makes a symbolic link for each applet beside a program named `toolbox` in `directory`.
fn install(directory: &[u8]) -> i32 {
    let mut status = 0;
    for applet in APPLETS {
        let link = io::join(directory, applet.name.as_bytes());
        if let Err(error) = sys::symlink(b"toolbox", &link)
            && error != sys::Errno(libc::EEXIST)
        {
            io::complain(&link, &error);
            status = 1;
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applets_are_sorted_so_that_they_are_found() {
        assert!(APPLETS.is_sorted_by(|a, b| a.name < b.name));
        assert!(APPLETS.iter().all(|a| applet(a.name.as_bytes()).is_some()));
        assert!(applet(b"nosuch").is_none());
    }
}
