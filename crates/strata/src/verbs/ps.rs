//! `strata ps`: the instances; with an id, the processes of one, in runc's forms.

use std::process::{Command, ExitCode};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use strata_spec::state::Status;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Table, age, print, print_json};

/// Options of `ps`.
#[derive(Debug, Args)]
pub struct Ps {
    /// Show instances that have ended as well
    #[arg(short, long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Form of the process list
    #[arg(short, long, default_value = "table")]
    format: Format,
    /// Show the processes of this instance
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Options of ps(1) for the process list [default: -ef]
    #[arg(value_name = "PS OPTION", trailing_var_arg = true, allow_hyphen_values = true)]
    ps_options: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

impl Ps {
    /// Prints the list.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        match &self.id {
            Some(id) => self.processes(context, id),
            None => self.instances(context),
        }
    }

    fn instances(&self, context: &Context) -> Result<ExitCode, Failure> {
        let mut instances = context.supervisor()?.list()?;
        instances.retain(|instance| self.all || instance.status != Status::Stopped);
        if self.json {
            print_json(&instances)?;
        } else if self.quiet {
            for instance in &instances {
                print(&format!("{}\n", instance.id))?;
            }
        } else {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
            let mut table = Table::new(&["ID", "ISOLATION", "SOURCE", "COMMAND", "CREATED", "STATUS", "PID"]);
            for instance in instances {
                let status = match instance.exit_code {
                    Some(code) => format!("stopped ({code})"),
                    None => instance.status.to_string(),
                };
                table.row([
                    instance.id,
                    instance.isolation.to_string(),
                    instance.source,
                    shorten(&instance.command.join(" ")),
                    format!("{} ago", age(now.saturating_sub(instance.created))),
                    status,
                    instance.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
                ]);
            }
            table.print()?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn processes(&self, context: &Context, id: &str) -> Result<ExitCode, Failure> {
        let pids = context.container(id)?.pids()?;
        if self.format == Format::Json || self.json {
            // Compact, as runc prints it: containerd and Docker read this.
            print(&format!("{}\n", serde_json::to_string(&pids)?))?;
            return Ok(ExitCode::SUCCESS);
        }
        let options = if self.ps_options.is_empty() { vec!["-ef".to_string()] } else { self.ps_options.clone() };
        let output = Command::new("ps").args(&options).output().map_err(|error| {
            Failure::new(format!("cannot run ps: {error}")).hint("install procps, or use --format json")
        })?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::new(format!("ps {}: {}", options.join(" "), text.trim())));
        }
        print(&select(&String::from_utf8_lossy(&output.stdout), &pids)?)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The lines of `ps` that are about `pids`, with their head.
fn select(listing: &str, pids: &[i32]) -> Result<String, Failure> {
    let mut lines = listing.lines();
    let head = lines.next().unwrap_or_default();
    let column = head.split_whitespace().position(|name| name == "PID").ok_or_else(|| {
        Failure::new("ps printed no PID column").hint("use options that show it, such as -ef or -o pid,args")
    })?;
    let mut text = format!("{head}\n");
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse::<i32>().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    Ok(text)
}

fn shorten(command: &str) -> String {
    const WIDTH: usize = 40;
    let printable: String = command.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if printable.chars().count() <= WIDTH {
        return printable;
    }
    printable.chars().take(WIDTH - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_processes_are_shown() {
        let listing = "UID PID PPID CMD\nroot 1 0 init\nroot 42 1 sleep 5\n";
        assert_eq!(select(listing, &[42]).unwrap(), "UID PID PPID CMD\nroot 42 1 sleep 5\n");
        assert!(select("UID CMD\n", &[42]).is_err());
    }

    #[test]
    fn long_commands_are_cut() {
        assert_eq!(shorten(&"x".repeat(50)).chars().count(), 40);
        assert_eq!(shorten("a\nb"), "a b");
    }
}
