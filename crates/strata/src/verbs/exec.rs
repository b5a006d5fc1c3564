//! `strata exec`: a further process in an instance, with runc's flags.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use strata_container::{Container, ExecOptions, ExecOutcome};
use strata_spec::runtime::{Capabilities, Process, User};
use strata_supervise::workload::capability_name;

use crate::context::Context;
use crate::failure::Failure;

/// Exit code when the process could not be started, as runc's.
const EXEC_FAILED: u8 = 255;

/// Options of `exec`.
#[derive(Debug, Args)]
pub struct Exec {
    /// Process description in OCI form, instead of a command
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Working directory
    #[arg(long, short = 'w', visible_alias = "workdir", value_name = "DIR")]
    cwd: Option<String>,
    /// Set an environment variable
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Give the process a terminal
    #[arg(short, long)]
    tty: bool,
    /// Accepted for those used to it: standard input is always passed on
    #[arg(short, long, hide = true)]
    interactive: bool,
    /// User and group, by name or id
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Further group ids
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// Return when the process has started
    #[arg(short, long)]
    detach: bool,
    /// Unix socket that receives the terminal's descriptor
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Unix socket that receives the process's pidfd
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// File for the process's id
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Add a capability
    #[arg(short, long, value_name = "CAPABILITY")]
    cap: Vec<String>,
    /// Let no program raise its privileges
    #[arg(long)]
    no_new_privs: bool,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// Further open descriptors, from 3 on, to pass to the process
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Run in this cgroup below the container's, of all or of the named controllers
    #[arg(long, value_name = "[CONTROLLERS:]PATH")]
    cgroup: Vec<String>,
    /// Join even a frozen instance
    #[arg(long)]
    ignore_paused: bool,
    /// Name or id
    #[arg(value_name = "ID")]
    id: String,
    /// Command and arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Exec {
    /// Runs the process; the exit code is its own.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        let failed = |failure: Failure| failure.code(EXEC_FAILED);
        let container = context.container(&self.id).map_err(failed)?;
        let process = self.process(&container).map_err(failed)?;
        let options = ExecOptions {
            process,
            detach: self.detach,
            console_socket: self.console_socket,
            pidfd_socket: self.pidfd_socket,
            pid_file: self.pid_file,
            preserve_fds: self.preserve_fds,
            cgroup: self.cgroup,
            ignore_paused: self.ignore_paused,
        };
        match container.exec(&options, &|note| context.log.note(note)).map_err(|error| failed(error.into()))? {
            ExecOutcome::Detached { .. } => Ok(ExitCode::SUCCESS),
            ExecOutcome::Exited(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))),
        }
    }

    fn process(&self, container: &Container) -> Result<Process, Failure> {
        if let Some(path) = &self.process {
            return read_process(path);
        }
        if self.command.is_empty() {
            return Err(Failure::new("no command").hint("write `strata exec ID COMMAND ARG…`"));
        }
        let spec = container.spec()?;
        let mut process = spec.process.unwrap_or_default();
        process.args = self.command.clone();
        process.terminal = self.tty;
        process.console_size = None;
        if let Some(cwd) = &self.cwd {
            process.cwd = cwd.clone();
        }
        for entry in &self.env {
            let name = entry.split('=').next().unwrap_or_default();
            process.env.retain(|old| old.split('=').next() != Some(name));
            process.env.push(entry.clone());
        }
        if let Some(user) = &self.user {
            let configured = process.user;
            process.user = self.resolve(container, user)?;
            process.user.umask = configured.umask;
            // The container's further groups stay, as with runc.
            for group in configured.additional_gids {
                if !process.user.additional_gids.contains(&group) {
                    process.user.additional_gids.push(group);
                }
            }
        }
        process.user.additional_gids.extend(&self.additional_gids);
        if !self.cap.is_empty() {
            let sets = process.capabilities.get_or_insert_with(Capabilities::default);
            for name in self.cap.iter().map(|name| capability_name(name)) {
                for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
                    if !set.contains(&name) {
                        set.push(name.clone());
                    }
                }
            }
        }
        process.no_new_privileges |= self.no_new_privs;
        if self.apparmor.is_some() {
            process.apparmor_profile = self.apparmor.clone();
        }
        if self.process_label.is_some() {
            process.selinux_label = self.process_label.clone();
        }
        Ok(process)
    }

    /// Numbers mean themselves; names are looked up in the container's own files.
    fn resolve(&self, container: &Container, user: &str) -> Result<User, Failure> {
        let (name, group) = user.split_once(':').unwrap_or((user, ""));
        if let (Ok(uid), Ok(gid)) = (name.parse(), if group.is_empty() { Ok(0) } else { group.parse() }) {
            return Ok(User { uid, gid, ..User::default() });
        }
        let root = PathBuf::from(format!("/proc/{}/root", container.pid().unwrap_or(0)));
        Ok(strata_image::resolve_user(&root, user)?)
    }
}

fn read_process(path: &Path) -> Result<Process, Failure> {
    let text = std::fs::read(path)
        .map_err(|error| Failure::new(format!("cannot read the process {}: {error}", path.display())))?;
    serde_json::from_slice(&text).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}
