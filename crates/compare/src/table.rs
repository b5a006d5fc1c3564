//! The report for a terminal: measures as rows and boundaries as columns, or, where that does not fit, one block a
//! measure with a line a boundary.

use std::fmt::Write;

use crate::report::{BoundaryFacts, MeasureFacts, Outcome, Report, Status};
use crate::units::{human, ratio};

/// How to draw.
#[derive(Debug, Clone, Copy)]
struct Options {
    /// Columns of the terminal.
    width: usize,
    /// Whether escape sequences for colour may be used.
    color: bool,
}

/// Text in cells, then its colour.
type Painted = Vec<(String, Paint)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paint {
    Plain,
    Bold,
    Dim,
    Good,
    Fair,
    Bad,
}

impl Paint {
    fn of_ratio(ratio: f64) -> Paint {
        match ratio {
            r if r < 1.1 => Paint::Good,
            r if r < 3.0 => Paint::Fair,
            _ => Paint::Bad,
        }
    }

    fn code(self) -> &'static str {
        match self {
            Paint::Plain => "",
            Paint::Bold => "\x1b[1m",
            Paint::Dim => "\x1b[2m",
            Paint::Good => "\x1b[32m",
            Paint::Fair => "\x1b[33m",
            Paint::Bad => "\x1b[31m",
        }
    }
}

impl Report {
    /// The report for a terminal of `width` columns, with escape sequences for colour if `color`; ends in a line feed.
    pub fn to_table(&self, width: usize, color: bool) -> String {
        render(self, &Options { width, color })
    }
}

fn render(report: &Report, options: &Options) -> String {
    let ran: Vec<&BoundaryFacts> = report.ran().collect();
    let mut out = String::new();
    if !ran.is_empty() {
        match wide(report, &ran, options) {
            Some(text) => out = text,
            None => narrow(report, &ran, options, &mut out),
        }
    }
    notes(report, options, &mut out);
    out
}

/// Measures as rows; `None` if too wide.
fn wide(report: &Report, ran: &[&BoundaryFacts], options: &Options) -> Option<String> {
    let mut rows: Vec<(Option<&str>, Vec<Painted>)> = Vec::new();
    let mut group = "";
    for measure in &report.measures {
        let heading = (measure.group != group).then_some(measure.group.as_str());
        group = &measure.group;
        let mut cells = vec![vec![(format!("  {}", measure.title), Paint::Plain)]];
        cells.extend(ran.iter().map(|b| cell(measure, b)));
        rows.push((heading, cells));
    }
    let header: Vec<Painted> = [(String::new(), Paint::Bold)]
        .into_iter()
        .chain(ran.iter().map(|b| (b.title.clone(), Paint::Bold)))
        .map(|painted| vec![painted])
        .collect();
    let widths: Vec<usize> = (0..=ran.len())
        .map(|column| {
            rows.iter().map(|(_, cells)| &cells[column]).chain([&header[column]]).map(|c| columns(c)).max().unwrap_or(0)
        })
        .collect();
    if widths.iter().sum::<usize>() + 2 * ran.len() > options.width {
        return None;
    }
    let mut out = String::new();
    let line = |cells: &[Painted], out: &mut String| {
        for (index, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let blank = " ".repeat(width - columns(cell));
            // Names to the left, figures to the right.
            let (before, after) = if index == 0 { ("", blank.as_str()) } else { (blank.as_str(), "") };
            let gap = if index == 0 { "" } else { "  " };
            let _ = write!(out, "{gap}{before}{}{after}", paint(cell, options));
        }
        out.truncate(out.trim_end_matches(' ').len());
        out.push('\n');
    };
    line(&header, &mut out);
    for (heading, cells) in &rows {
        if let Some(heading) = heading {
            let _ = writeln!(out, "{}", paint(&[(heading.to_string(), Paint::Dim)], options));
        }
        line(cells, &mut out);
    }
    Some(out)
}

/// `201 ns ±4% ×1.03`, or the word `failed`.
fn cell(measure: &MeasureFacts, boundary: &BoundaryFacts) -> Painted {
    match measure.results.get(&boundary.id) {
        None => vec![("–".into(), Paint::Dim)],
        Some(Outcome::Failed { .. }) => vec![("failed".into(), Paint::Bad)],
        Some(Outcome::Measured(f)) => {
            let mut cell = vec![(human(f.median, &measure.unit), Paint::Plain)];
            if f.n > 1 && f.median > 0.0 {
                let spread = (f.p90 - f.p10) / 2.0 / f.median * 100.0;
                cell.push((format!(" ±{:>2}%", spread.round()), Paint::Dim));
            }
            if let Some(r) = f.ratio.filter(|_| boundary.id != "bare") {
                cell.push((format!(" {:>5}", ratio(r)), Paint::of_ratio(r)));
            }
            cell
        }
    }
}

