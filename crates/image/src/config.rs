//! What an image says about running it (OCI image-spec `config.md`, field `config`).

use oci_spec::image::ImageConfiguration;
use serde::Serialize;
use std::collections::BTreeMap;

/// The part of an image's configuration that a runtime turns into a process, with empty for absent.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct RunConfig {
    /// `NAME=value`, in the image's order.
    pub env: Vec<String>,
    /// Put before the command's arguments.
    pub entrypoint: Vec<String>,
    /// Default arguments (or the whole command without entrypoint).
    pub cmd: Vec<String>,
    /// Absolute; `/` where the image has none.
    pub working_dir: String,
    /// `user[:group]`, names or numbers; see [`crate::user::resolve_user`]. Empty is root.
    pub user: String,
    /// `port[/protocol]`, sorted.
    pub exposed_ports: Vec<String>,
    /// Paths meant to hold data that outlives the instance, sorted.
    pub volumes: Vec<String>,
    /// Free metadata.
    pub labels: BTreeMap<String, String>,
    /// Like `SIGTERM` or `RTMIN+3`; `None` means SIGTERM.
    pub stop_signal: Option<String>,
}

impl RunConfig {
    /// Reads the `config` field of an image configuration.
    pub fn from_image(configuration: &ImageConfiguration) -> RunConfig {
        let mut run = RunConfig { working_dir: "/".to_owned(), ..RunConfig::default() };
        let Some(config) = configuration.config() else { return run };
        let sorted = |list: &Option<Vec<String>>| {
            let mut list = list.clone().unwrap_or_default();
            list.sort();
            list
        };
        run.env = config.env().clone().unwrap_or_default();
        run.entrypoint = config.entrypoint().clone().unwrap_or_default();
        run.cmd = config.cmd().clone().unwrap_or_default();
        run.user = config.user().clone().unwrap_or_default();
        run.exposed_ports = sorted(config.exposed_ports());
        run.volumes = sorted(config.volumes());
        run.labels = config.labels().clone().unwrap_or_default().into_iter().collect();
        run.stop_signal = config.stop_signal().clone().filter(|signal| !signal.is_empty());
        if let Some(dir) = config.working_dir() {
            // Docker resolves a relative directory against `/`.
            run.working_dir = if dir.starts_with('/') { dir.clone() } else { format!("/{dir}") };
        }
        run
    }

    /// The command line: `entrypoint` and `args`, or the image's `cmd` where `args` is empty. `entrypoint`, when given,
    /// replaces the image's and drops its `cmd`, as Docker and Podman do. May be empty: the image then names nothing.
    pub fn command(&self, entrypoint: Option<&[String]>, args: &[String]) -> Vec<String> {
        let (head, default_args): (&[String], &[String]) = match entrypoint {
            Some(entrypoint) => (entrypoint, &[]),
            None => (&self.entrypoint, &self.cmd),
        };
        let tail = if args.is_empty() { default_args } else { args };
        head.iter().chain(tail).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_config(json: &str) -> RunConfig {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},"config":{json}}}"#
        );
        RunConfig::from_image(&serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn run_config_reads_every_field() {
        let run = run_config(
            r#"{"User":"www:data","Env":["A=1"],"Entrypoint":["/e"],"Cmd":["c"],"WorkingDir":"srv","StopSignal":"SIGINT",
                "ExposedPorts":{"80/tcp":{},"443":{}},"Volumes":{"/b":{},"/a":{}},"Labels":{"k":"v"}}"#,
        );
        assert_eq!(run.exposed_ports, ["443", "80/tcp"]);
        assert_eq!(run.volumes, ["/a", "/b"]);
        assert_eq!((run.working_dir.as_str(), run.user.as_str()), ("/srv", "www:data"));
        assert_eq!(run.stop_signal.as_deref(), Some("SIGINT"));
        assert_eq!(run.labels["k"], "v");
        assert_eq!(run.command(None, &[]), ["/e", "c"]);
        assert_eq!(run.command(None, &["x".into()]), ["/e", "x"]);
        assert_eq!(run.command(Some(&["/o".into()]), &[]), ["/o"]);
    }

    #[test]
    fn run_config_takes_null_for_absent() {
        let run = run_config(r#"{"Env":null,"Cmd":null,"ExposedPorts":null,"Labels":null,"StopSignal":""}"#);
        assert_eq!(run, RunConfig { working_dir: "/".into(), ..RunConfig::default() });
    }
}
