//! Names of signals (signal(7)).

use crate::io;
use alloc::format;
use alloc::string::{String, ToString};

const NAMES: [&str; 32] = [
    "EXIT", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
    "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH",
    "IO", "PWR", "SYS",
];

/// `TERM` for 15; the number itself where there is no name.
pub fn name(signal: i32) -> String {
    usize::try_from(signal).ok().and_then(|n| NAMES.get(n)).map_or_else(|| signal.to_string(), ToString::to_string)
}

/// The signal `TERM`, `SIGTERM`, `term` or `15` means; 0 for `EXIT`.
pub fn parse(text: &[u8]) -> Option<i32> {
    if let Some(number) = io::number(text) {
        return (0..=64).contains(&number).then_some(number as i32);
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix(b"SIG").unwrap_or(&upper);
    NAMES.iter().position(|name| name.as_bytes() == bare).map(|n| n as i32)
}

/// What a shell says of a child killed by the signal.
pub fn description(signal: i32) -> String {
    match signal {
        libc::SIGHUP => "Hangup".into(),
        libc::SIGABRT => "Aborted".into(),
        libc::SIGBUS => "Bus error".into(),
        libc::SIGFPE => "Floating point exception".into(),
        libc::SIGILL => "Illegal instruction".into(),
        libc::SIGKILL => "Killed".into(),
        libc::SIGSEGV => "Segmentation fault".into(),
        libc::SIGTERM => "Terminated".into(),
        other => format!("Signal {other}"),
    }
}
