//! Finding and starting programs. A name that no directory of PATH holds may still be an applet: the toolbox then
//! runs itself, so that an image needs no link for each applet.

use crate::sys::{self, Errno, Result};
use crate::{err, io};
use alloc::vec::Vec;

/// Where programs are looked for without PATH.
pub const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The file a command name stands for.
pub fn find(name: &[u8], path: &[u8]) -> Result<Vec<u8>> {
    if name.contains(&b'/') {
        sys::stat(name, true)?;
        return sys::access(name, libc::X_OK).map(|()| name.to_vec());
    }
    let mut error = Errno(libc::ENOENT);
    for directory in path.split(|b| *b == b':') {
        let candidate = io::join(directory, name);
        if sys::stat(&candidate, true).is_ok_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFREG) {
            match sys::access(&candidate, libc::X_OK) {
                Ok(()) => return Ok(candidate),
                Err(e) => error = e,
            }
        }
    }
    Err(error)
}

/// Replaces this process by a program or applet. If that is impossible, reports so for `who` and returns 127 for
/// what is not there, 126 for what cannot be executed.
pub fn exec(who: &[u8], args: &[&[u8]], environment: &[&[u8]], path: &[u8]) -> i32 {
    let Some(name) = args.first() else { return 0 };
    let error = match find(name, path) {
        Ok(file) => {
            let error = sys::execve(&file, args, environment);
            if error == Errno(libc::ENOEXEC) {
                return crate::sh::run_script(&file, args);
            }
            error
        }
        Err(error) => {
            if let Some(applet) = crate::applet(name) {
                // Through /proc, so that the environment and the process's name are right; else right here.
                sys::execve(b"/proc/self/exe", args, environment);
                return crate::run_applet(applet, args);
            }
            error
        }
    };
    if error == Errno(libc::ENOENT) && !name.contains(&b'/') {
        err!("{}: {}: not found", io::Text(who), io::Text(name));
    } else {
        err!("{}: {}: {error}", io::Text(who), io::Text(name));
    }
    if matches!(error, Errno(libc::ENOENT | libc::ENOTDIR)) { 127 } else { 126 }
}

/// As [`exec`] with this program's own environment.
pub fn exec_here(who: &[u8], args: &[&[u8]]) -> i32 {
    let environment = sys::environment();
    exec(who, args, &environment, variable(b"PATH").unwrap_or(DEFAULT_PATH))
}

/// Runs a program as a child and waits for it.
pub fn run(who: &[u8], args: &[&[u8]]) -> Result<sys::End> {
    match sys::fork()? {
        None => sys::exit(exec_here(who, args)),
        Some(pid) => Ok(sys::wait_for(pid)),
    }
}

/// A variable of the environment this program was started with.
pub fn variable(name: &[u8]) -> Option<&'static [u8]> {
    sys::environment().into_iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix(b"="))
}
