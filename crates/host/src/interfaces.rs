//! Kernel interfaces that the isolations are built from, each tried.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::files::Files;
use crate::support::Support;
use crate::sys::calls;
use crate::sys::child::Child;

/// System calls and devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interfaces {
    /// `openat2(2)`: opening below a root without escape (Linux 5.6).
    pub openat2: Support,
    /// `clone3(2)`: a child born in its control group (Linux 5.3, 5.7).
    pub clone3: Support,
    /// `pidfd_open(2)`: processes as descriptors, safe from reuse of numbers (Linux 5.3).
    pub pidfd: Support,
    /// `close_range(2)` (Linux 5.9).
    pub close_range: Support,
    /// `fsopen(2)`, `open_tree(2)`, `mount_setattr(2)` (Linux 5.2, 5.12).
    pub mount_api: Support,
    /// `memfd_create(2)` with seals and an executable mapping.
    pub memfd: Support,
    /// Seccomp filters.
    pub seccomp_filter: Support,
    /// `SECCOMP_RET_*` actions known, by the specification's names.
    pub seccomp_actions: Vec<String>,
    /// Calls answered by another process (`SECCOMP_RET_USER_NOTIF`).
    pub seccomp_notify: Support,
    /// Calls of chosen code turned into a signal (Linux 5.11).
    pub syscall_user_dispatch: Support,
    /// `ptrace(2)` of one's own child.
    pub ptrace: Support,
    /// `kernel.yama.ptrace_scope`, 0 to 3, where Yama is built in.
    pub ptrace_scope: Option<u32>,
    /// Page faults of any mode answered by user space.
    pub userfaultfd: Support,
    /// The same for faults of user mode only, which needs no privilege.
    pub userfaultfd_user_mode: Support,
    /// `vm.unprivileged_userfaultfd`.
    pub unprivileged_userfaultfd: Option<bool>,
    /// `io_uring_setup(2)`.
    pub io_uring: Support,
    /// `kernel.io_uring_disabled`: 0 for everybody, 1 for a group and root, 2 for nobody.
    pub io_uring_disabled: Option<u32>,
    /// `perf_event_open(2)` of one's own process.
    pub perf: Support,
    /// `kernel.perf_event_paranoid`, -1 to 4.
    pub perf_event_paranoid: Option<i32>,
}

/// Where an answer goes, and the call that gives it.
type Try<'a> = (&'a mut Support, fn() -> calls::Answer);

/// `SECCOMP_RET_*` by name; the values are those of `linux/seccomp.h`.
const ACTIONS: [(&str, u32); 8] = [
    ("SCMP_ACT_KILL_PROCESS", 0x8000_0000),
    ("SCMP_ACT_KILL_THREAD", 0),
    ("SCMP_ACT_TRAP", 0x0003_0000),
    ("SCMP_ACT_ERRNO", 0x0005_0000),
    ("SCMP_ACT_NOTIFY", 0x7fc0_0000),
    ("SCMP_ACT_TRACE", 0x7ff0_0000),
    ("SCMP_ACT_LOG", 0x7ffc_0000),
    ("SCMP_ACT_ALLOW", 0x7fff_0000),
];

impl Interfaces {
    /// The sysctls alone.
    pub fn read(files: &Files) -> Interfaces {
        Interfaces {
            ptrace_scope: files.value("/proc/sys/kernel/yama/ptrace_scope"),
            unprivileged_userfaultfd: files.flag("/proc/sys/vm/unprivileged_userfaultfd"),
            io_uring_disabled: files.value("/proc/sys/kernel/io_uring_disabled"),
            perf_event_paranoid: files.value("/proc/sys/kernel/perf_event_paranoid"),
            ..Interfaces::default()
        }
    }

    /// Tries every call. All are made in children, so that a filter that kills costs an answer and not the examination.
    pub fn probe(&mut self, timeout: Duration) {
        let tries: [Try<'_>; 14] = [
            (&mut self.openat2, calls::openat2),
            (&mut self.clone3, calls::clone3),
            (&mut self.pidfd, calls::pidfd_open),
            (&mut self.close_range, calls::close_range),
            (&mut self.mount_api, calls::new_mount_api),
            (&mut self.memfd, calls::memfd),
            (&mut self.seccomp_filter, calls::seccomp_filter),
            (&mut self.seccomp_notify, calls::seccomp_notify),
            (&mut self.syscall_user_dispatch, calls::syscall_user_dispatch),
            (&mut self.ptrace, calls::ptrace_traceme),
            (&mut self.userfaultfd, || calls::userfaultfd(false)),
            (&mut self.userfaultfd_user_mode, || calls::userfaultfd(true)),
            (&mut self.io_uring, calls::io_uring),
            (&mut self.perf, calls::perf_event),
        ];
        // One child makes all the calls. Only where a filter kills it does every call get a child of its own.
        let functions = tries.each_ref().map(|(_, call)| *call);
        match Child::spawn(|| functions.map(|call| call())).and_then(|c| c.wait(timeout)) {
            Ok(answers) => tries.into_iter().zip(answers).for_each(|((slot, _), answer)| *slot = Support::of(answer)),
            Err(_) => {
                for (slot, call) in tries {
                    *slot = Support::of_child(Child::spawn(call).and_then(|c| c.wait(timeout)));
                }
            }
        }
        let known = ACTIONS.iter().filter(|(_, value)| calls::seccomp_action(*value).is_ok());
        self.seccomp_actions = known.map(|(name, _)| name.to_string()).collect();
    }
}
