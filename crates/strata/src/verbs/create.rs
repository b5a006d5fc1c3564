//! `strata create`: the OCI operation. Namespaces, mounts and cgroups exist afterwards; the program waits for `start`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use strata_container::CreateOptions;

use crate::context::Context;
use crate::failure::Failure;

/// Options of `create` and of the OCI form of `run`.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "OCI bundle")]
pub struct BundleOptions {
    /// Directory of config.json and the root file system [default: the working directory]
    #[arg(short, long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Unix socket that receives the terminal's descriptor
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Unix socket that receives the first process's pidfd
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// File for the first process's id
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Do not use pivot_root (for a root file system that is an initramfs)
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Further open descriptors, from 3 on, to pass to the program
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
}

impl BundleOptions {
    /// The bundle's directory.
    pub fn bundle(&self) -> &Path {
        self.bundle.as_deref().unwrap_or(Path::new("."))
    }

    /// The same for the runtime.
    pub fn create_options(&self, context: &Context) -> CreateOptions {
        CreateOptions {
            console_socket: self.console_socket.clone(),
            pidfd_socket: self.pidfd_socket.clone(),
            pid_file: self.pid_file.clone(),
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            preserve_fds: self.preserve_fds,
            systemd_cgroup: context.global.systemd_cgroup.unwrap_or(false),
            ..CreateOptions::default()
        }
    }
}

/// Options of `create`.
#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    options: BundleOptions,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

impl Create {
    /// Creates the container.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        let container =
            context.runtime()?.create(&self.id, self.options.bundle(), &self.options.create_options(context))?;
        for warning in container.warnings() {
            context.log.warning(warning);
        }
        Ok(ExitCode::SUCCESS)
    }
}
