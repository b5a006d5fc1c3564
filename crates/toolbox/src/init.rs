//! `init`: a first process for containers. It runs one command, hands on the signals it gets, reaps every orphan the
//! kernel gives it, and ends as the command ends. As an ordinary process it becomes a subreaper (prctl(2)).

use crate::sys::{self, Errno};
use crate::{err, exec, options};

/// The applet.
pub fn main(args: &[&[u8]]) -> i32 {
    let o = options!(args, "+");
    if o.operands.is_empty() {
        err!("usage: init [--] COMMAND...");
        return 2;
    }
    // Signals are waited for, never handled: none can be lost between two calls.
    sys::block_signals(true);
    if sys::getpid() != 1 {
        let _ = sys::become_subreaper();
    }
    let pid = match sys::fork() {
        Ok(None) => {
            // Its own group: a signal meant for it reaches its children; and the terminal, if there is one.
            let _ = sys::setpgid(0, 0);
            if sys::is_terminal(0) {
                let _ = sys::set_foreground(0, sys::getpid());
            }
            sys::block_signals(false);
            sys::exit(exec::exec_here(b"init", &o.operands))
        }
        Ok(Some(pid)) => pid,
        Err(error) => {
            err!("init: cannot fork: {error}");
            return 126;
        }
    };
    let mut ended = None;
    loop {
        loop {
            match sys::wait(-1, libc::WNOHANG) {
                Ok(Some((child, end))) if child == pid => ended = Some(end),
                Ok(Some(_)) => {}
                _ => break,
            }
        }
        if let Some(end) = ended {
            return end.status();
        }
        match sys::wait_signal(None) {
            Ok(libc::SIGCHLD) => {}
            // Sent by the terminal to its foreground group already.
            Ok(libc::SIGTTIN | libc::SIGTTOU) => {}
            Ok(signal) => drop(sys::kill(-pid, signal).or_else(|_| sys::kill(pid, signal))),
            Err(Errno(_)) => {}
        }
    }
}
