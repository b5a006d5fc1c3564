//! Control groups: the limits, weights, accounting and freezing of a set of processes.
//!
//! A container has one cgroup *directory in every hierarchy* of the host ([`Layout`]). [`Cgroup`] is that set of
//! directories; it hides which of the two interfaces (cgroups(7), the kernel's `admin-guide/cgroup-v1` and
//! `cgroup-v2.rst`) a controller lives behind. The life of one:
//!
//! 1. [`Cgroup::create`] makes the directories and writes the limits of the OCI runtime specification's
//!    `linux.resources` (`config-linux.md#control-groups`). [`Cgroup::begin`] splits that, so that a process can be born
//!    in the version 2 directory and be at work while those of version 1 are made.
//! 2. The parent opens [`JoinHandles`]; the child enters by itself ([`JoinHandles::join_current`]), which is far
//!    cheaper than being moved: moving another process takes a lock over every fork and exit of the host.
//! 3. [`Cgroup::apply`], [`Cgroup::freeze`], [`Cgroup::stats`], [`Cgroup::kill_all`] while it runs.
//! 4. [`Cgroup::remove`].
//!
//! The value is plain data: it is kept in the container's record and works in any later process.

mod apply;
mod bpf;
mod cgroup;
pub mod convert;
mod dbus;
mod devices;
mod dir;
mod error;
mod freeze;
mod layout;
mod oom;
pub mod stats;
pub mod systemd;
#[cfg(test)]
mod testing;

pub use cgroup::{Cgroup, ControllerDir, JoinHandles, Making, MountView};
pub use devices::DEFAULT_DEVICE_RULES;
pub use error::Error;
pub use layout::{Hierarchy, Layout};
pub use oom::{OomEvent, OomWatch};
pub use stats::Stats;
