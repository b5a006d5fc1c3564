//! `strata login` and `strata logout`: the credentials for a registry, where Docker keeps them too.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;

use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use strata_registry::{Client, Credentials, credentials};

use super::pull::{RegistryOptions, Secret};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::print;

/// Longest password.
const PASSWORD_MAX: u64 = 64 << 10;

/// Options of `login`.
#[derive(Debug, Args)]
pub struct Login {
    /// User name [default: asked for]
    #[arg(short, long)]
    username: Option<String>,
    /// Password; others may see it in the list of processes
    #[arg(short, long, value_name = "PASSWORD", value_parser = Secret::parse, conflicts_with = "password_stdin")]
    password: Option<Secret>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    #[command(flatten)]
    registry: RegistryOptions,
    /// Registry: HOST[:PORT]
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    host: String,
}

/// Options of `logout`.
#[derive(Debug, Args)]
pub struct Logout {
    #[command(flatten)]
    registry: RegistryOptions,
    /// Registry: HOST[:PORT]
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    host: String,
}

impl Login {
    /// Does it.
    pub fn execute(self, _: &Context) -> Result<ExitCode, Failure> {
        let user = match self.username {
            Some(user) => user,
            None => ask("User name: ", true)?,
        };
        let password = match self.password {
            Some(Secret(password)) => password,
            None if self.password_stdin => {
                let mut text = String::new();
                std::io::stdin().lock().take(PASSWORD_MAX).read_to_string(&mut text)?;
                text.trim_end_matches(['\r', '\n']).to_owned()
            }
            None => ask("Password: ", false)?,
        };
        if user.is_empty() || password.is_empty() || user.contains(':') {
            return Err(Failure::new("a user name without colon and a password are needed"));
        }
        let mut options = self.registry.client()?;
        options.credentials = Some(Credentials::Password { user: user.clone(), password: password.clone() });
        let host = registry_of(&self.host)?;
        Client::new(&options, &()).check_login(&host)?;
        let place = credentials::keep(self.registry.auth_file(), &host, &user, &password)?;
        print(&format!("{user} may use {host}; the credentials are in {place}\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Logout {
    /// Does it.
    pub fn execute(self, _: &Context) -> Result<ExitCode, Failure> {
        let host = registry_of(&self.host)?;
        match credentials::forget(self.registry.auth_file(), &host)? {
            true => print(&format!("the credentials for {host} are forgotten\n"))?,
            false => return Err(Failure::new(format!("there are no credentials for {host}"))),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The registry's name out of what people write: an address is taken too.
fn registry_of(text: &str) -> Result<String, Failure> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    let host = host.trim_end_matches('/');
    let parsed = strata_registry::name::parse(&format!("{host}/x"));
    match parsed {
        Ok(strata_registry::name::Parsed::Full(remote)) if !host.contains('/') => Ok(remote.registry),
        _ => Err(Failure::new(format!("`{text}` is no registry")).hint("write HOST or HOST:PORT")),
    }
}

/// Asks at the terminal; what is not to be seen is not echoed.
fn ask(question: &str, echo: bool) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let hint = "give --username and --password-stdin";
        return Err(Failure::new("there is no terminal to ask for the credentials at").hint(hint));
    }
    eprint!("{question}");
    std::io::stderr().flush()?;
    let before = tcgetattr(&stdin)?;
    if !echo {
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &quiet)?;
    }
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    if !echo {
        tcsetattr(&stdin, OptionalActions::Now, &before)?;
        eprintln!();
    }
    read?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
