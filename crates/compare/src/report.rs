//! The report: every figure, and every fact needed to believe it.
//!
//! The JSON form is this structure. `schema` names its version; fields are added within a version, never changed. Shortened:
//!
//! ```json
//! {
//!   "schema": "strata.compare/1", "date": "2026-01-02", "preset": "quick", "rounds": 3, "elapsed_s": 41.2,
//!   "workload": "built-in measures", "command": false,
//!   "host": {"kernel": "6.1.0", "cpu": "…", "cores": 2, "memory": 25769803776, "load_before": [0.1, 0.2, 0.2],
//!            "os": "…", "virtual_machine": true},
//!   "boundaries": [
//!     {"id": "bare", "title": "Bare host", "mechanism": "…", "machine": false, "status": {"state": "ran"}},
//!     {"id": "qemu-kvm", "title": "QEMU KVM", "mechanism": "…", "machine": true,
//!      "status": {"state": "unavailable", "reason": "…"}}
//!   ],
//!   "measures": [
//!     {"name": "syscall", "title": "System call", "group": "Asking the kernel", "about": "…", "unit": "ns",
//!      "better": "lower", "results": {
//!        "bare": {"state": "measured", "median": 201.0, "p10": 199.1, "p90": 209.8, "n": 3, "ratio": 1.0,
//!                 "samples": [201.0, 198.6, 212.0]},
//!        "runc": {"state": "failed", "reason": "…"}}}
//!   ],
//!   "notes": []
//! }
//! ```

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
pub(crate) mod tests {
    use super::*;

    /// A small report: two boundaries with figures, one that fails in one measure, one that is not there.
    pub(crate) fn example() -> Report {
        let boundary = |id: &str, title: &str, status| BoundaryFacts {
            id: id.into(),
            title: title.into(),
            mechanism: format!("How {title} works."),
            version: Some("1.2.3".into()),
            machine: false,
            status,
        };
        let figures = |samples: &[f64], ratio| {
            let s = crate::stats::Summary::of(samples).unwrap();
            Outcome::Measured(Figures {
                median: s.median,
                p10: s.p10,
                p90: s.p90,
                n: s.n,
                ratio: Some(ratio),
                samples: samples.into(),
            })
        };
        let measure = |name: &str, title: &str, unit: &str, better, results: Vec<(&str, Outcome)>| {
            let m = crate::measure::Measure::named(name).unwrap();
            MeasureFacts {
                name: name.into(),
                title: title.into(),
                group: m.group.into(),
                about: m.about.into(),
                unit: unit.into(),
                better,
                results: results.into_iter().map(|(id, outcome)| (id.to_string(), outcome)).collect(),
            }
        };
        Report {
            schema: SCHEMA.into(),
            date: "2026-01-02".into(),
            preset: "quick".into(),
            workload: "built-in measures".into(),
            command: false,
            rounds: 3,
            elapsed_s: 12.5,
            host: Host {
                kernel: "6.1".into(),
                cpu: "A <CPU> & more".into(),
                cores: 2,
                memory: 1 << 30,
                os: "Debian".into(),
                ..Host::default()
            },
            boundaries: vec![
                boundary("bare", "Bare host", Status::Ran),
                boundary("container", "Strata container", Status::Ran),
                boundary("runsc", "gVisor", Status::Ran),
                boundary("qemu-kvm", "QEMU KVM", Status::Unavailable { reason: "no hardware assistance".into() }),
            ],
            measures: vec![
                measure(
                    "start",
                    "Start to exit",
                    "ns",
                    Better::Lower,
                    vec![
                        ("bare", figures(&[700_000.0], 1.0)),
                        ("container", figures(&[4_700_000.0], 6.71)),
                        ("runsc", figures(&[120_000_000.0, 130_000_000.0], 178.6)),
                    ],
                ),
                measure(
                    "syscall",
                    "System call",
                    "ns",
                    Better::Lower,
                    vec![
                        ("bare", figures(&[190.0, 200.0, 215.0], 1.0)),
                        ("container", figures(&[205.0, 210.0, 230.0], 1.05)),
                        ("runsc", Outcome::Failed { reason: "ended <with> status 1".into() }),
                    ],
                ),
                measure(
                    "seqio",
                    "Sequential I/O",
                    "MB/s",
                    Better::Higher,
                    vec![
                        ("bare", figures(&[2000.0, 2100.0], 1.0)),
                        ("container", figures(&[1950.0, 2050.0], 1.025)),
                        ("runsc", figures(&[400.0, 500.0], 4.56)),
                    ],
                ),
            ],
            notes: vec!["A note.".into()],
        }
    }

    #[test]
    fn the_document_reads_back() {
        let json = example().to_json();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), example());
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["schema"], SCHEMA);
        let figures = &value["measures"][1]["results"]["container"];
        assert_eq!(
            (&figures["state"], &figures["median"], &figures["n"]),
            (&"measured".into(), &210.0.into(), &3.into())
        );
        assert_eq!(value["boundaries"][3]["status"]["state"], "unavailable");
    }

    #[test]
    fn above_one_is_always_the_worse() {
        assert_eq!(cost_ratio(20.0, 10.0, Better::Lower), Some(2.0));
        assert_eq!(cost_ratio(5.0, 10.0, Better::Higher), Some(2.0));
        assert_eq!(cost_ratio(0.0, 10.0, Better::Higher), None);
        assert_eq!(cost_ratio(1.0, 0.0, Better::Lower), None);
    }
}
