//! The record of an instance on disk.
//!
//! `instances/ID/instance.json` is written before anything else exists, so that whatever a killed process leaves
//! behind can be found and removed.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use strata_spec::state::Status;

use crate::Error;
use crate::workload::Workload;

/// What was asked, and when.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The instance's id, which is its name when it was given one.
    pub id: String,
    /// Seconds since the epoch.
    pub created: u64,
    /// The workload.
    pub workload: Workload,
    /// Program and arguments as resolved against the image.
    #[serde(default)]
    pub command: Vec<String>,
    /// Digest of the image's manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// Whether the instance is removed when its command ends.
    pub removed_at_end: bool,
    /// Process id of the supervisor and its start time in clock ticks since boot, so that a reused id is not taken for it.
    pub supervisor: (i32, u64),
}

/// An instance or container as `ps` and `inspect` show it.
#[derive(Debug, Clone, Serialize)]
pub struct Info {
    /// The id.
    pub id: String,
    /// The boundary's name.
    pub isolation: &'static str,
    /// Image, directory or bundle.
    pub source: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Where in its life it is.
    pub status: Status,
    /// The command's exit code once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The first process, as the host sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Seconds since the epoch.
    pub created: u64,
    /// The bundle's or the instance's directory.
    pub directory: PathBuf,
}

/// The files of one instance.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) directory: PathBuf,
}

impl Files {
    pub(crate) fn new(instances: &Path, id: &str) -> Files {
        Files { directory: instances.join(id) }
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.directory.join("instance.json")
    }

    /// Where output of a background instance goes.
    pub(crate) fn output(&self) -> PathBuf {
        self.directory.join("output.log")
    }

    fn exit(&self) -> PathBuf {
        self.directory.join("exit")
    }

    pub(crate) fn read_record(&self) -> Result<Record, Error> {
        let path = self.record();
        let text = std::fs::read(&path).map_err(|error| Error::read(&path, error))?;
        serde_json::from_slice(&text).map_err(|error| Error::read(&path, error.into()))
    }

    pub(crate) fn write_record(&self, record: &Record) -> Result<(), Error> {
        let text = serde_json::to_vec(record).map_err(|error| Error::io("write", &self.record(), error.into()))?;
        self.write(&self.record(), &text)
    }

    /// The exit code, if the command has ended.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        std::fs::read_to_string(self.exit()).ok()?.trim().parse().ok()
    }

    pub(crate) fn write_exit_code(&self, code: i32) -> Result<(), Error> {
        self.write(&self.exit(), code.to_string().as_bytes())
    }

    /// Replaces a file whole: a reader sees the old content or the new.
    fn write(&self, path: &Path, content: &[u8]) -> Result<(), Error> {
        let new = path.with_extension("new");
        std::fs::write(&new, content).map_err(|error| Error::io("write", &new, error))?;
        std::fs::rename(&new, path).map_err(|error| Error::io("write", path, error))
    }
}

/// Seconds since the epoch.
pub(crate) fn now() -> u64 {
    seconds(SystemTime::now())
}

/// The same of any moment.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// When the process started, in clock ticks since boot; `None` if there is none.
pub(crate) fn process_start(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything; start time is field 22.
    let after_name = text.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_start_time_and_an_unused_id_has_none() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(process_start(pid).is_some_and(|ticks| ticks > 0));
        assert_eq!(process_start(-1), None);
    }
}
