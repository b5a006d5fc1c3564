//! Fault injection: with the feature `inject` or in a debug build, `STRATA_INJECT_KILL=STAGE` makes the process that
//! reaches that stage kill itself, as an out-of-memory killer might. What remains must be what [`gc`] removes.
//!
//! [`gc`]: crate::Runtime::gc

/// Every stage at which a process can be made to die, in the order in which they are reached. `parent-…` stages are in
/// the calling process, `child-…` in the container's first process, `exec-…` around [`exec`](crate::Container::exec).
pub const STAGES: &[&str] = &[
    "parent-record",
    "parent-cloned",
    "child-cloned",
    "parent-cgroup",
    "child-rootfs",
    "child-joined",
    "parent-hooks",
    "child-mounted",
    "child-pivoted",
    "child-ready",
    "parent-ready",
    "parent-committed",
    "child-waiting",
    "parent-starting",
    "child-starting",
    "parent-started",
    "exec-parent-cloned",
    "exec-child-joined",
    "exec-child-ready",
    "parent-killed",
    "parent-cgroup-removed",
    "parent-record-removed",
];

/// Dies here if the environment says so.
#[inline]
pub(crate) fn at(stage: &str) {
    #[cfg(any(feature = "inject", debug_assertions))]
    if std::env::var_os("STRATA_INJECT_KILL").is_some_and(|wanted| wanted == stage) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The first process of a namespace is immune to its own signals; ending without any clean-up is the same.
        crate::sys::exit_now(137);
    }
    #[cfg(not(any(feature = "inject", debug_assertions)))]
    let _ = stage;
    debug_assert!(STAGES.contains(&stage), "the stage {stage} is not listed");
}
