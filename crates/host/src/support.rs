//! The answer to "does this host offer it?": yes, no, or not known, and why.

use serde::{Deserialize, Serialize};

use crate::sys::calls::Answer;
use crate::sys::child;

/// Whether something is offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Support {
    /// It was tried, and works.
    Yes,
    /// It was tried, and does not.
    No {
        /// What the kernel or the file said.
        reason: String,
    },
    /// It could not be tried.
    Unknown {
        /// Why not.
        reason: String,
    },
}

impl Support {
    /// Not offered, because of `reason`.
    pub fn no(reason: impl Into<String>) -> Support {
        Support::No { reason: reason.into() }
    }

    /// Not known, because of `reason`.
    pub fn unknown(reason: impl Into<String>) -> Support {
        Support::Unknown { reason: reason.into() }
    }

    /// Whether it works.
    pub fn is_yes(&self) -> bool {
        matches!(self, Support::Yes)
    }

    /// Whether it certainly does not work.
    pub fn is_no(&self) -> bool {
        matches!(self, Support::No { .. })
    }

    /// Why it is not offered or not known.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Support::Yes => None,
            Support::No { reason } | Support::Unknown { reason } => Some(reason),
        }
    }

    /// What a system call's answer says: success is support, an error is none.
    pub fn of(answer: Answer) -> Support {
        match answer {
            Ok(_) => Support::Yes,
            Err(errno) => Support::no(explain(errno)),
        }
    }

    /// The answer of a child that made a call.
    pub(crate) fn of_child(answer: Result<Answer, child::Error>) -> Support {
        match answer {
            Ok(answer) => Support::of(answer),
            Err(child::Error::Died(status)) if status & 0x7f == libc::SIGSYS => {
                Support::no("the call is answered with SIGSYS: a seccomp filter forbids it")
            }
            Err(error) => Support::unknown(error.to_string()),
        }
    }
}

/// An error number in words, with the likely cause.
pub(crate) fn explain(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno);
    match errno {
        libc::ENOSYS => format!("{text}: this kernel lacks the call, or a seccomp filter hides it"),
        libc::EPERM => format!("{text}: it needs a privilege that is missing, or a seccomp filter or LSM forbids it"),
        _ => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_their_likely_cause() {
        assert!(Support::of(Err(libc::ENOSYS)).reason().unwrap().contains("lacks the call"));
        assert!(Support::of(Err(libc::EPERM)).reason().unwrap().contains("seccomp"));
        assert_eq!(Support::of(Ok(3)), Support::Yes);
    }

    #[test]
    fn support_is_tagged_in_json() {
        assert_eq!(serde_json::to_string(&Support::Yes).unwrap(), r#"{"status":"yes"}"#);
        assert_eq!(serde_json::to_string(&Support::no("x")).unwrap(), r#"{"status":"no","reason":"x"}"#);
    }
}
