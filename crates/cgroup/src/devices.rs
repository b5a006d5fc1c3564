//! Which device nodes the processes of a cgroup may open and make.
//!
//! Version 1 has a controller with a list: a default and exceptions to it, one line each
//! (`admin-guide/cgroup-v1/devices.rst`). Version 2 has none; a small program decides each access ([`crate::bpf`]).
//! The OCI list says *later entries win*, which a program can follow exactly, and a version 1 list only where no entry
//! cuts a hole into a wider exception: the kernel ignores such an entry silently, so [`Policy`] refuses it.

use crate::Error;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use strata_spec::runtime::DeviceRule;

pub(crate) const READ: u8 = 1;
pub(crate) const WRITE: u8 = 2;
pub(crate) const MKNOD: u8 = 4;
pub(crate) const ALL: u8 = READ | WRITE | MKNOD;

/// What every Linux container may use (`config-linux.md#default-devices`), as runc grants it: making any node, and
/// opening null, zero, full, random, urandom, tty, console, the pseudo-terminals and tun. To be appended to the
/// bundle's own rules. As in runc, a list that is not empty denies what it does not allow; an empty one changes nothing.
pub static DEFAULT_DEVICE_RULES: LazyLock<Vec<DeviceRule>> = LazyLock::new(|| {
    let rule = |kind: &str, major: Option<i64>, minor: Option<i64>, access: &str| DeviceRule {
        allow: true,
        kind: Some(kind.to_owned()),
        major,
        minor,
        access: Some(access.to_owned()),
    };
    let nodes = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (10, 200)];
    let mut rules = vec![rule("c", None, None, "m"), rule("b", None, None, "m")];
    rules.extend(nodes.map(|(major, minor)| rule("c", Some(major), Some(minor), "rwm")));
    rules.push(rule("c", Some(136), None, "rwm"));
    rules
});

/// Block or character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Block,
    Char,
}

/// One checked entry of the list; `None` matches any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    pub allow: bool,
    pub kind: Option<Kind>,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Bits [`READ`], [`WRITE`], [`MKNOD`].
    pub access: u8,
}

impl Rule {
    pub fn check(rule: &DeviceRule) -> Result<Rule, Error> {
        let refuse = |value: &str, why: &str| Error::Value {
            setting: "device rule",
            value: format!("{value:?}"),
            why: why.to_owned(),
        };
        let kind = match rule.kind.as_deref() {
            None | Some("" | "a") => None,
            Some("b") => Some(Kind::Block),
            Some("c" | "u") => Some(Kind::Char),
            Some(other) => return Err(refuse(other, "the type is `a`, `b` or `c`")),
        };
        let number = |n: Option<i64>| match n {
            None | Some(..=-1) => Ok(None),
            // The kernel's device numbers are 12 and 20 bits; the limit here is what a program can compare with.
            Some(n) => i32::try_from(n)
                .map(|n| Some(n.unsigned_abs()))
                .map_err(|_| refuse(&n.to_string(), "device numbers are below 2^31")),
        };
        let mut access = 0;
        for letter in rule.access.as_deref().filter(|a| !a.is_empty()).unwrap_or("rwm").chars() {
            access |= match letter {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                _ => return Err(refuse(rule.access.as_deref().unwrap_or(""), "access is made of `r`, `w` and `m`")),
            };
        }
        Ok(Rule { allow: rule.allow, kind, major: number(rule.major)?, minor: number(rule.minor)?, access })
    }

    pub fn check_all(rules: &[DeviceRule]) -> Result<Vec<Rule>, Error> {
        rules.iter().map(Rule::check).collect()
    }

    /// Whether the rule decides every access to every device.
    pub fn is_total(&self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }
}

/// A set of devices of one kind; `None` is any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Nodes {
    kind: Kind,
    major: Option<u32>,
    minor: Option<u32>,
}

impl Nodes {
    fn contains(&self, other: &Nodes) -> bool {
        let within = |a: Option<u32>, b: Option<u32>| a.is_none() || a == b;
        self.kind == other.kind && within(self.major, other.major) && within(self.minor, other.minor)
    }

    fn overlaps(&self, other: &Nodes) -> bool {
        let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind && meet(self.major, other.major) && meet(self.minor, other.minor)
    }

    fn line(&self, access: u8) -> String {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        let kind = if self.kind == Kind::Block { 'b' } else { 'c' };
        let mut line = format!("{kind} {}:{} ", number(self.major), number(self.minor));
        line.extend([(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].iter().filter(|(bit, _)| access & bit != 0).map(|p| p.1));
        line
    }
}

/// A version 1 device list: what is not excepted is allowed, or denied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    allow_by_default: bool,
    exceptions: BTreeMap<Nodes, u8>,
}

impl Policy {
    /// What a list of rules amounts to. Nothing is allowed but what they allow.
    pub fn from_rules(rules: &[Rule]) -> Result<Policy, Error> {
        let mut policy = Policy::default();
        for rule in rules {
            if rule.is_total() {
                policy = Policy { allow_by_default: rule.allow, exceptions: BTreeMap::new() };
                continue;
            }
            for kind in [Kind::Block, Kind::Char] {
                if rule.kind.is_none_or(|k| k == kind) {
                    let nodes = Nodes { kind, major: rule.major, minor: rule.minor };
                    if rule.allow == policy.allow_by_default {
                        policy.withdraw(&nodes, rule.access)?;
                    } else {
                        *policy.exceptions.entry(nodes).or_default() |= rule.access;
                    }
                }
            }
        }
        Ok(policy)
    }

