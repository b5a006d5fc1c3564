//! Compiles the `linux.seccomp` section of a container into a system-call filter.
//!
//! The kernel runs a *filter*, a small program in classic BPF, at every system call of a process. It sees the
//! calling convention, the call number and the six argument registers (`struct seccomp_data`), and its result
//! says what happens: run the call, fail it with an error number, kill, trap, log, or ask a tracer or listener.
//!
//! - `rules` turns the profile into, for each calling convention, a sorted list of number
//!   ranges and what each range gets. It holds the meaning, which is that of libseccomp as runc drives it.
//! - `emit` turns the ranges into a balanced binary tree of comparisons. A new filter is evaluated by the kernel
//!   once for every call number (it remembers which numbers are always allowed), so a tree pays at load time too.
//! - `sys` loads the program and asks the kernel what it supports.
//!
//! Compiling the default profile of containers (over 400 names, three conventions) takes a fraction of a
//! millisecond, so compiled filters are not kept on disk.
//!
//! Specification: OCI runtime-spec, config-linux.md, "Seccomp"; seccomp(2); the kernel's
//! `Documentation/userspace-api/seccomp_filter.rst`.

mod emit;
#[cfg(any(test, feature = "model"))]
pub mod model;
mod rules;
mod sys;
mod table;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;

use strata_spec::runtime::Seccomp;

pub use rules::Error;

/// One instruction of classic BPF: the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SockFilter {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// A compiled filter and how to load it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// At most 4096 (`BPF_MAXINSNS`).
    pub instructions: Vec<SockFilter>,
    /// `SECCOMP_FILTER_FLAG_*` without `NEW_LISTENER`, which `notify` implies.
    pub flags: u32,
    /// Some calls are answered by a listener (`SCMP_ACT_NOTIFY`).
    pub notify: bool,
}

impl Program {
    /// Puts the calling thread (with `TSYNC` every thread of the process) under the filter, and returns the
    /// listener's descriptor (close-on-exec) if [`Program::notify`].
    ///
    /// Needs `CAP_SYS_ADMIN` in the thread's user namespace or `no_new_privs`, else `EACCES`. Async-signal-safe:
    /// one system call, no allocation.
    pub fn load(&self) -> io::Result<Option<OwnedFd>> {
        sys::load(&self.instructions, self.flags, self.notify)
    }
}

/// Compiles a profile for this host, x86-64.
///
/// Call names that no x86 convention knows are ignored, as the specification asks. Where the specification is
/// silent the result is that of runc with libseccomp:
///
/// - The host's own convention is always present. Calls by a convention that is not in `architectures` kill the
///   thread. Foreign processors may be listed and have no effect.
/// - A call named by an unconditional rule gets the first such rule, whatever conditional rules there are. Of
///   several conditional rules the first whose conditions all hold decides. (libseccomp does not promise an order
///   among conditional rules with different actions.)
/// - Two conditions on the same argument index make each condition of that rule an alternative of its own.
/// - Rules with the default action are ignored.
/// - Unless the default action lets calls pass, numbers above the newest call that the profile names fail with
///   `ENOSYS`, so that programs fall back to an older call instead of giving up.
/// - On i386 and x32 only the low 32 bits of arguments are compared.
/// - With no flags at all, `SECCOMP_FILTER_FLAG_SPEC_ALLOW` is set.
///
/// One rule differs: a conditional rule for a call that i386 also reaches through `socketcall` or `ipc`, where
/// the filter cannot see the arguments, applies there only if it is stricter than the default.
pub fn compile(seccomp: &Seccomp) -> Result<Program, Error> {
    let profile = rules::resolve(seccomp)?;
    let instructions = emit::program(&profile);
    if instructions.len() > emit::MAX_INSTRUCTIONS {
        return Err(Error::TooLong { instructions: instructions.len() });
    }
    Ok(Program { instructions, flags: profile.flags, notify: profile.notify })
}

/// Names of the actions that profiles may use.
pub fn known_actions() -> Vec<&'static str> {
    rules::ACTIONS.iter().map(|a| a.name).collect()
}

/// The actions among [`known_actions`] that the running kernel knows.
pub fn supported_actions() -> Vec<&'static str> {
    rules::ACTIONS.iter().filter(|a| sys::action_available(a.value)).map(|a| a.name).collect()
}

/// Names of the comparisons that conditions may use.
pub fn known_operators() -> Vec<&'static str> {
    rules::OPERATORS.iter().map(|o| o.0).collect()
}

/// Names of the architectures that profiles may list.
pub fn known_archs() -> Vec<&'static str> {
    rules::ARCHITECTURES.to_vec()
}

/// Names of the flags that profiles may use.
pub fn known_flags() -> Vec<&'static str> {
    rules::FLAGS.iter().map(|f| f.0).collect()
}

/// The flags among [`known_flags`] that the running kernel knows.
pub fn supported_flags() -> Vec<&'static str> {
    rules::FLAGS.iter().filter(|f| sys::flag_available(f.1)).map(|f| f.0).collect()
}
