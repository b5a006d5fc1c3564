//! The same workload behind every boundary this host offers, and the stack of costs side by side.
//!
//! What isolation costs is only visible as a *ratio in one run*: the same static program, the same minute, the same
//! noise. So a comparison is a set of [`Boundary`] implementations, one file each, all given the same root file
//! system and the same command lines, and run in interleaved rounds whose order rotates, so that a change in the
//! host's load falls on all of them alike. Nothing measured is thrown away: medians and the 10th and 90th
//! percentile absorb outliers, the samples themselves are in the JSON.
//!
//! Start at [`compare`]: [`Setup::boundaries`] lists the boundaries, [`Plan`] says what to run, and the [`Report`]
//! that comes back is rendered by [`Report::to_table`], [`Report::to_html`] or [`Report::to_json`].

pub mod bench;
mod boundary;
mod bundle;
mod console;
mod host;
mod html;
mod measure;
mod process;
mod report;
mod run;
mod stats;
mod sys;
mod table;
mod units;

pub use boundary::{Boundary, Job, Output, Reason, Sample, Setup, Watch, Workload};
pub use host::Host;
pub use measure::{MEASURES, Measure, Source};
pub use report::{BoundaryFacts, Figures, MeasureFacts, Outcome, Report, SCHEMA, Status};
pub use run::{Plan, Preset, Progress, compare};
pub use stats::Summary;
pub use units::Better;

/// What stops a whole comparison. A boundary that fails is not an error: its [`Reason`] is in the report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's flag was raised; everything started has been ended.
    #[error("the comparison was cancelled")]
    Cancelled,
    /// The plan names no boundary or no measure.
    #[error("nothing to compare: the plan has no {0}")]
    Empty(&'static str),
    /// The root file system given cannot hold a workload.
    #[error("root file system {path}: {reason}", path = path.display())]
    Rootfs {
        /// The directory given.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A scratch directory could not be made.
    #[error("scratch directory: {0}")]
    Scratch(std::io::Error),
}

/// Makes SIGINT, SIGTERM and SIGHUP raise `flag` instead of ending the process, so that [`compare`] ends everything it started first.
pub fn cancel_on_interrupt(flag: &'static std::sync::atomic::AtomicBool) {
    sys::raise_on_interrupt(flag);
}