    /// Takes `access` to `nodes` out of the exceptions.
    fn withdraw(&mut self, nodes: &Nodes, access: u8) -> Result<(), Error> {
        for (exception, granted) in &mut self.exceptions {
            if nodes.contains(exception) {
                *granted &= !access;
            } else if nodes.overlaps(exception) && *granted & access != 0 {
                let why = format!(
                    "it cuts a hole into {:?}, which a cgroup v1 device list cannot say; list the devices one by one",
                    exception.line(*granted)
                );
                return Err(Error::Value { setting: "device rule", value: format!("{:?}", nodes.line(access)), why });
            }
        }
        self.exceptions.retain(|_, granted| *granted != 0);
        Ok(())
    }

    /// The policy that `devices.list` shows; `None` where everything is allowed, because the kernel does not show the
    /// exceptions to that.
    pub fn from_list(text: &str) -> Option<Policy> {
        let mut policy = Policy::default();
        for line in text.lines() {
            let mut fields = line.split([' ', ':']);
            let kind = match fields.next()? {
                "b" => Kind::Block,
                "c" => Kind::Char,
                _ => return None,
            };
            let number = |n: &str| if n == "*" { Some(None) } else { n.parse().ok().map(Some) };
            let nodes = Nodes { kind, major: number(fields.next()?)?, minor: number(fields.next()?)? };
            let access = fields.next()?.bytes().fold(0, |bits, letter| {
                bits | match letter {
                    b'r' => READ,
                    b'w' => WRITE,
                    b'm' => MKNOD,
                    _ => 0,
                }
            });
            *policy.exceptions.entry(nodes).or_default() |= access;
        }
        Some(policy)
    }

    /// The `(devices.allow?, line)` writes that lead to this policy: from `current` without ever denying what both
    /// allow, or from an unknown state by a reset.
    pub fn writes(&self, current: Option<&Policy>) -> Vec<(bool, String)> {
        let mut writes = Vec::with_capacity(self.exceptions.len() + 1);
        let none = BTreeMap::new();
        let before = match current {
            Some(current) if current.allow_by_default == self.allow_by_default => &current.exceptions,
            _ => {
                writes.push((self.allow_by_default, "a".to_owned()));
                &none
            }
        };
        for (nodes, access) in before {
            let gone = access & !self.exceptions.get(nodes).copied().unwrap_or(0);
            if gone != 0 {
                writes.push((self.allow_by_default, nodes.line(gone)));
            }
        }
        for (nodes, access) in &self.exceptions {
            let new = access & !before.get(nodes).copied().unwrap_or(0);
            if new != 0 {
                writes.push((!self.allow_by_default, nodes.line(new)));
            }
        }
        writes
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn rule(allow: bool, kind: &str, major: i64, minor: i64, access: &str) -> DeviceRule {
        DeviceRule {
            allow,
            kind: Some(kind.to_owned()),
            major: Some(major),
            minor: Some(minor),
            access: Some(access.to_owned()),
        }
    }

    fn policy(rules: &[DeviceRule]) -> Result<Policy, Error> {
        Policy::from_rules(&Rule::check_all(rules)?)
    }

    #[test]
    fn a_bundles_list_becomes_a_reset_and_exceptions() {
        let mut rules = vec![rule(false, "a", -1, -1, "rwm")];
        rules.extend(DEFAULT_DEVICE_RULES.iter().cloned());
        let writes = policy(&rules).unwrap().writes(None);
        assert_eq!(writes[0], (false, "a".to_owned()));
        assert!(writes[1..].iter().all(|(allow, _)| *allow));
        for line in ["b *:* m", "c *:* m", "c 1:3 rwm", "c 136:* rwm"] {
            assert!(writes.iter().any(|(_, l)| l == line), "{line}");
        }
        assert_eq!(writes.len(), DEFAULT_DEVICE_RULES.len() + 1);
    }

    #[test]
    fn an_update_writes_the_difference_only() {
        let old = policy(&[rule(true, "c", 1, 3, "rw"), rule(true, "c", 1, 5, "rwm")]).unwrap();
        let new = policy(&[rule(true, "c", 1, 3, "rm"), rule(true, "b", 8, -1, "r")]).unwrap();
        let mut writes = new.writes(Some(&old));
        writes.sort();
        let expected = [(false, "c 1:3 w"), (false, "c 1:5 rwm"), (true, "b 8:* r"), (true, "c 1:3 m")];
        assert_eq!(writes, expected.map(|(allow, line)| (allow, line.to_owned())));
        assert!(new.writes(Some(&new)).is_empty());
    }

    #[test]
    fn a_hole_in_a_wildcard_is_refused_and_a_wider_withdrawal_is_not() {
        let hole = [rule(true, "c", 1, -1, "rwm"), rule(false, "c", 1, 3, "w")];
        assert!(policy(&hole).unwrap_err().to_string().contains("cuts a hole into \"c 1:* rwm\""));
        let wider = [rule(true, "c", 1, 3, "rwm"), rule(false, "c", 1, -1, "w")];
        assert_eq!(policy(&wider).unwrap().writes(None)[1].1, "c 1:3 rm");
    }

    #[test]
    fn strange_rules_are_refused() {
        for bad in [rule(true, "x", 1, 1, "r"), rule(true, "c", 1 << 40, 1, "r"), rule(true, "c", 1, 1, "rx")] {
            assert!(Rule::check(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_kernels_list_is_read_back() {
        assert_eq!(Policy::from_list("a *:* rwm\n"), None);
        let rules = [rule(true, "c", 1, 3, "rwm"), rule(true, "b", -1, -1, "m")];
        assert_eq!(Policy::from_list("b *:* m\nc 1:3 rwm\n"), Some(policy(&rules).unwrap()));
    }

    proptest! {
        #[test]
        fn any_list_text_is_read_without_panic(text in "[abc0-9:* rwm\n]{0,80}|.{0,40}") {
            let _ = Policy::from_list(&text);
        }
    }
}
