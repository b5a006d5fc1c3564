//! Messages: to people on standard error, and to the file that `--log` names in the form that Docker, Podman and
//! containerd read.
//!
//! Callers of OCI runtimes take the last record of level `error` in the log as the reason of a failure.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};

use strata_container::Note;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::{Global, LogFormat};
use crate::failure::Failure;

/// Where messages go.
pub struct Log {
    file: Option<File>,
    format: LogFormat,
    debug: bool,
}

impl Log {
    /// Opens the log that the options name. A log that cannot be opened is told on standard error and does without.
    pub fn new(global: &Global) -> Log {
        let mut log = Log { file: None, format: global.log_format, debug: global.debug };
        if let Some(path) = &global.log {
            match OpenOptions::new().create(true).append(true).open(path) {
                Ok(file) => log.file = Some(file),
                Err(error) => eprintln!("strata: cannot open the log {}: {error}", path.display()),
            }
        }
        log
    }

    /// What ended the command.
    pub fn failure(&self, failure: &Failure) {
        let text = failure.to_string();
        self.record("error", &text);
        let mut lines = format!("{} {text}\n", paint("strata:", "1;31"));
        if let Some(hint) = &failure.hint {
            lines.push_str(&format!("{} {hint}\n", paint("hint:", "1;36")));
        }
        tell(&lines);
    }

    /// Something the user should know that does not end the command.
    pub fn warning(&self, text: &str) {
        self.record("warning", text);
        tell(&format!("{} {text}\n", paint("strata: warning:", "1;33")));
    }

    /// Progress for those who look into a problem.
    pub fn debug(&self, text: impl FnOnce() -> String) {
        if self.debug {
            let text = text();
            self.record("debug", &text);
            if self.file.is_none() {
                tell(&format!("strata: {text}\n"));
            }
        }
    }

    /// What the container runtime has to say.
    pub fn note(&self, note: Note) {
        match note {
            Note::Warning(text) => self.warning(&text),
            Note::Debug(text) => self.debug(|| text),
        }
    }

    fn record(&self, level: &str, text: &str) {
        let Some(mut file) = self.file.as_ref() else { return };
        let time = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let line = match self.format {
            LogFormat::Json => format!("{}\n", serde_json::json!({ "level": level, "msg": text, "time": time })),
            LogFormat::Text => format!("time=\"{time}\" level={level} msg={text:?}\n"),
        };
        // One write a record, so that records of several processes do not mix. Nobody is left to tell of an error.
        let _ = file.write_all(line.as_bytes());
    }
}

/// One write, so that lines of several processes do not mix.
fn tell(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn paint(text: &str, style: &str) -> String {
    if std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{style}m{text}\x1b[0m")
    } else {
        text.to_string()
    }
}
