//! Programs that the configuration has run at fixed points of a container's life (OCI runtime-spec, `config.md`,
//! "POSIX-platform Hooks"). Each gets the container's state as JSON on its standard input.
//!
//! As with runc, hooks of the host run in the bundle's directory and have the runtime's environment unless they bring
//! their own. `startContainer` hooks are programs of the container: they run where its program does, with that program's
//! environment unless they bring their own; the runtime's is none of their business.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec};
use strata_spec::runtime::{Hook, Spec};
use strata_spec::state::State;

use crate::error::Error;
use crate::sys;

/// Every kind of hook and its programs.
pub(crate) fn all(spec: &Spec) -> impl Iterator<Item = (&'static str, &[Hook])> {
    spec.hooks.iter().flat_map(|h| {
        [
            ("prestart", h.prestart.as_slice()),
            ("createRuntime", &h.create_runtime),
            ("createContainer", &h.create_container),
            ("startContainer", &h.start_container),
            ("poststart", &h.poststart),
            ("poststop", &h.poststop),
        ]
    })
}

/// The programs of one kind of hook.
pub(crate) fn of<'a>(spec: &'a Spec, kind: &str) -> &'a [Hook] {
    all(spec).find(|(k, _)| *k == kind).map(|(_, hooks)| hooks).unwrap_or_default()
}

/// Runs hooks in order until one fails.
pub(crate) fn run(kind: &'static str, hooks: &[Hook], state: &State) -> Result<(), Error> {
    hooks.iter().try_for_each(|hook| run_one(kind, hook, state, None))
}

/// Runs `startContainer` hooks in order until one fails. `env` is the environment of the container's program, `NAME=value`.
pub(crate) fn run_inside(hooks: &[Hook], state: &State, env: &[Vec<u8>]) -> Result<(), Error> {
    hooks.iter().try_for_each(|hook| run_one("startContainer", hook, state, Some(env)))
}

/// Runs every hook; failures are returned as warnings, as the specification has it after start and after stop.
pub(crate) fn run_all(kind: &'static str, hooks: &[Hook], state: &State) -> Vec<String> {
    hooks
        .iter()
        .filter_map(|hook| run_one(kind, hook, state, None).err())
        .map(|e| format!("{e}, which is ignored"))
        .collect()
}

