//! A failed command: what went wrong, what to do about it, and the exit code.

use std::error::Error;
use std::fmt;

/// Exit code of an OCI verb that failed, as runc's.
pub const OCI_FAILED: u8 = 1;
/// Exit code of `run` when the instance could not be made; the command's own codes pass through.
pub const RUN_FAILED: u8 = 125;

/// Why a verb could not do its work. Printed once, by `main`.
#[derive(Debug)]
pub struct Failure {
    error: Box<dyn Error>,
    /// What the user can do, in a sentence.
    pub hint: Option<String>,
    /// The process's exit code.
    pub code: u8,
}

impl Failure {
    /// A failure with a text of its own.
    pub fn new(text: impl Into<String>) -> Failure {
        Failure { error: text.into().into(), hint: None, code: OCI_FAILED }
    }

    /// Adds what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// Whether a full disk or quota is the reason. By its words: reasons from a child process arrive as text.
    pub fn is_full_disk(&self) -> bool {
        let text = self.to_string().to_lowercase();
        ["no space left on", "quota exceeded"].iter().any(|words| text.contains(words))
    }

    /// Sets the exit code.
    pub fn code(mut self, code: u8) -> Failure {
        self.code = code;
        self
    }
}

/// The whole chain in one line, each cause once: many errors already repeat their source's text.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.error.to_string();
        let mut cause = self.error.source();
        while let Some(error) = cause {
            let line = error.to_string();
            if !text.contains(&line) {
                text.push_str(": ");
                text.push_str(&line);
            }
            cause = error.source();
        }
        f.write_str(&text)
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure { error: Box::new(error), hint: None, code: OCI_FAILED }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_chain_is_printed_once() {
        let failure = Failure::from(Outer(std::io::Error::other("inner")));
        assert_eq!(failure.to_string(), "outer: inner");
    }
}
