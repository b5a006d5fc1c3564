//! The report as one page that needs nothing else: no script, no font, no image from anywhere. Charts are inline SVG in
//! per cent of their width, so they stretch without distorting text; colours follow the reader's light or dark setting.

use std::fmt::Write;

use crate::report::{BoundaryFacts, Figures, MeasureFacts, Outcome, Report, Status};
use crate::units::{Better, human, ratio};

impl Report {
    /// The report as one self-contained HTML page.
    pub fn to_html(&self) -> String {
        render(self)
    }

    /// What a person would say of the report in a meeting: one sentence a boundary, Strata's first.
    pub fn headline(&self) -> Vec<String> {
        self.ran().filter(|b| b.id != "bare").filter_map(|boundary| sentence(self, boundary)).collect()
    }
}

fn render(report: &Report) -> String {
    let ran: Vec<&BoundaryFacts> = report.ran().collect();
    let title = if report.command {
        format!("What isolation costs: {}", report.workload)
    } else {
        "What isolation costs".into()
    };
    let mut out = String::with_capacity(64 << 10);
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n",
        escape(&title)
    );
    header(report, &ran, &mut out);
    if !ran.is_empty() {
        overview(report, &ran, &mut out);
        charts(report, &ran, &mut out);
        figures_table(report, &ran, &mut out);
    }
    boundaries(report, &mut out);
    method(report, &mut out);
    out.push_str("</main>\n</body>\n</html>\n");
    out
}

fn header(report: &Report, ran: &[&BoundaryFacts], out: &mut String) {
    let command = match report.command {
        true => format!(
            "<p class=\"command\"><code>{}</code></p>
",
            escape(&report.workload)
        ),
        false => String::new(),
    };
    let what = if report.command {
        format!("The same command behind {} boundaries", ran.len())
    } else {
        format!("The same program behind {} boundaries", ran.len())
    };
    let _ = write!(
        out,
        "<header>\n<p class=\"kicker\">strata compare</p>\n<h1>What isolation costs</h1>\n{command}<p class=\"sub\">{what} of one host, {} · {} · Linux {}</p>\n",
        escape(&report.date),
        escape(&report.host.cpu),
        escape(&report.host.kernel)
    );
    let sentences = report.headline();
    if let Some((first, rest)) = sentences.split_first() {
        let _ = writeln!(out, "<p class=\"headline\">{}</p>", escape(first));
        if !rest.is_empty() {
            out.push_str("<ul class=\"also\">\n");
            for sentence in rest {
                let _ = writeln!(out, "<li>{}</li>", escape(sentence));
            }
            out.push_str("</ul>\n");
        }
    }
    out.push_str("</header>\n");
}

fn sentence(report: &Report, boundary: &BoundaryFacts) -> Option<String> {
    let measure = |name: &str| report.measures.iter().find(|m| m.name == name);
    if report.command {
        let wall = measure("wall")?;
        let figures = wall.figures(&boundary.id)?;
        let times = figures.ratio.map(|r| format!(", {} the bare host's time", ratio(r))).unwrap_or_default();
        return Some(format!(
            "Behind {} the command takes {}{times}.",
            boundary.title,
            human(figures.median, &wall.unit)
        ));
    }
    let mut parts = Vec::new();
    for (name, words, none) in
        [("start", "at start", "nothing at start"), ("resident", "of memory standing by", "no memory standing by")]
    {
        if let Some(m) = measure(name)
            && let (Some(here), Some(bare)) = (m.figures(&boundary.id), m.figures("bare"))
        {
            let extra = here.median - bare.median;
            let close = extra <= 0.0 || extra < 0.05 * bare.median;
            parts.push(if close { none.to_string() } else { format!("{} {words}", human(extra, &m.unit)) });
        }
    }
    let inside: Vec<(&MeasureFacts, f64)> =
        inside(report).filter_map(|m| Some((m, m.figures(&boundary.id)?.ratio?))).collect();
    let after = if inside.is_empty() {
        None
    } else {
        let mean = geometric_mean(inside.iter().map(|(_, r)| *r));
        let worst = inside.iter().filter(|(m, _)| clearly_dearer(m, &boundary.id)).max_by(|a, b| a.1.total_cmp(&b.1));
        let except = worst.map(|(m, r)| format!("{} {}", in_a_sentence(&m.title), ratio(*r)));
        Some(match (mean, except) {
            (..1.1, None) => "nothing measurable afterwards".to_string(),
            (..1.1, Some(worst)) => format!("almost nothing afterwards (most: {worst})"),
            (mean, Some(worst)) => format!("{} on average afterwards (most: {worst})", ratio(mean)),
            (mean, None) => format!("{} on average afterwards", ratio(mean)),
        })
    };
    let costs = match (parts.join(" and "), after) {
        (start, Some(after)) if start.is_empty() => after,
        (start, Some(after)) => format!("{start}, and {after}"),
        (start, None) if start.is_empty() => return None,
        (start, None) => start,
    };
    let article = if boundary.id == "container" { "A " } else { "" };
    Some(format!("{article}{} costs {costs}.", boundary.title))
}

