//! Capability sets (capabilities(7)): from names to bit masks, and from masks to the calling thread.

use std::io;

use strata_spec::capability::NAMES;
use strata_spec::runtime::Capabilities;

use crate::sys;

/// Every known capability, `CAP_CHOWN` and so on, for the features document.
pub fn known() -> Vec<String> {
    NAMES.iter().map(|n| format!("CAP_{n}")).collect()
}

/// The five sets as bit masks, bit n being capability n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sets {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub permitted: u64,
    pub ambient: u64,
}

impl Sets {
    /// Masks of the named sets. Unknown names are ignored, as the specification demands, and named in `warnings`.
    pub(crate) fn parse(capabilities: &Capabilities, warnings: &mut Vec<String>) -> Sets {
        let mut mask = |names: &[String]| {
            let mut mask = 0;
            for name in names {
                match NAMES
                    .iter()
                    .position(|n| name.strip_prefix("CAP_").is_some_and(|name| name.eq_ignore_ascii_case(n)))
                {
                    Some(number) => mask |= 1 << number,
                    None => {
                        let warning = format!("ignoring unknown capability {name:?}");
                        if !warnings.contains(&warning) {
                            warnings.push(warning);
                        }
                    }
                }
            }
            mask
        };
        Sets {
            bounding: mask(&capabilities.bounding),
            effective: mask(&capabilities.effective),
            inheritable: mask(&capabilities.inheritable),
            permitted: mask(&capabilities.permitted),
            ambient: mask(&capabilities.ambient),
        }
    }

    /// Lowers the bounding set to this one. Needs CAP_SETPCAP, so it comes before the user changes.
    pub(crate) fn drop_bounding(&self) -> io::Result<()> {
        for number in 0..64 {
            if self.bounding & 1 << number != 0 {
                continue;
            }
            match sys::prctl(libc::PR_CAPBSET_DROP, number, 0) {
                // The kernel knows no capability of this number, nor any higher.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
                other => other.map(drop)?,
            }
        }
        Ok(())
    }

    /// What of the sets this thread can have: the runtime itself may be confined. Changes nothing.
    pub(crate) fn grantable(&self) -> io::Result<Grant> {
        let (_, had, had_inheritable) = sys::capget()?;
        // Inheritable may hold what is permitted, or what was inheritable and stays within the bounding set.
        let permitted = self.permitted & had;
        let effective = self.effective & permitted;
        let inheritable = self.inheritable & (had | had_inheritable);
        let ambient = self.ambient & permitted & inheritable;
        // Where the runtime is permitted a capability, its bounding set hardly lacks it; only the others are asked for.
        let mut bounding = self.bounding;
        for number in bits(self.bounding & !had) {
            if !matches!(sys::prctl(libc::PR_CAPBSET_READ, number, 0), Ok(1)) {
                bounding &= !(1 << number);
            }
        }
        let granted = Sets { bounding, effective, inheritable, permitted, ambient };
        Ok(Grant { granted, had, had_inheritable, warning: self.missing(&granted) })
    }

    /// Names what is in these sets and not in the granted ones, in words. Without ambient capabilities that are not asked
    /// for as inheritable: the kernel knows none such, yet the configurations of `runc spec` 1.1 have them, and a
    /// warning at every start would say nothing about this host.
    fn missing(&self, granted: &Sets) -> Option<String> {
        let ambient = self.ambient & self.inheritable;
        let sets = [
            ("bounding", self.bounding, granted.bounding),
            ("effective", self.effective, granted.effective),
            ("inheritable", self.inheritable, granted.inheritable),
            ("permitted", self.permitted, granted.permitted),
            ("ambient", ambient, granted.ambient),
        ];
        let all = sets.iter().fold(0, |all, (_, wanted, granted)| all | wanted & !granted);
        let named = bits(all).map(|number| {
            let from = sets.iter().filter(|(_, wanted, granted)| wanted & !granted & 1 << number != 0);
            let from = from.map(|(set, ..)| *set).collect::<Vec<_>>().join(", ");
            format!("{} ({from})", NAMES.get(number as usize).unwrap_or(&"?"))
        });
        let named = named.collect::<Vec<_>>().join(", ");
        (!named.is_empty()).then(|| format!("capabilities not granted, since this process has them not: {named}"))
    }
}

fn bits(mask: u64) -> impl Iterator<Item = u64> {
    (0..64).filter(move |n| mask & 1 << n != 0)
}

/// Sets that can be had, and what the thread has until it takes them.
#[derive(Debug)]
pub(crate) struct Grant {
    granted: Sets,
    had: u64,
    had_inheritable: u64,
    /// What is left out, in words.
    pub warning: Option<String>,
}

impl Grant {
    /// Gives up all but the bounding set, which is lowered before.
    pub(crate) fn apply(&self) -> io::Result<()> {
        let granted = &self.granted;
        sys::capset(granted.effective, granted.permitted, granted.inheritable)?;
        const PR_CAP_AMBIENT_RAISE: u64 = 2;
        const PR_CAP_AMBIENT_CLEAR_ALL: u64 = 4;
        // Kernels before 4.3 have no ambient set, which is then as good as empty.
        match sys::prctl(libc::PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0) {
            Err(e) if e.raw_os_error() != Some(libc::EINVAL) => return Err(e),
            _ => {}
        }
        bits(granted.ambient)
            .try_for_each(|number| sys::prctl(libc::PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number).map(drop))
    }

    /// Only the effective set, so that the kernel answers as it will answer the program.
    pub(crate) fn try_on(&self) -> io::Result<()> {
        sys::capset(self.granted.effective, self.had, self.had_inheritable)
    }

    /// After [`try_on`](Grant::try_on), or a change of the user: everything permitted is effective.
    pub(crate) fn regain(&self) -> io::Result<()> {
        sys::capset(self.had, self.had, self.had_inheritable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_named_with_its_sets() {
        let wanted =
            Sets { bounding: 1 | 1 << 21, effective: 1 << 21, inheritable: 1, ambient: 1 | 2, ..Sets::default() };
        let text = wanted.missing(&Sets { bounding: 1, inheritable: 1, ..Sets::default() }).unwrap();
        assert!(text.ends_with(": CHOWN (ambient), SYS_ADMIN (bounding, effective)"), "{text}");
        assert_eq!(wanted.missing(&wanted), None);
    }

    #[test]
    fn unknown_names_are_warned_of_once() {
        let mut warnings = Vec::new();
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect();
        let sets = Sets::parse(
            &Capabilities {
                bounding: names(&["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE", "CAP_NEW"]),
                effective: names(&["CAP_NEW", "CHOWN"]),
                ..Capabilities::default()
            },
            &mut warnings,
        );
        assert_eq!(sets.bounding, 1 | 1 << 40);
        assert_eq!(sets.effective, 0);
        assert_eq!(warnings.len(), 2);
    }
}
