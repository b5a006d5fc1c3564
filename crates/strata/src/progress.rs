//! Progress of long work: bars on a terminal, plain lines of tools on a pipe.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Mutex;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use strata_image::{Progress, Stage};
use strata_spec::quantity::format_bytes;

/// One bar for each thing under way.
pub struct Bars {
    all: MultiProgress,
    bars: Mutex<HashMap<(u8, String), ProgressBar>>,
    terminal: bool,
}

impl Bars {
    /// Shows how `work` gets on, and takes the bars off the screen when it is done.
    pub fn during<T>(work: impl FnOnce(&dyn Progress) -> T) -> T {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let bars = Bars { all, bars: Mutex::default(), terminal: std::io::stderr().is_terminal() };
        let done = work(&bars);
        // With nothing left to show, an error is of no consequence.
        let _ = bars.all.clear();
        done
    }

    /// The same, but silent if `quiet`.
    pub fn during_unless<T>(quiet: bool, work: impl FnOnce(&dyn Progress) -> T) -> T {
        if quiet { work(&()) } else { Bars::during(work) }
    }
}

impl Progress for Bars {
    fn update(&self, stage: Stage, item: &str, done: u64, total: Option<u64>) {
        if !self.terminal {
            // What a registry takes its time for is told, once for each blob.
            let verb = match stage {
                Stage::Pull => "pulled",
                Stage::Push => "pushed",
                _ => return,
            };
            if total == Some(done) {
                eprintln!("{verb} {item} {}", format_bytes(done));
            }
            return;
        }
        let (key, verb) = match stage {
            Stage::Copy => (0, "copying"),
            Stage::Unpack => (1, "unpacking"),
            Stage::Export => (2, "writing"),
            Stage::Build => (3, "building"),
            Stage::Pull => (4, "pulling"),
            Stage::Push => (5, "pushing"),
        };
        let Ok(mut bars) = self.bars.lock() else { return };
        let bar = bars.entry((key, item.to_string())).or_insert_with(|| {
            let template = if total.is_some() {
                "{msg:32} {bar:30} {binary_bytes:>11} / {binary_total_bytes}  {binary_bytes_per_sec}"
            } else {
                "{msg:32} {spinner} {binary_bytes:>11}  {binary_bytes_per_sec}"
            };
            let bar = self.all.add(ProgressBar::new(total.unwrap_or(0)));
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(format!(
                "{verb} {}",
                item.trim_start_matches("sha256:").chars().take(20).collect::<String>()
            ));
            bar
        });
        bar.set_position(done);
        if total == Some(done) {
            bar.finish();
        }
    }

    fn message(&self, line: &str) {
        if self.terminal {
            // Above the bars, so that neither tears the other.
            let _ = self.all.println(line);
        } else {
            eprintln!("{line}");
        }
    }
}
