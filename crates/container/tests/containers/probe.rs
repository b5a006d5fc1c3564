//! The program inside: a list of small commands, each of which prints what it finds.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

pub fn main(args: &[String]) -> ExitCode {
    let mut args = args.iter().map(String::as_str);
    while let Some(command) = args.next() {
        let mut next = || args.next().unwrap_or("");
        match command {
            "exit" => return ExitCode::from(next().parse::<u8>().unwrap_or(1)),
            "read" => {
                let path = next();
                match std::fs::read_to_string(path) {
                    Ok(text) => println!("{}", text.trim_end()),
                    Err(e) => println!("{path}: {e}"),
                }
            }
            "link" => {
                println!("{}", std::fs::read_link(next()).map_or_else(|e| e.to_string(), |l| l.display().to_string()))
            }
            "list" => {
                let mut names: Vec<_> = std::fs::read_dir(next())
                    .map(|d| d.filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned())).collect())
                    .unwrap_or_default();
                names.sort();
                println!("{}", names.join(" "));
            }
            "list-to" => {
                let to = next();
                let mut names: Vec<_> = std::fs::read_dir(next())
                    .map(|d| d.filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned())).collect())
                    .unwrap_or_default();
                names.sort();
                std::fs::write(to, names.join(" ")).expect("write the list");
            }
            "stat" => {
                use std::os::unix::fs::MetadataExt;
                let path = next();
                match std::fs::symlink_metadata(path) {
                    Ok(m) => println!("{path} {:o} {}:{}", m.mode(), m.uid(), m.gid()),
                    Err(e) => println!("{path}: {e}"),
                }
            }
            "write" => {
                let (path, text) = (next(), next());
                println!(
                    "{}",
                    std::fs::write(path, text).map_or_else(|e| format!("{path}: {e}"), |()| "written".into())
                );
            }
            "chmod" => {
                let (path, mode) = (next(), u32::from_str_radix(next(), 8).unwrap_or(0));
                let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
                println!(
                    "{}",
                    std::fs::set_permissions(path, mode).map_or_else(|e| format!("{path}: {e}"), |()| "changed".into())
                );
            }
            "mkdir" => println!("{}", std::fs::create_dir(next()).map_or_else(|e| e.to_string(), |()| "made".into())),
            "env" => println!("{}", std::env::var(next()).unwrap_or_else(|_| "unset".into())),
            "cwd" => {
                println!("{}", std::env::current_dir().map_or_else(|e| e.to_string(), |d| d.display().to_string()))
            }
            "echo" => println!("{}", next()),
            "pid" => println!("{}", std::process::id()),
            "status" => {
                let key = next();
                let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
                let line = text.lines().find(|l| l.starts_with(key)).unwrap_or("none");
                println!("{}", line.split_whitespace().collect::<Vec<_>>().join(" "));
            }
            "tty" => println!("tty {}", std::io::stdin().is_terminal() && std::io::stdout().is_terminal()),
            "size" => {
                let size = rustix::termios::tcgetwinsize(rustix::stdio::stdin());
                println!("{}", size.map_or_else(|e| e.to_string(), |s| format!("{}x{}", s.ws_row, s.ws_col)));
            }
            "exe-mount" => {
                let flags = rustix::fs::statvfs("/proc/self/exe").map(|s| s.f_flag);
                let ro = flags.is_ok_and(|f| f.contains(rustix::fs::StatVfsMountFlags::RDONLY));
                println!("{}", if ro { "read-only" } else { "writable" });
            }
            "stdin" => {
                let mut text = String::new();
                let _ = std::io::stdin().read_to_string(&mut text);
                println!("{}", text.trim_end());
            }
            "wait-for" => {
                let path = next();
                for _ in 0..1000 {
                    if std::path::Path::new(path).exists() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            "sleep" => {
                let _ = std::io::stdout().flush();
                std::thread::sleep(Duration::from_secs(next().parse().unwrap_or(1)));
            }
            other => {
                println!("unknown command {other}");
                return ExitCode::from(99);
            }
        }
        let _ = std::io::stdout().flush();
    }
    ExitCode::SUCCESS
}
