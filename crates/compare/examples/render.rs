//! Renders a report's JSON document again: `render REPORT.json HTML-FILE`; the table goes to standard output.
#![allow(clippy::print_stdout)]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [input, output] = &std::env::args().skip(1).collect::<Vec<_>>()[..] else {
        return Err("usage: render REPORT.json HTML-FILE".into());
    };
    let report: strata_compare::Report = serde_json::from_str(&std::fs::read_to_string(input)?)?;
    std::fs::write(output, report.to_html())?;
    let width = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok()).unwrap_or(100);
    print!("{}", report.to_table(width, false));
    Ok(())
}