/// One block a measure, one line a boundary.
fn narrow(report: &Report, ran: &[&BoundaryFacts], options: &Options, out: &mut String) {
    let names = ran.iter().map(|b| b.title.chars().count()).max().unwrap_or(0);
    for measure in &report.measures {
        let _ = writeln!(out, "{}", paint(&[(measure.title.clone(), Paint::Bold)], options));
        for boundary in ran {
            let mut line = vec![(format!("  {:<names$}", boundary.title), Paint::Plain)];
            match measure.results.get(&boundary.id) {
                None => line.push(("  –".into(), Paint::Dim)),
                Some(Outcome::Failed { reason }) => line.push((format!("  failed: {reason}"), Paint::Bad)),
                Some(Outcome::Measured(f)) => {
                    line.push((format!("  {:>9}", human(f.median, &measure.unit)), Paint::Plain));
                    let r = f.ratio.filter(|_| boundary.id != "bare");
                    line.push(r.map_or_else(
                        || (" ".repeat(8), Paint::Plain),
                        |r| (format!("  {:>6}", ratio(r)), Paint::of_ratio(r)),
                    ));
                    if f.n > 1 {
                        line.push((
                            format!("  {} – {}", human(f.p10, &measure.unit), human(f.p90, &measure.unit)),
                            Paint::Dim,
                        ));
                    }
                }
            }
            let _ = writeln!(out, "{}", paint(&fit(line, options.width), options).trim_end());
        }
    }
}

/// Cuts what is beyond the width.
fn fit(line: Painted, width: usize) -> Painted {
    let mut room = width.max(20);
    line.into_iter()
        .map(|(text, paint)| {
            let cut: String = text.chars().take(room).collect();
            room -= cut.chars().count();
            (cut, paint)
        })
        .collect()
}

fn notes(report: &Report, options: &Options, out: &mut String) {
    let mut lines = Vec::new();
    for boundary in &report.boundaries {
        match &boundary.status {
            Status::Ran => {}
            Status::Unavailable { reason } => lines.push(format!("{}: not here, {reason}", boundary.title)),
            Status::Failed { reason } => lines.push(format!("{}: failed, {reason}", boundary.title)),
        }
    }
    // In the wide table a cell has no room for its reason.
    for measure in &report.measures {
        for boundary in report.ran() {
            if let Some(Outcome::Failed { reason }) = measure.results.get(&boundary.id) {
                lines.push(format!("{}: {} failed, {reason}", boundary.title, measure.title));
            }
        }
    }
    lines.extend(report.notes.iter().cloned());
    if report.ran().any(|b| b.id == "bare") {
        lines.push(format!(
            "Medians of {} {} rounds; ± half the distance from the 10th to the 90th percentile; × cost relative to the bare host, above 1 is worse.",
            report.rounds, report.preset
        ));
    }
    let host = &report.host;
    lines.push(format!(
        "{}, {} processors, Linux {}, load {:.2} before{}.",
        host.cpu,
        host.cores,
        host.kernel,
        host.load_before[0],
        if host.virtual_machine { ", itself a virtual machine" } else { "" }
    ));
    if !out.is_empty() {
        out.push('\n');
    }
    for line in lines {
        for wrapped in wrap(&line, options.width) {
            let _ = writeln!(out, "{}", paint(&[(wrapped, Paint::Dim)], options));
        }
    }
}

/// Lines of at most `width` columns, broken at spaces; continuation lines are indented.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        let used = lines[last].chars().count();
        if used > 2 && used + 1 + word.chars().count() > width.max(20) {
            lines.push(format!("  {word}"));
        } else {
            if used > 0 {
                lines[last].push(' ');
            }
            lines[last].push_str(word);
        }
    }
    lines
}

fn columns(cell: &[(String, Paint)]) -> usize {
    cell.iter().map(|(text, _)| text.chars().count()).sum()
}

/// Text from elsewhere (reasons hold a guest's console) never reaches the terminal with control characters.
fn paint(cell: &[(String, Paint)], options: &Options) -> String {
    let mut out = String::new();
    for (text, paint) in cell {
        let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if options.color && *paint != Paint::Plain && !clean.trim().is_empty() {
            let _ = write!(out, "{}{clean}\x1b[0m", paint.code());
        } else {
            out.push_str(&clean);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn measures_as_rows_when_there_is_room() {
        let text = render(&example(), &Options { width: 120, color: false });
        let line = text.lines().find(|l| l.starts_with("  System call")).unwrap();
        assert!(
            line.contains("200 ns ± 5%")
                && line.contains("210 ns")
                && line.contains("×1.05")
                && line.contains("failed"),
            "{text}"
        );
        assert!(text.lines().all(|l| l.chars().count() <= 120), "{text}");
        assert!(text.contains("QEMU KVM: not here, no hardware assistance"), "{text}");
        assert!(text.contains("gVisor: System call failed, ended <with> status 1"), "{text}");
    }

    #[test]
    fn boundaries_as_rows_when_there_is_not() {
        let text = render(&example(), &Options { width: 60, color: false });
        assert!(text.lines().any(|l| l == "System call"), "{text}");
        assert!(
            text.lines().any(|l| l.starts_with("  Strata container") && l.contains("210 ns") && l.contains("×1.05")),
            "{text}"
        );
        assert!(text.lines().all(|l| l.chars().count() <= 60), "{text}");
    }

    #[test]
    fn colour_only_when_asked_and_no_escape_of_others_ever() {
        let mut report = example();
        report.notes.push("\x1b]0;title\x07".into());
        assert!(!render(&report, &Options { width: 100, color: false }).contains('\x1b'));
        let colored = render(&report, &Options { width: 100, color: true });
        assert!(colored.contains("\x1b[32m") && !colored.contains("\x1b]"));
    }
}
