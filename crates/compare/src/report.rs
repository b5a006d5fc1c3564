//! The report: every figure, and every fact needed to believe it.
//!
//! The JSON form is this structure. `schema` names its version; fields are added within a version, never changed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::units::Better;

/// Version of the JSON document.
pub const SCHEMA: &str = "strata.compare/1";

/// Everything a comparison found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// The date as the caller gave it.
    pub date: String,
    /// `quick`, `full` or `custom`.
    pub preset: String,
    /// What ran, in words: the built-in suite or the user's command line.
    pub workload: String,
    /// Whether [`Report::workload`] is a command of the user's own.
    pub command: bool,
    /// Rounds asked for.
    pub rounds: u32,
    /// How long it all took, in seconds.
    pub elapsed_s: f64,
    /// Where it ran.
    pub host: Host,
    /// The boundaries in the order of the report; the bare host first.
    pub boundaries: Vec<BoundaryFacts>,
    /// The measures in the order of the report.
    pub measures: Vec<MeasureFacts>,
    /// What a reader must know beside the figures, such as an exit status that differed.
    pub notes: Vec<String>,
}

/// A boundary that took part, or could not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoundaryFacts {
    /// Key of [`MeasureFacts::results`].
    pub id: String,
    /// Name for headings.
    pub title: String,
    /// What answers system calls and executes instructions.
    pub mechanism: String,
    /// As the peer reports it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
    /// Whether a whole machine is booted.
    pub machine: bool,
    /// Whether it ran.
    pub status: Status,
}

/// Whether a boundary ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Status {
    /// It ran; single measures may still have failed.
    Ran,
    /// This host does not offer it.
    Unavailable {
        /// Why.
        reason: String,
    },
    /// It is offered, but could not be prepared or failed every time.
    Failed {
        /// The first failure.
        reason: String,
    },
}

/// One measure with its result for every boundary that ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeasureFacts {
    /// Short stable name.
    pub name: String,
    /// Name for headings.
    pub title: String,
    /// Heading of the group it belongs to.
    pub group: String,
    /// What it is and why boundaries differ in it.
    pub about: String,
    /// Unit of all figures, such as `ns` or `MB/s`.
    pub unit: String,
    /// Good direction.
    pub better: Better,
    /// By boundary id. A boundary that did not run is absent.
    pub results: BTreeMap<String, Outcome>,
}

/// What came of one measure behind one boundary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Outcome {
    /// It was measured.
    Measured(Figures),
    /// It was not.
    Failed {
        /// Why.
        reason: String,
    },
}

/// The figures of one measure behind one boundary, in the measure's unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Median of the samples.
    pub median: f64,
    /// 10th percentile.
    pub p10: f64,
    /// 90th percentile.
    pub p90: f64,
    /// How many samples.
    pub n: usize,
    /// Cost relative to the bare host: above 1 is slower or larger, whichever direction is good. Absent without a bare figure.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ratio: Option<f64>,
    /// Every sample in the order taken.
    pub samples: Vec<f64>,
}

impl Report {
    /// The JSON document, indented.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The boundaries with figures, in order.
    pub fn ran(&self) -> impl Iterator<Item = &BoundaryFacts> {
        self.boundaries.iter().filter(|b| b.status == Status::Ran)
    }
}

impl MeasureFacts {
    /// The figures of one boundary, if it was measured.
    pub fn figures(&self, boundary: &str) -> Option<&Figures> {
        match self.results.get(boundary)? {
            Outcome::Measured(figures) => Some(figures),
            Outcome::Failed { .. } => None,
        }
    }
}

/// How many times the cost of `bare` the cost `value` is.
pub(crate) fn cost_ratio(value: f64, bare: f64, better: Better) -> Option<f64> {
    let ratio = match better {
        Better::Lower => value / bare,
        Better::Higher => bare / value,
    };
    (ratio.is_finite() && ratio > 0.0).then_some(ratio)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn above_one_is_always_the_worse() {
        assert_eq!(cost_ratio(20.0, 10.0, Better::Lower), Some(2.0));
        assert_eq!(cost_ratio(5.0, 10.0, Better::Higher), Some(2.0));
        assert_eq!(cost_ratio(0.0, 10.0, Better::Higher), None);
        assert_eq!(cost_ratio(1.0, 0.0, Better::Lower), None);
    }
}
