//! The command that the tests drive: `runtime ROOT VERB ID ARGUMENT…`, options by environment.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use strata_container::{CreateOptions, Error, ExecOptions, ExecOutcome, Note, RunOptions, Runtime, signal_from_name};

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(Into::into)
}

fn tell(note: Note) {
    eprintln!("{note:?}");
}

fn warn(warnings: Vec<String>) -> i32 {
    warnings.into_iter().map(Note::Warning).for_each(tell);
    0
}

fn act(args: &[String]) -> Result<i32, Error> {
    let argument = |i: usize| args.get(i).map_or("", String::as_str);
    let runtime = Runtime::open(Path::new(argument(0)))?;
    let id = argument(2);
    let options = CreateOptions {
        console_socket: variable("CONSOLE"),
        pid_file: variable("PID_FILE"),
        preserve_fds: std::env::var("PRESERVE").ok().and_then(|n| n.parse().ok()).unwrap_or(0),
        no_pivot: variable("NO_PIVOT").is_some(),
        ..CreateOptions::default()
    };
    match argument(1) {
        "create" => runtime.create(id, Path::new(argument(3)), &options).map(|_| 0),
        "run" => runtime.run(
            id,
            Path::new(argument(3)),
            &options,
            RunOptions { notes: Some(&tell), ..RunOptions::default() },
        ),
        "start" => runtime.get(id)?.start().map(warn),
        "kill" => runtime.get(id)?.kill(signal_from_name(argument(3)).unwrap_or(15), argument(4) == "all").map(|()| 0),
        "delete" => runtime.delete(id, argument(3) == "force").map(warn),
        "pause" => runtime.get(id)?.pause().map(|()| 0),
        "resume" => runtime.get(id)?.resume().map(|()| 0),
        "ps" => {
            println!("{:?}", runtime.get(id)?.pids()?);
            Ok(0)
        }
        "state" => {
            println!("{}", serde_json::to_string(&runtime.get(id)?.state()).expect("state"));
            Ok(0)
        }
        "warnings" => {
            println!("{:?}", runtime.get(id)?.warnings());
            Ok(0)
        }
        "exec" => {
            let mut exec = ExecOptions { pid_file: variable("PID_FILE"), ..ExecOptions::default() };
            exec.process.args = args[3..].to_vec();
            exec.process.terminal = variable("TTY").is_some();
            exec.cgroup = std::env::var("CGROUP").into_iter().collect();
            exec.process.exec_cpu_affinity =
                std::env::var("AFFINITY").ok().map(|a| serde_json::from_str(&a).expect("an affinity"));
            exec.detach = variable("DETACH").is_some();
            exec.process.user.uid = std::env::var("EXEC_UID").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
            match runtime.get(id)?.exec(&exec, &tell)? {
                ExecOutcome::Exited(code) => Ok(code),
                ExecOutcome::Detached { .. } => Ok(0),
            }
        }
        "gc" => {
            let report = runtime.gc()?;
            println!("{report:?}");
            Ok(i32::from(!report.failed.is_empty()))
        }
        verb => Err(Error::Options(format!("unknown verb {verb:?}"))),
    }
}

pub fn main(args: &[String]) -> ExitCode {
    if let Err(e) = strata_container::protect_self() {
        eprintln!("cannot protect the binary: {e}");
        return ExitCode::from(99);
    }
    match act(args) {
        Ok(code) => ExitCode::from(code as u8),
        Err(e) => {
            eprintln!("{e}");
            ExitCode::from(e.exit_code() as u8)
        }
    }
}
