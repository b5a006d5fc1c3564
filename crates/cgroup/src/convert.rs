//! From the version 1 units of the OCI specification to those of version 2.
//!
//! The specification was written for version 1; its weights and its swap mean something else in version 2. The
//! formulas are those that runc and crun agree on, so that a bundle gets the same share under each runtime.

use crate::Error;

/// `cpu.shares` (2 to 262144, default 1024) as `cpu.weight` (1 to 10000, default 100).
///
/// A quadratic through minimum, default and maximum on a logarithmic scale. The older linear formula gave a container
/// with default shares a weight of 39, less than half of what a plain service gets. 0 is unset and stays 0.
pub fn cpu_weight(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

/// A `blkio.weight` (10 to 1000) as `io.weight` (1 to 10000).
pub fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.saturating_sub(10)) * 9999 / 990
}

/// The `memory.swap.max` that follows from limits on memory and on memory with swap, bytes or -1; `None` leaves it.
pub fn swap_max(limit: Option<i64>, memory_and_swap: Option<i64>) -> Result<Option<i64>, Error> {
    let limit = limit.filter(|&l| l != 0);
    let refuse = |value: i64, why: &str| {
        Err(Error::Value { setting: "memory and swap limit", value: value.to_string(), why: why.to_owned() })
    };
    match (limit, memory_and_swap.filter(|&s| s != 0)) {
        (Some(-1), None) => Ok(Some(-1)),
        (_, None) => Ok(None),
        (_, Some(-1)) => Ok(Some(-1)),
        (_, Some(both)) if both < 0 => refuse(both, "it is a number of bytes, or -1 for no limit"),
        (None | Some(-1), Some(both)) => {
            refuse(both, "cgroup v2 limits swap alone, so memory and swap together need a memory limit beside them")
        }
        (Some(limit), Some(both)) if both < limit => refuse(both, "it includes memory and cannot be below its limit"),
        (Some(limit), Some(both)) => Ok(Some(both - limit)),
    }
}

/// A limit as version 2 writes it: -1 is `max`.
pub(crate) fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cpu_weight_meets_minimum_default_and_maximum() {
        let known = [(0, 0), (1, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)];
        for (shares, weight) in known {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
        assert!(cpu_weight(2048) > 100 && cpu_weight(512) < 100);
    }

    #[test]
    fn io_weight_meets_minimum_and_maximum() {
        assert_eq!((io_weight(0), io_weight(10), io_weight(1000)), (1, 1, 10_000));
    }

    #[test]
    fn swap_is_what_remains_beside_memory() {
        let mib = 1 << 20;
        assert_eq!(swap_max(Some(100 * mib), Some(150 * mib)).unwrap(), Some(50 * mib));
        assert_eq!(swap_max(Some(100 * mib), Some(100 * mib)).unwrap(), Some(0));
        assert_eq!(swap_max(Some(100 * mib), None).unwrap(), None);
        assert_eq!(swap_max(Some(-1), None).unwrap(), Some(-1));
        assert_eq!(swap_max(None, Some(-1)).unwrap(), Some(-1));
        assert_eq!(swap_max(Some(0), Some(0)).unwrap(), None);
        for (limit, both) in [(None, 5), (Some(-1), 5), (Some(10), 5), (Some(10), -2)] {
            assert!(swap_max(limit, Some(both)).is_err(), "{limit:?} {both}");
        }
    }

    proptest! {
        #[test]
        fn cpu_weight_is_monotonic_and_in_range(a in 1u64..300_000, b in 1u64..300_000) {
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(cpu_weight(low) <= cpu_weight(high));
            prop_assert!((1..=10_000).contains(&cpu_weight(a)));
        }

        #[test]
        fn io_weight_is_in_range(w in 0u16..=1000) {
            prop_assert!((1..=10_000).contains(&io_weight(w)));
        }
    }
}