/// A title inside a sentence: without its capital, unless it begins with an abbreviation.
fn in_a_sentence(title: &str) -> String {
    let mut chars = title.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() => first.to_lowercase().chain(chars).collect(),
        _ => title.into(),
    }
}

/// Measures taken inside, for which a ratio to the bare host says what running, not starting, costs.
fn inside(report: &Report) -> impl Iterator<Item = &MeasureFacts> {
    report.measures.iter().filter(|m| !matches!(m.name.as_str(), "start" | "resident" | "wall" | "cpu" | "peak"))
}

/// More than a quarter dearer, with spreads that do not touch the bare host's.
fn clearly_dearer(measure: &MeasureFacts, boundary: &str) -> bool {
    let (Some(here), Some(bare)) = (measure.figures(boundary), measure.figures("bare")) else { return false };
    let apart = match measure.better {
        Better::Lower => here.p10 > bare.p90,
        Better::Higher => here.p90 < bare.p10,
    };
    apart && here.ratio.is_some_and(|r| r > 1.25)
}

fn geometric_mean(ratios: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = ratios.fold((0.0, 0.0), |(sum, count), r| (sum + r.ln(), count + 1.0));
    (sum / count).exp()
}

/// Boundaries against groups of measures, coloured by cost: the whole report at a glance.
fn overview(report: &Report, ran: &[&BoundaryFacts], out: &mut String) {
    if report.command {
        return;
    }
    let mut groups: Vec<&str> = inside(report).map(|m| m.group.as_str()).collect();
    groups.dedup();
    let outside: Vec<&MeasureFacts> =
        report.measures.iter().filter(|m| matches!(m.name.as_str(), "start" | "resident")).collect();
    out.push_str("<section>\n<h2>At a glance</h2>\n<p class=\"note\">Start and memory as measured; the other columns are the geometric mean of their measures' cost relative to the bare host. Above ×1 is slower.</p>\n<div class=\"scroll\"><table class=\"heat\">\n<thead><tr><th></th>");
    for m in &outside {
        let _ = write!(out, "<th scope=\"col\">{}</th>", escape(&m.title));
    }
    for group in &groups {
        let _ = write!(out, "<th scope=\"col\">{}</th>", escape(group));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for boundary in ran {
        let _ = write!(out, "<tr class=\"{}\"><th scope=\"row\">{}</th>", kind(boundary), escape(&boundary.title));
        for m in &outside {
            match m.figures(&boundary.id) {
                Some(f) => heat_cell(f.ratio, &human(f.median, &m.unit), out),
                None => out.push_str("<td class=\"none\">–</td>"),
            }
        }
        for group in &groups {
            let ratios: Vec<f64> =
                inside(report).filter(|m| m.group == *group).filter_map(|m| m.figures(&boundary.id)?.ratio).collect();
            if ratios.is_empty() {
                out.push_str("<td class=\"none\">–</td>");
            } else {
                let mean = geometric_mean(ratios.into_iter());
                heat_cell(Some(mean), &ratio(mean), out);
            }
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n</section>\n");
}

fn heat_cell(cost: Option<f64>, text: &str, out: &mut String) {
    let class = match cost {
        None => "h0",
        Some(r) if r < 1.1 => "h0",
        Some(r) if r < 2.0 => "h1",
        Some(r) if r < 5.0 => "h2",
        Some(r) if r < 20.0 => "h3",
        Some(_) => "h4",
    };
    let _ = write!(out, "<td class=\"{class}\">{}</td>", escape(text));
}

fn charts(report: &Report, ran: &[&BoundaryFacts], out: &mut String) {
    let mut group = "";
    for measure in &report.measures {
        if measure.group != group {
            if !group.is_empty() {
                out.push_str("</div>\n</section>\n");
            }
            group = &measure.group;
            let _ = writeln!(out, "<section>\n<h2>{}</h2>\n<div class=\"cards\">", escape(group));
        }
        chart(measure, ran, out);
    }
    if !group.is_empty() {
        out.push_str("</div>\n</section>\n");
    }
}

/// Cost relative to a base, and where it lies between the edges of the chart.
struct Scale {
    base: f64,
    low: f64,
    high: f64,
    log: bool,
    better: Better,
}

impl Scale {
    fn of(measure: &MeasureFacts, shown: &[(&BoundaryFacts, Option<&Figures>)]) -> Option<Scale> {
        let figures: Vec<&Figures> = shown.iter().filter_map(|(_, f)| *f).collect();
        let best = figures.iter().map(|f| f.median).reduce(match measure.better {
            Better::Lower => f64::min,
            Better::Higher => f64::max,
        })?;
        let base = measure.figures("bare").map_or(best, |f| f.median);
        let mut scale = Scale { base, low: 0.0, high: 1.0, log: false, better: measure.better };
        let costs: Vec<f64> = figures
            .iter()
            .flat_map(|f| [f.p10, f.median, f.p90])
            .map(|v| scale.cost(v))
            .filter(|c| c.is_finite() && *c > 0.0)
            .collect();
        let high = costs.iter().copied().fold(1.0, f64::max);
        let low = costs.iter().copied().fold(1.0, f64::min);
        scale.log = high > 10.0;
        (scale.low, scale.high) = if scale.log { (low.min(0.8), high * 1.15) } else { (0.0, high * 1.06) };
        (base > 0.0 && !costs.is_empty()).then_some(scale)
    }

    fn cost(&self, value: f64) -> f64 {
        match self.better {
            Better::Lower => value / self.base,
            Better::Higher => self.base / value,
        }
    }

    /// Per cent of the chart's width.
    fn at(&self, cost: f64) -> f64 {
        let share = if self.log {
            (cost.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (cost - self.low) / (self.high - self.low)
        };
        (share * 100.0).clamp(0.0, 100.0)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.log {
            let decades = (0..12).map(|n| 10f64.powi(n)).take_while(|d| *d <= self.high).collect::<Vec<_>>();
            return decades;
        }
        let step = [0.25, 0.5].into_iter().find(|s| self.high / s <= 6.0).unwrap_or(1.0);
        (0..=11).map(|n| f64::from(n) * step).take_while(|t| *t <= self.high).collect()
    }
}

fn chart(measure: &MeasureFacts, ran: &[&BoundaryFacts], out: &mut String) {
    let direction = match measure.better {
        Better::Lower => "less is better",
        Better::Higher => "more is better",
    };
    let _ = write!(
        out,
        "<article class=\"card\" id=\"m-{}\">\n<h3>{} <small>{direction}</small></h3>\n<p class=\"about\">{}</p>\n",
        escape(&measure.name),
        escape(&measure.title),
        escape(&measure.about)
    );
    let shown: Vec<(&BoundaryFacts, Option<&Figures>)> = ran.iter().map(|b| (*b, measure.figures(&b.id))).collect();
    let scale = Scale::of(measure, &shown);
    out.push_str("<div class=\"chart\">\n");
    for (boundary, figures) in &shown {
        let _ = write!(
            out,
            "<div class=\"row {}\"><span class=\"name\">{}</span>",
            kind(boundary),
            escape(&boundary.title)
        );
        match (figures, &scale) {
            (Some(f), Some(scale)) => bar(measure, boundary, f, scale, out),
            (Some(f), None) => {
                let _ = write!(
                    out,
                    "<span class=\"plot\"></span><span class=\"value\">{}</span>",
                    escape(&human(f.median, &measure.unit))
                );
            }
            _ => {
                let reason = match measure.results.get(&boundary.id) {
                    Some(Outcome::Failed { reason }) => format!("failed: {reason}"),
                    _ => "not measured".into(),
                };
                let _ = write!(out, "<span class=\"why\">{}</span>", escape(&reason));
            }
        }
        out.push_str("</div>\n");
    }
    if let Some(scale) = &scale {
        axis(scale, out);
    }
    out.push_str("</div>\n</article>\n");
}

fn bar(measure: &MeasureFacts, boundary: &BoundaryFacts, f: &Figures, scale: &Scale, out: &mut String) {
    let cost = scale.cost(f.median);
    let (a, b) = (scale.cost(f.p10), scale.cost(f.p90));
    let (whisker_low, whisker_high) = (scale.at(a.min(b)), scale.at(a.max(b)));
    // On a logarithmic axis there is no zero to start from: bars grow from the bare host's line.
    let from = scale.at(if scale.log { 1.0 } else { 0.0 });
    let to = scale.at(cost);
    let (x, width) = (from.min(to), (to - from).abs().max(0.4));
    let text = format!(
        "{}: {} (10th to 90th percentile {} – {}, n = {})",
        boundary.title,
        human(f.median, &measure.unit),
        human(f.p10, &measure.unit),
        human(f.p90, &measure.unit),
        f.n
    );
    let _ = write!(out, "<svg class=\"plot\" role=\"img\" aria-label=\"{0}\"><title>{0}</title>", escape(&text));
    for tick in scale.ticks() {
        let class = if (tick - 1.0).abs() < 1e-9 { "one" } else { "grid" };
        let _ =
            write!(out, "<line class=\"{class}\" x1=\"{0:.2}%\" x2=\"{0:.2}%\" y1=\"0\" y2=\"100%\"/>", scale.at(tick));
    }
    let _ = write!(out, "<rect class=\"bar\" x=\"{x:.2}%\" width=\"{width:.2}%\" y=\"5\" height=\"12\" rx=\"2\"/>");
    if f.n > 1 {
        let _ = write!(
            out,
            "<line class=\"whisker\" x1=\"{whisker_low:.2}%\" x2=\"{whisker_high:.2}%\" y1=\"11\" y2=\"11\"/>\
             <line class=\"whisker\" x1=\"{whisker_low:.2}%\" x2=\"{whisker_low:.2}%\" y1=\"7\" y2=\"15\"/>\
             <line class=\"whisker\" x1=\"{whisker_high:.2}%\" x2=\"{whisker_high:.2}%\" y1=\"7\" y2=\"15\"/>"
        );
    }
    let times = match f.ratio {
        Some(r) if boundary.id != "bare" => format!(" <b>{}</b>", escape(&ratio(r))),
        _ => String::new(),
    };
    let _ = write!(out, "</svg><span class=\"value\">{}{times}</span>", escape(&human(f.median, &measure.unit)));
}

fn axis(scale: &Scale, out: &mut String) {
    let label = if scale.log { ", log scale" } else { "" };
    let _ = write!(
        out,
        "<div class=\"row axis\"><span class=\"name\">cost{label}</span><svg class=\"plot\" aria-hidden=\"true\">"
    );
    let ticks = scale.ticks();
    let every = ticks.len().div_ceil(5).max(1);
    for tick in ticks.iter().step_by(every) {
        let text = if *tick < 1000.0 { format!("×{tick}") } else { format!("×{}k", tick / 1000.0) };
        let at = scale.at(*tick);
        let anchor = if at < 6.0 {
            "start"
        } else if at > 94.0 {
            "end"
        } else {
            "middle"
        };
        let _ = write!(out, "<text x=\"{at:.2}%\" y=\"12\" text-anchor=\"{anchor}\">{text}</text>");
    }
    out.push_str("</svg><span class=\"value\"></span></div>\n");
}

fn figures_table(report: &Report, ran: &[&BoundaryFacts], out: &mut String) {
    out.push_str("<section>\n<h2>Exact figures</h2>\n<p class=\"note\">Median, ratio to the bare host, and below them the 10th to 90th percentile and the number of samples.</p>\n<div class=\"scroll\"><table class=\"figures\">\n<thead><tr><th></th>");
    for boundary in ran {
        let _ = write!(out, "<th scope=\"col\">{}</th>", escape(&boundary.title));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for measure in &report.measures {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th>", escape(&measure.title));
        for boundary in ran {
            match measure.results.get(&boundary.id) {
                Some(Outcome::Measured(f)) => {
                    let times = f
                        .ratio
                        .filter(|_| boundary.id != "bare")
                        .map(|r| format!(" <b>{}</b>", escape(&ratio(r))))
                        .unwrap_or_default();
                    let _ = write!(
                        out,
                        "<td>{}{times}<br><small>{} – {} · {}</small></td>",
                        escape(&human(f.median, &measure.unit)),
                        escape(&human(f.p10, &measure.unit)),
                        escape(&human(f.p90, &measure.unit)),
                        f.n
                    );
                }
                Some(Outcome::Failed { reason }) => {
                    let _ = write!(out, "<td class=\"none\" title=\"{}\">failed</td>", escape(reason));
                }
                None => out.push_str("<td class=\"none\">–</td>"),
            }
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n</section>\n");
}

fn boundaries(report: &Report, out: &mut String) {
    out.push_str("<section>\n<h2>The boundaries</h2>\n<dl class=\"boundaries\">\n");
    for boundary in &report.boundaries {
        let version = boundary.version.as_deref().map(|v| format!(" <small>{}</small>", escape(v))).unwrap_or_default();
        let _ = write!(
            out,
            "<dt class=\"{}\">{}{version}</dt><dd>{}",
            kind(boundary),
            escape(&boundary.title),
            escape(&boundary.mechanism)
        );
        match &boundary.status {
            Status::Ran => {}
            Status::Unavailable { reason } => {
                let _ = write!(out, "<br><span class=\"why\">Not on this host: {}</span>", escape(reason));
            }
            Status::Failed { reason } => {
                let _ = write!(out, "<br><span class=\"why\">Failed: {}</span>", escape(reason));
            }
        }
        out.push_str("</dd>\n");
    }
    out.push_str("</dl>\n</section>\n");
}

fn method(report: &Report, out: &mut String) {
    let host = &report.host;
    let _ = write!(
        out,
        "<section class=\"two\">\n<div>\n<h2>Method</h2>\n<p>Each boundary runs the same static program on the same files, one at a time, in {} rounds ({}); \
         the order rotates each round, so that noise falls on all alike. Figures are medians; whiskers span the 10th to the 90th \
         percentile; no sample is dropped. Ratios say how many times the bare host's cost a boundary has, whichever direction is good: \
         ×2 is twice the time or half the rate. Machines boot once a round and run all measures in that boot, fewer rounds than the others. Memory is the sum of \
         proportional set sizes of every process a boundary needs; kernel memory is not in it. Everything took {:.0} s.</p>\n",
        report.rounds,
        escape(&report.preset),
        report.elapsed_s
    );
    if !report.notes.is_empty() {
        out.push_str("<ul>\n");
        for note in &report.notes {
            let _ = writeln!(out, "<li>{}</li>", escape(note));
        }
        out.push_str("</ul>\n");
    }
    out.push_str("</div>\n<div>\n<h2>Host</h2>\n<table class=\"facts\">\n");
    let load = host.load_before.map(|l| format!("{l:.2}")).join(" ");
    let memory = human(host.memory as f64, "B");
    let machine = if host.virtual_machine { "yes" } else { "no" };
    for (name, value) in [
        ("System", host.os.as_str()),
        ("Kernel", &host.kernel),
        ("Processor", &host.cpu),
        ("Processors", &host.cores.to_string()),
        ("Memory", &memory),
        ("Is a virtual machine", machine),
        ("Load before", &load),
        ("Date", &report.date),
    ] {
        let _ = writeln!(out, "<tr><th scope=\"row\">{name}</th><td>{}</td></tr>", escape(value));
    }
    out.push_str("</table>\n</div>\n</section>\n");
}

/// The colour class of a boundary: the yardstick, Strata's own, or a peer.
fn kind(boundary: &BoundaryFacts) -> &'static str {
    match boundary.id.as_str() {
        "bare" => "bare",
        "container" | "userkernel" | "vm" | "paravirt" | "emulated" => "strata",
        _ => "peer",
    }
}

/// Text for element content and quoted attributes; control characters have no place in either.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

const STYLE: &str = include_str!("report.css");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    /// Checks that every element that is opened is closed in order.
    fn well_formed(html: &str) {
        let void = ["meta", "br", "rect", "line"];
        let mut open: Vec<&str> = Vec::new();
        let mut rest = html.split_once("</style>").map(|(head, tail)| {
            assert!(!head.contains("url(") && !head.contains("@import"));
            open.extend(["html", "head"]);
            tail
        });
        while let Some(text) = rest {
            let Some(at) = text.find('<') else { break };
            let (tag, tail) = text[at + 1..].split_once('>').expect("a tag ends");
            rest = Some(tail);
            let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
            if tag.starts_with('/') {
                assert_eq!(
                    open.pop(),
                    Some(name),
                    "closed out of order near {:?}",
                    &text[at..(at + 60).min(text.len())]
                );
            } else if !void.contains(&name) && !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "left open: {open:?}");
    }

    #[test]
    fn a_page_that_needs_nothing_else() {
        let html = render(&example());
        well_formed(&html);
        for outside in ["http", "src=", "<script", "<link", "@import"] {
            assert!(!html.contains(outside), "{outside}");
        }
    }

    #[test]
    fn every_figure_is_in_it() {
        let report = example();
        let html = render(&report);
        for measure in &report.measures {
            for boundary in report.ran() {
                if let Some(f) = measure.figures(&boundary.id) {
                    for value in [f.median, f.p10, f.p90] {
                        assert!(html.contains(&escape(&human(value, &measure.unit))), "{} {value}", measure.name);
                    }
                    if boundary.id != "bare" {
                        assert!(html.contains(&ratio(f.ratio.unwrap())));
                    }
                }
            }
        }
        assert!(html.contains("failed: ended &lt;with&gt; status 1") && html.contains("no hardware assistance"));
    }

    #[test]
    fn hostile_text_stays_text() {
        let mut report = example();
        report.workload = "<script>alert(1)</script>\u{1b}".into();
        report.command = true;
        report.boundaries[1].version = Some("\"><img src=x>".into());
        let html = render(&report);
        well_formed(&html);
        assert!(!html.contains("<script") && !html.contains("<img") && !html.contains('\u{1b}'));
    }

    #[test]
    fn the_headline_says_what_a_boundary_costs() {
        let sentences = example().headline();
        assert_eq!(sentences[0], "A Strata container costs 4.00 ms at start, and nothing measurable afterwards.");
        assert_eq!(
            sentences[1],
            "gVisor costs 124 ms at start, and ×4.56 on average afterwards (most: sequential I/O ×4.56)."
        );
    }

    #[test]
    fn no_figures_no_charts() {
        let mut report = example();
        report.measures.clear();
        well_formed(&render(&report));
        report.boundaries.clear();
        well_formed(&render(&report));
    }

    #[test]
    fn ticks_stay_inside() {
        for high in [1.0, 1.3, 2.0, 5.0, 9.9, 11.0, 150.0, 60_000.0] {
            let scale = Scale {
                base: 1.0,
                low: if high > 10.0 { 0.8 } else { 0.0 },
                high,
                log: high > 10.0,
                better: Better::Lower,
            };
            let ticks = scale.ticks();
            assert!(ticks.len() >= 2 && ticks.contains(&1.0), "{high}: {ticks:?}");
            assert!(ticks.iter().all(|t| (0.0..=100.0).contains(&scale.at(*t)) && *t <= high));
        }
    }
}
