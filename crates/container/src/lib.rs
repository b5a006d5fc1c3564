//! Containers as the OCI runtime specification 1.3 means them: host kernel, host CPU, and a boundary of namespaces,
//! cgroups, capabilities, a system-call filter and a private root file system.
//!
//! The way through the crate is the life of a container:
//!
//! 1. [`Runtime::create`] reads and judges the configuration (`config.rs`), writes a record of what it is about to make
//!    (`record.rs`), makes the cgroup, and forks the container's first process into its namespaces (`create.rs`,
//!    `namespaces.rs`). There is no helper program: the child is a plain fork of the single-threaded parent.
//! 2. The child builds the world inside (`init.rs`): mounts (`rootfs.rs`, `mounts.rs`, `cgroup_mount.rs`), devices
//!    (`devices.rs`), and then its own identity and limits (`process.rs`). Every path below the root is resolved by the
//!    kernel as if the root were `/` (`paths.rs`), and `/proc` is only written through a verified handle (`procfs.rs`).
//!    Parent and child talk over one socket pair (`sync.rs`).
//! 3. [`Container::start`] connects to the socket at which the child waits; the child runs the `startContainer` hooks
//!    and executes the program. [`Runtime::run`] is both in one, without the detour.
//! 4. [`Container::exec`] joins the namespaces and the cgroup of a living container (`exec.rs`).
//! 5. [`Container::delete`] removes what was made. [`Runtime::gc`] does so for Strata processes that were killed.
//!
//! Invariants: no process of the container ever holds a descriptor of a host directory; the running binary cannot be
//! written through `/proc/self/exe` (`seal.rs`); all `unsafe` code is in `sys.rs`; nothing here prints or exits, except
//! the forked child, which ends itself.
//!
//! The calling process must be single-threaded and should call [`protect_self`] first in `main`.

mod capabilities;
mod cgroup_mount;
mod config;
mod console;
mod copy_up;
mod create;
mod devices;
mod error;
mod exec;
mod features;
mod hooks;
mod init;
mod inject;
mod mount_options;
mod mounts;
mod namespaces;
mod netdev;
mod paths;
mod process;
mod procfs;
mod rdt;
mod record;
mod rootfs;
mod runtime;
mod seal;
mod signals;
mod sync;
mod sys;

pub use capabilities::known as capability_names;
pub use config::{load_spec, parse_spec, validate, validate_id};
pub use error::Error;
pub use features::{Features, features};
pub use inject::STAGES as INJECT_STAGES;
pub use runtime::{Container, CreateOptions, ExecOptions, ExecOutcome, GcReport, Note, Resources, RunOptions, Runtime};
pub use seal::{Protection, protect_self};
pub use signals::{signal_from_name, signal_name};
pub use strata_spec::state::{State, Status};
