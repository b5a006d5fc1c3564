//! Where things are kept, and the handles that verbs share.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use strata_container::{Container, Runtime};
use strata_image::Store;
use strata_spec::quantity::format_bytes;
use strata_supervise::Supervisor;

use crate::cli::Global;
use crate::failure::Failure;
use crate::log::Log;

/// What every verb is given.
pub struct Context {
    /// Options of every verb.
    pub global: Global,
    /// Messages.
    pub log: Log,
}

impl Context {
    /// The context that the options describe. Touches nothing but the log.
    pub fn new(global: Global) -> Context {
        let log = Log::new(&global);
        Context { global, log }
    }

    /// Directory of the containers' state.
    pub fn state_root(&self) -> PathBuf {
        self.global.root.clone().unwrap_or_else(|| match is_root_over("/run") {
            true => "/run/strata".into(),
            false => user_directory("XDG_RUNTIME_DIR", "/tmp"),
        })
    }

    /// Directory of images and instances.
    pub fn store_root(&self) -> PathBuf {
        self.global.store.clone().unwrap_or_else(|| match is_root_over("/var/lib") {
            true => "/var/lib/strata".into(),
            false => user_directory("XDG_DATA_HOME", ".local/share"),
        })
    }

    /// The container runtime on the state directory.
    pub fn runtime(&self) -> Result<Runtime, Failure> {
        Ok(Runtime::open(&self.state_root())?)
    }

    /// The container with this id.
    pub fn container(&self, id: &str) -> Result<Container, Failure> {
        Ok(self.runtime()?.get(id)?)
    }

    /// Adds to a failure that needs it what to do.
    pub fn with_hint(&self, failure: Failure) -> Failure {
        if failure.hint.is_some() || !failure.is_full_disk() {
            return failure;
        }
        let (store, root) = (self.store_root(), self.state_root());
        failure.hint(format!(
            "`strata gc` removes what nothing refers to, `strata image rm` images; or give directories elsewhere: \
             --store DIR for images and instances (now {}, {}), --root DIR for the state (now {}, {})",
            store.display(),
            free(&store),
            root.display(),
            free(&root)
        ))
    }

    /// The image store.
    pub fn store(&self) -> Result<Store, Failure> {
        Ok(Store::open(&self.store_root())?)
    }

    /// The instances of both directories.
    pub fn supervisor(&self) -> Result<Supervisor, Failure> {
        Ok(Supervisor::new(self.state_root(), self.store_root()))
    }
}

/// What is free for this user on the file system that `directory` is on, or will be.
fn free(directory: &Path) -> String {
    match directory.ancestors().find_map(|path| rustix::fs::statvfs(path).ok()) {
        Some(stat) if stat.f_favail == 0 && stat.f_files > 0 => "no inode free".into(),
        Some(stat) => format!("{} free", format_bytes(stat.f_bavail.saturating_mul(stat.f_frsize))),
        None => "which cannot be examined".into(),
    }
}

/// Whether this is root, and of this directory too: rootless engines start their runtime as root of a user namespace,
/// where the host's directories belong to somebody else.
fn is_root_over(directory: impl AsRef<Path>) -> bool {
    rustix::process::geteuid().is_root() && directory.as_ref().metadata().is_ok_and(|metadata| metadata.uid() == 0)
}

/// `$VARIABLE/strata`, or a directory of the user's own below `fallback` (relative to the home directory).
fn user_directory(variable: &str, fallback: &str) -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    match (std::env::var_os(variable), std::env::var_os("HOME")) {
        (Some(directory), _) if !directory.is_empty() => PathBuf::from(directory).join("strata"),
        (_, Some(home)) if !fallback.starts_with('/') => PathBuf::from(home).join(fallback).join("strata"),
        _ => PathBuf::from("/tmp").join(format!("strata-{uid}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_of_a_user_namespace_does_not_own_the_hosts_directories() {
        let root = rustix::process::geteuid().is_root();
        assert_eq!(is_root_over("/"), root);
        let own = std::env::temp_dir().join(format!("strata-context-{}", std::process::id()));
        std::fs::create_dir(&own).unwrap();
        // nobody, as which the host's root appears where it is not mapped
        let given = std::os::unix::fs::chown(&own, Some(65534), None);
        let over = is_root_over(&own);
        std::fs::remove_dir(&own).unwrap();
        assert!(!over && given.is_ok() == root);
    }
}