/// `inside`: the environment of the container's program for a hook that runs in the container.
fn run_one(kind: &'static str, hook: &Hook, state: &State, inside: Option<&[Vec<u8>]>) -> Result<(), Error> {
    let failed = |message: String| Error::Hook { kind, path: hook.path.clone(), message };
    let cannot = |e: std::io::Error| failed(e.to_string());
    let json = serde_json::to_vec(state).map_err(|e| failed(e.to_string()))?;
    // Files in memory, not pipes: a hook that does not read its state, or says more than a pipe holds, waits for nobody.
    let memory = || rustix::fs::memfd_create("hook", rustix::fs::MemfdFlags::CLOEXEC).map(File::from);
    let input = memory().map_err(|e| cannot(e.into()))?;
    input.write_all_at(&json, 0).map_err(cannot)?;
    let mut output = memory().map_err(|e| cannot(e.into()))?;
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    if !hook.env.is_empty() {
        command.env_clear().envs(hook.env.iter().filter_map(|e| e.split_once('=')));
    } else if let Some(env) = inside {
        let pairs = env.iter().filter_map(|entry| {
            let equals = entry.iter().position(|byte| *byte == b'=')?;
            Some((OsStr::from_bytes(&entry[..equals]), OsStr::from_bytes(&entry[equals + 1..])))
        });
        command.env_clear().envs(pairs);
    }
    // The bundle may be gone when the container is deleted.
    if inside.is_none() && state.bundle.is_dir() {
        command.current_dir(&state.bundle);
    }
    // A group of its own, so that what the hook started can be ended with it.
    command.process_group(0).stdin(input);
    command.stdout(output.try_clone().map_err(cannot)?).stderr(output.try_clone().map_err(cannot)?);
    // Who ignores this signal is not told how a child ended.
    sys::default_signals(sys::signal_bit(libc::SIGCHLD));
    let mut child = command.spawn().map_err(cannot)?;
    if let Some(seconds) = hook.timeout {
        let limit = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd =
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).map_err(|e| cannot(e.into()))?;
        let ended =
            rustix::io::retry_on_intr(|| rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)));
        if ended.map_err(|e| cannot(e.into()))? == 0 {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
            let _ = child.wait();
            return Err(failed(format!("it did not end within its timeout of {seconds} s")));
        }
    }
    let status = child.wait().map_err(cannot)?;
    if status.success() {
        return Ok(());
    }
    let mut said = Vec::new();
    let _ = output.rewind();
    let _ = Read::by_ref(&mut output).take(1024).read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said);
    Err(failed(format!("{status}{}{}", if said.is_empty() { "" } else { ": " }, said.trim_end())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata_spec::state::Status;

    fn state() -> State {
        State {
            oci_version: "1.2.0".into(),
            id: "x".into(),
            status: Status::Creating,
            pid: Some(7),
            bundle: "/b".into(),
            annotations: Default::default(),
        }
    }

    fn hook(script: &str, timeout: Option<i64>) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script.into()],
            env: vec!["A=1".into(), "PATH=/bin:/usr/bin".into()],
            timeout,
        }
    }

    #[test]
    fn the_state_is_the_standard_input_and_the_environment_is_the_hooks_own() {
        let script =
            r#"read -r line; case "$line" in *'"pid":7'*) test "$A" = 1 && test -z "$HOME";; *) exit 3;; esac"#;
        run("prestart", &[hook(script, Some(5))], &state()).unwrap();
    }

    #[test]
    fn a_failure_says_what_the_hook_said() {
        let error = run("poststop", &[hook("echo no good >&2; exit 4", None)], &state()).unwrap_err().to_string();
        assert!(error.contains("poststop hook /bin/sh") && error.contains("no good") && error.contains('4'), "{error}");
    }

    #[test]
    fn a_hook_out_of_time_is_ended_with_all_that_it_started() {
        let started = std::time::Instant::now();
        let file = std::env::temp_dir().join(format!("strata-hook-{}", std::process::id()));
        let script = format!("sleep 30 & echo $! > {}; wait", file.display());
        // More than a pipe holds, and not read.
        let mut state = state();
        state.annotations.insert("long".into(), "x".repeat(200_000));
        let error = run("prestart", &[hook(&script, Some(1))], &state).unwrap_err().to_string();
        assert!(error.contains("timeout") && started.elapsed().as_secs() < 20, "{error}");
        let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let ended = || crate::procfs::process_stat(pid).is_none_or(|s| !s.alive());
        assert!((0..200).any(|_| ended() || {
            std::thread::sleep(std::time::Duration::from_millis(10));
            false
        }));
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn hooks_of_the_host_run_in_the_bundle_with_the_runtimes_environment() {
        let bundle = std::env::temp_dir();
        let state = State { bundle: bundle.clone(), ..state() };
        let script = format!("test \"$(pwd -P)\" = {} && test -n \"$PATH\"", bundle.canonicalize().unwrap().display());
        let bare = |script: &str| Hook { env: Vec::new(), ..hook(script, None) };
        run("createRuntime", &[bare(&script)], &state).unwrap();
        let inherited = "tr '\\0' '\\n' < /proc/$$/environ | grep -q ^CARGO_";
        run("poststop", &[bare(inherited)], &state).unwrap();
        let own = [b"PATH=/bin:/usr/bin".to_vec(), b"A=of=program".to_vec()];
        run_inside(&[bare("test \"$A\" = of=program")], &state, &own).unwrap();
        run_inside(&[hook("test \"$A\" = 1", None)], &state, &own).unwrap();
        let error = run_inside(&[bare(inherited)], &state, &own).unwrap_err().to_string();
        assert!(error.contains("exit status"), "{error}");
        // A bundle that is gone is no reason not to clean up.
        run("poststop", &[bare("true")], &State { bundle: "/nowhere".into(), ..state }).unwrap();
    }
}
