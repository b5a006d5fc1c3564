//! Order statistics: what can be said about few, noisy samples without assuming a distribution.

/// Median and spread of a set of samples; all samples count, outliers included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// How many samples.
    pub n: usize,
    /// Half of the samples are at or below.
    pub median: f64,
    /// 10th percentile, linearly interpolated.
    pub p10: f64,
    /// 90th percentile, linearly interpolated.
    pub p90: f64,
    /// Smallest sample.
    pub min: f64,
    /// Largest sample.
    pub max: f64,
}

impl Summary {
    /// `None` without a finite sample.
    pub fn of(samples: &[f64]) -> Option<Summary> {
        let mut sorted: Vec<f64> = samples.iter().copied().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        Some(Summary {
            n: sorted.len(),
            median: percentile(&sorted, 0.5),
            p10: percentile(&sorted, 0.1),
            p90: percentile(&sorted, 0.9),
            min,
            max,
        })
    }
}

/// Percentile `p` (0 to 1) of a sorted, non-empty slice, interpolated between the two neighbours.
fn percentile(sorted: &[f64], p: f64) -> f64 {
    let at = p * (sorted.len() - 1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (at - low as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outlier_stays_and_does_not_move_the_median() {
        let s = Summary::of(&[3.0, 1.0, 2.0, 5.0, 1000.0]).unwrap();
        assert_eq!((s.n, s.median, s.min, s.max), (5, 3.0, 1.0, 1000.0));
        assert!((s.p10 - 1.4).abs() < 1e-9 && (s.p90 - 602.0).abs() < 1e-9);
    }

    #[test]
    fn one_sample_is_its_own_spread() {
        let s = Summary::of(&[7.0]).unwrap();
        assert_eq!((s.p10, s.median, s.p90), (7.0, 7.0, 7.0));
    }

    #[test]
    fn nothing_finite_is_nothing() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[f64::NAN]), None);
    }

    #[test]
    fn even_counts_interpolate() {
        assert_eq!(Summary::of(&[1.0, 2.0]).unwrap().median, 1.5);
    }
}
