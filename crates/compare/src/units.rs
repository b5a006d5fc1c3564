//! Quantities as people read them.

use serde::{Deserialize, Serialize};

/// Which direction of a measure is the good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Times and sizes.
    Lower,
    /// Rates.
    Higher,
}

/// `value` in `unit` with three significant digits and the prefix that suits it: `0.0042 s` is `4.20 ms`.
///
/// Understands `ns`, `us`, `ms`, `s`; `B`, `KiB`, `MiB`, `GiB`; the same and `MB` with `/s`; anything else keeps its unit and
/// gets a decimal prefix above a thousand, or another one if it has one (`kops/s`, `GFLOP/s`).
pub fn human(value: f64, unit: &str) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    let time = |scale: f64| pick(value * scale, &[(1.0, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")]);
    const KIB: f64 = 1024.0;
    const SIZES: [(f64, &str); 4] = [(1.0, "B"), (KIB, "KiB"), (KIB * KIB, "MiB"), (KIB * KIB * KIB, "GiB")];
    const RATES: [(f64, &str); 4] = [(1.0, "B/s"), (1e3, "kB/s"), (1e6, "MB/s"), (1e9, "GB/s")];
    match unit {
        "ns" | "ns/op" => time(1.0),
        "us" | "µs" | "us/op" => time(1e3),
        "ms" => time(1e6),
        "s" => time(1e9),
        "B" | "bytes" => pick(value, &SIZES),
        "KiB" => pick(value * KIB, &SIZES),
        "MiB" => pick(value * KIB * KIB, &SIZES),
        "GiB" => pick(value * KIB * KIB * KIB, &SIZES),
        "B/s" => pick(value, &RATES),
        "KiB/s" => pick(value * KIB, &RATES),
        "MB/s" => pick(value * 1e6, &RATES),
        "MiB/s" => pick(value * KIB * KIB, &RATES),
        "GB/s" => pick(value * 1e9, &RATES),
        "GiB/s" => pick(value * KIB * KIB * KIB, &RATES),
        other => {
            let (value, other) = match (other.get(..1), other.get(1..)) {
                (Some("k"), Some(rest @ ("ops/s" | "FLOP/s"))) => (value * 1e3, rest),
                (Some("M"), Some(rest @ ("ops/s" | "FLOP/s"))) => (value * 1e6, rest),
                (Some("G"), Some(rest @ ("ops/s" | "FLOP/s"))) => (value * 1e9, rest),
                _ => (value, other),
            };
            let scaled = [(1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G")];
            let (divisor, prefix) = choose(value, &scaled);
            format!("{} {prefix}{other}", digits(value / divisor)).trim_end().to_string()
        }
    }
}

/// A ratio to the bare host, `×1.03`; three significant digits, whole numbers from a hundred.
pub fn ratio(value: f64) -> String {
    if value.is_finite() {
        format!("×{}", if value < 10.0 { format!("{value:.2}") } else { digits(value) })
    } else {
        "–".into()
    }
}

fn pick(value: f64, scale: &[(f64, &'static str)]) -> String {
    let (divisor, unit) = choose(value, scale);
    format!("{} {unit}", digits(value / divisor))
}

/// The largest step that leaves at least one before the point; what would round to 1000 takes the next step.
fn choose(value: f64, scale: &[(f64, &'static str)]) -> (f64, &'static str) {
    let mut chosen = scale[0];
    for &step in scale {
        if value.abs() >= step.0 * 0.9995 {
            chosen = step;
        }
    }
    chosen
}

fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        a if a >= 99.95 => format!("{value:.0}"),
        a if a >= 9.995 => format!("{value:.1}"),
        a if a >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_that_suits() {
        assert_eq!(human(0.0042, "s"), "4.20 ms");
        assert_eq!(human(201.4, "ns"), "201 ns");
        assert_eq!(human(999.9, "ns"), "1.00 µs");
        assert_eq!(human(1536.0, "KiB"), "1.50 MiB");
        assert_eq!(human(2_500_000.0, "ops/s"), "2.50 Mops/s");
        assert_eq!(human(12_345.0, "MB/s"), "12.3 GB/s");
        assert_eq!(human(263.7, "kops/s"), "264 kops/s");
        assert_eq!(human(2637.0, "kops/s"), "2.64 Mops/s");
        assert_eq!(human(0.0915, "GFLOP/s"), "91.5 MFLOP/s");
        assert_eq!(human(389_985.6, "IOPS"), "390 kIOPS");
        assert_eq!(human(0.0, "B"), "0 B");
        assert_eq!(human(f64::NAN, "s"), "–");
    }

    #[test]
    fn ratios() {
        assert_eq!(ratio(1.0), "×1.00");
        assert_eq!(ratio(1.034), "×1.03");
        assert_eq!(ratio(43.21), "×43.2");
        assert_eq!(ratio(1234.5), "×1234");
        assert_eq!(ratio(f64::INFINITY), "–");
    }
}
