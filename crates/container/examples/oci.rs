//! A bare command over the library, for measuring it without a command-line parser:
//! `oci ROOT create|run|start|state|kill|delete|exec|list|gc ID [ARGUMENT…]`.

use std::path::Path;
use std::process::ExitCode;

use strata_container::{CreateOptions, Error, ExecOptions, ExecOutcome, RunOptions, Runtime};

#[allow(clippy::print_stdout)]
fn act(args: &[String]) -> Result<i32, Error> {
    let argument = |i: usize| args.get(i).map_or("", String::as_str);
    let runtime = Runtime::open(Path::new(argument(1)))?;
    let id = argument(3);
    let options = CreateOptions {
        console_socket: std::env::var_os("CONSOLE_SOCKET").map(Into::into),
        ..CreateOptions::default()
    };
    match argument(2) {
        "create" => runtime.create(id, Path::new(argument(4)), &options).map(|_| 0),
        "run" => runtime.run(id, Path::new(argument(4)), &options, RunOptions::default()),
        "run-detached" => {
            runtime.run(id, Path::new(argument(4)), &options, RunOptions { detach: true, ..RunOptions::default() })
        }
        "start" => runtime.get(id)?.start().map(|_| 0),
        "kill" => {
            let signal = strata_container::signal_from_name(argument(4)).unwrap_or(15);
            runtime.get(id)?.kill(signal, argument(5) == "all").map(|()| 0)
        }
        "delete" => runtime.get(id)?.delete(argument(4) == "force").map(|_| 0),
        "pause" => runtime.get(id)?.pause().map(|()| 0),
        "resume" => runtime.get(id)?.resume().map(|()| 0),
        "exec" => {
            let mut options = ExecOptions::default();
            options.process.args = args[4..].to_vec();
            options.process.terminal = std::env::var_os("TTY").is_some();
            match runtime.get(id)?.exec(&options, &|_| ())? {
                ExecOutcome::Exited(code) => Ok(code),
                ExecOutcome::Detached { .. } => Ok(0),
            }
        }
        "state" => {
            println!("{}", serde_json::to_string(&runtime.get(id)?.state()).unwrap_or_default());
            Ok(0)
        }
        "list" => {
            for container in runtime.list()? {
                println!("{} {} {:?}", container.id(), container.status(), container.pid());
            }
            Ok(0)
        }
        "gc" => {
            println!("{:?}", runtime.gc()?);
            Ok(0)
        }
        verb => Err(Error::Options(format!("unknown verb {verb:?}"))),
    }
}

#[allow(clippy::print_stderr)]
fn main() -> ExitCode {
    if std::env::var_os("UNPROTECTED").is_none()
        && let Err(e) = strata_container::protect_self()
    {
        eprintln!("cannot protect the binary: {e}");
        return ExitCode::FAILURE;
    }
    let args: Vec<String> = std::env::args().collect();
    match act(&args) {
        Ok(code) => ExitCode::from(code as u8),
        Err(e) => {
            eprintln!("{e}");
            ExitCode::from(e.exit_code() as u8)
        }
    }
}
