//! From the profile's names to what each call number gets.
//!
//! A *calling convention* (`AUDIT_ARCH_*`, and for x86-64 bit 30 of the number, which marks x32) gives numbers
//! their meaning. For each the result is a list of ranges that covers all 2^32 numbers: runs of numbers with
//! the same [`Decision`] are one range.

use strata_spec::runtime::{Seccomp, SyscallArg, SyscallRule};

use crate::table;

/// What is wrong with a profile.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// An action that does not exist.
    #[error("seccomp: {place}: action {action:?} is unknown; known are {}", crate::known_actions().join(", "))]
    UnknownAction {
        /// `defaultAction` or the rule.
        place: String,
        /// The name.
        action: String,
    },
    /// An error number with an action that returns none.
    #[error("seccomp: {place}: {action} takes no error number ({errno} given); SCMP_ACT_ERRNO and SCMP_ACT_TRACE do")]
    ErrnoWithoutUse {
        /// `defaultAction` or the rule.
        place: String,
        /// The action.
        action: String,
        /// The number.
        errno: u32,
    },
    /// An error number that does not fit.
    #[error("seccomp: {place}: error number {errno} is out of range; it has 16 bits, 0 to 65535")]
    ErrnoOutOfRange {
        /// `defaultErrnoRet` or the rule.
        place: String,
        /// The number.
        errno: u32,
    },
    /// A comparison that does not exist.
    #[error("seccomp: {place}: operator {operator:?} is unknown; known are {}", crate::known_operators().join(", "))]
    UnknownOperator {
        /// The rule.
        place: String,
        /// The name.
        operator: String,
    },
    /// An argument that no call has.
    #[error("seccomp: {place}: argument index {index} is out of range; calls have arguments 0 to 5")]
    ArgumentIndex {
        /// The rule.
        place: String,
        /// The index.
        index: u32,
    },
    /// An architecture that does not exist.
    #[error("seccomp: architecture {architecture:?} is unknown; known are {}", crate::known_archs().join(", "))]
    UnknownArchitecture {
        /// The name.
        architecture: String,
    },
    /// A flag that does not exist.
    #[error("seccomp: flag {flag:?} is unknown; known are {}", crate::known_flags().join(", "))]
    UnknownFlag {
        /// The name.
        flag: String,
    },
    /// A rule for no call.
    #[error("seccomp: {place}: a system call's name is empty")]
    EmptyName {
        /// The rule.
        place: String,
    },
    /// A listener that would have to answer the call that hands it over.
    #[error(
        "seccomp: {place}: SCMP_ACT_NOTIFY is not possible here: no listener is connected yet when the container starts"
    )]
    NotifyTooEarly {
        /// `defaultAction` or the rule.
        place: String,
    },
    /// More than the kernel takes.
    #[error("seccomp: the filter has {instructions} instructions; the kernel takes at most 4096: use fewer conditions")]
    TooLong {
        /// Its length.
        instructions: usize,
    },
}

/// An action by its name in profiles.
pub struct ActionName {
    /// `SCMP_ACT_*`.
    pub name: &'static str,
    /// `SECCOMP_RET_*`.
    pub value: u32,
}

const KILL_PROCESS: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const KILL_THREAD: u32 = libc::SECCOMP_RET_KILL_THREAD;
const TRAP: u32 = libc::SECCOMP_RET_TRAP;
const ERRNO: u32 = libc::SECCOMP_RET_ERRNO;
const NOTIFY: u32 = libc::SECCOMP_RET_USER_NOTIF;
const TRACE: u32 = libc::SECCOMP_RET_TRACE;
const LOG: u32 = libc::SECCOMP_RET_LOG;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const ENOSYS: u32 = ERRNO | libc::ENOSYS as u32;

/// What a call by a convention that the profile does not list gets: libseccomp's "bad architecture" action.
pub const BAD_ARCHITECTURE: u32 = KILL_THREAD;

/// All actions.
pub const ACTIONS: [ActionName; 9] = [
    ActionName { name: "SCMP_ACT_ALLOW", value: ALLOW },
    ActionName { name: "SCMP_ACT_ERRNO", value: ERRNO },
    ActionName { name: "SCMP_ACT_KILL", value: KILL_THREAD },
    ActionName { name: "SCMP_ACT_KILL_PROCESS", value: KILL_PROCESS },
    ActionName { name: "SCMP_ACT_KILL_THREAD", value: KILL_THREAD },
    ActionName { name: "SCMP_ACT_LOG", value: LOG },
    ActionName { name: "SCMP_ACT_NOTIFY", value: NOTIFY },
    ActionName { name: "SCMP_ACT_TRACE", value: TRACE },
    ActionName { name: "SCMP_ACT_TRAP", value: TRAP },
];

/// A comparison of an argument with a condition's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Less, unsigned.
    Lt,
    /// Less or equal.
    Le,
    /// Greater or equal.
    Ge,
    /// Greater.
    Gt,
    /// Equal in the bits of a mask.
    MaskedEq,
}

/// All comparisons.
pub const OPERATORS: [(&str, Op); 7] = [
    ("SCMP_CMP_EQ", Op::Eq),
    ("SCMP_CMP_GE", Op::Ge),
    ("SCMP_CMP_GT", Op::Gt),
    ("SCMP_CMP_LE", Op::Le),
    ("SCMP_CMP_LT", Op::Lt),
    ("SCMP_CMP_MASKED_EQ", Op::MaskedEq),
    ("SCMP_CMP_NE", Op::Ne),
];

/// All architectures of the specification. Those of other processors cannot make calls here.
pub const ARCHITECTURES: [&str; 23] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// All flags.
pub const FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_LOG", libc::SECCOMP_FILTER_FLAG_LOG as u32),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32),
    ("SECCOMP_FILTER_FLAG_TSYNC", libc::SECCOMP_FILTER_FLAG_TSYNC as u32),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", WAIT_KILLABLE_RECV),
];
const WAIT_KILLABLE_RECV: u32 = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV as u32;

/// One test of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Argument, 0 to 5.
    pub index: u8,
    /// How to compare.
    pub op: Op,
    /// The bits of the argument that are compared; all but for [`Op::MaskedEq`].
    pub mask: u64,
    /// Compared with.
    pub value: u64,
}

impl Condition {
    /// A mask without bits holds for every argument.
    fn always_holds(&self, width: Width) -> bool {
        self.op == Op::MaskedEq && self.mask & width.bits() == 0
    }
}

/// An action and the conditions under which it applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// `SECCOMP_RET_*` with its datum.
    pub action: u32,
    /// All must hold.
    pub conditions: Vec<Condition>,
}

/// How much of an argument register counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// The low half: i386 and x32.
    Bits32,
    /// All of it.
    Bits64,
}

impl Width {
    fn bits(self) -> u64 {
        match self {
            Width::Bits32 => u64::from(u32::MAX),
            Width::Bits64 => u64::MAX,
        }
    }
}

/// What a call number gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// This action.
    Return(u32),
    /// The action of the first of these rules (indices into [`Profile::rules`]) that holds, else the default.
    Rules(Width, Vec<usize>),
}

/// Numbers from `start` to the start of the next range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// First number.
    pub start: u32,
    /// What they get.
    pub decision: Decision,
}

/// A profile with every name resolved.
#[derive(Debug)]
pub struct Profile {
    /// Action of calls without a rule that holds.
    pub default: u32,
    /// All rules, in the profile's order.
    pub rules: Vec<Rule>,
    /// Ranges of `AUDIT_ARCH_X86_64`, x32 among them; the first starts at 0.
    pub x86_64: Vec<Range>,
    /// Ranges of `AUDIT_ARCH_I386`, if it is listed.
    pub i386: Option<Vec<Range>>,
    /// Flags for the kernel.
    pub flags: u32,
    /// A rule notifies.
    pub notify: bool,
}

/// Marks the numbers of x32 calls.
const X32_BIT: u32 = 0x4000_0000;
/// A tracer sets this number to skip a call; it is no x32 call.
const SKIPPED: u32 = u32::MAX;

/// Checks a profile and resolves its names.
pub fn resolve(seccomp: &Seccomp) -> Result<Profile, Error> {
    let place = || "defaultAction".to_string();
    let default = action(&seccomp.default_action, seccomp.default_errno_ret, place)?;
    if default == NOTIFY {
        return Err(Error::NotifyTooEarly { place: place() });
    }
    for architecture in &seccomp.architectures {
        if !ARCHITECTURES.contains(&architecture.as_str()) {
            return Err(Error::UnknownArchitecture { architecture: architecture.clone() });
        }
    }
    let listed = |name: &str| seccomp.architectures.iter().any(|a| a == name);

    let mut rules = Vec::with_capacity(seccomp.syscalls.len());
    let mut x86_64 = Convention::new(0, Width::Bits64);
    let mut x32 = Convention::new(X32_BIT, Width::Bits32);
    let mut i386 = Convention::new(0, Width::Bits32);
    let mut notify = false;

    for (position, rule) in seccomp.syscalls.iter().enumerate() {
        let place = || place_of(rule, position);
        let action = action(&rule.action, rule.errno_ret, place)?;
        let conditions = rule.args.iter().map(|a| condition(a, place)).collect::<Result<Vec<_>, _>>()?;
        // Indices of the alternatives that this rule consists of; none for a rule that changes nothing.
        let first = rules.len();
        if action != default {
            notify |= action == NOTIFY;
            let on = |index: u8| conditions.iter().filter(|c| c.index == index).count();
            if (0..6).any(|index| on(index) > 1) {
                rules.extend(conditions.iter().map(|&c| Rule { action, conditions: vec![c] }));
            } else {
                rules.push(Rule { action, conditions: conditions.clone() });
            }
        }
        let alternatives = first..rules.len();
        for name in &rule.names {
            if name.is_empty() {
                return Err(Error::EmptyName { place: place() });
            }
            if action == NOTIFY && name == "write" {
                return Err(Error::NotifyTooEarly { place: place() });
            }
            if let Some(numbers) = table::numbers(name) {
                x86_64.add(numbers.x86_64, alternatives.clone());
                x32.add(numbers.x32, alternatives.clone());
                i386.add(numbers.i386, alternatives.clone());
            }
            if let Some((call, operation)) = table::multiplexed(name) {
                let before = rules.len();
                if !alternatives.is_empty() && (conditions.is_empty() || stricter(action, default)) {
                    let selected = Condition { index: 0, op: Op::Eq, mask: u64::MAX, value: operation.into() };
                    rules.push(Rule { action, conditions: vec![selected] });
                }
                i386.add(Some(call), before..rules.len());
            }
        }
    }

    // A number newer than the profile's author could know fails as on an older kernel (runc's "-ENOSYS stub").
    let beyond =
        if [ALLOW, LOG, TRACE].contains(&(default & libc::SECCOMP_RET_ACTION_FULL)) { default } else { ENOSYS };
    let mut ranges = x86_64.ranges(&rules, default, beyond);
    if listed("SCMP_ARCH_X32") {
        join(&mut ranges, x32.ranges(&rules, default, beyond));
    } else {
        push(&mut ranges, X32_BIT, Decision::Return(BAD_ARCHITECTURE));
        push(&mut ranges, SKIPPED, Decision::Return(default));
    }
    let i386 = listed("SCMP_ARCH_X86").then(|| i386.ranges(&rules, default, beyond));
    Ok(Profile { default, rules, x86_64: ranges, i386, flags: flags(&seccomp.flags, notify)?, notify })
}

/// Names a rule in a message.
fn place_of(rule: &SyscallRule, position: usize) -> String {
    match rule.names.as_slice() {
        [] => format!("syscalls[{position}]"),
        [name] => format!("syscalls[{position}] ({name})"),
        [name, others @ ..] => format!("syscalls[{position}] ({name} and {} others)", others.len()),
    }
}

fn action(name: &str, errno: Option<u32>, place: impl Fn() -> String) -> Result<u32, Error> {
    let Some(known) = ACTIONS.iter().find(|a| a.name == name) else {
        return Err(Error::UnknownAction { place: place(), action: name.to_string() });
    };
    match (known.value, errno) {
        (ERRNO | TRACE, Some(errno)) if errno > 0xffff => Err(Error::ErrnoOutOfRange { place: place(), errno }),
        (ERRNO | TRACE, errno) => Ok(known.value | errno.unwrap_or(libc::EPERM as u32)),
        (_, Some(errno)) => Err(Error::ErrnoWithoutUse { place: place(), action: name.to_string(), errno }),
        (value, None) => Ok(value),
    }
}

fn condition(arg: &SyscallArg, place: impl Fn() -> String) -> Result<Condition, Error> {
    let Some(&(_, op)) = OPERATORS.iter().find(|o| o.0 == arg.op) else {
        return Err(Error::UnknownOperator { place: place(), operator: arg.op.clone() });
    };
    if arg.index > 5 {
        return Err(Error::ArgumentIndex { place: place(), index: arg.index });
    }
    let index = arg.index as u8;
    Ok(match op {
        // (argument & value) == valueTwo; bits of valueTwo outside of the mask do not count.
        Op::MaskedEq => Condition { index, op, mask: arg.value, value: arg.value_two & arg.value },
        _ => Condition { index, op, mask: u64::MAX, value: arg.value },
    })
}

fn flags(names: &[String], notify: bool) -> Result<u32, Error> {
    if names.is_empty() {
        return Ok(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32);
    }
    let mut flags = 0;
    for name in names {
        match FLAGS.iter().find(|f| f.0 == name) {
            // The kernel refuses it without a listener, where it has no meaning.
            Some(&(_, WAIT_KILLABLE_RECV)) if !notify => {}
            Some(&(_, flag)) => flags |= flag,
            None => return Err(Error::UnknownFlag { flag: name.clone() }),
        }
    }
    Ok(flags)
}

/// The kernel orders actions by their value as a signed number, the most restrictive first.
fn stricter(a: u32, b: u32) -> bool {
    let class = |action: u32| (action & libc::SECCOMP_RET_ACTION_FULL).cast_signed();
    class(a) < class(b)
}

/// The calls of one convention that rules name.
struct Convention {
    base: u32,
    width: Width,
    /// Number and rule, in the profile's order.
    named: Vec<(u32, usize)>,
    /// The highest number any rule names, even one that changes nothing.
    newest: Option<u32>,
}

impl Convention {
    fn new(base: u32, width: Width) -> Self {
        Convention { base, width, named: Vec::new(), newest: None }
    }

    fn add(&mut self, number: Option<u32>, rules: std::ops::Range<usize>) {
        let Some(number) = number.map(|n| self.base + n) else { return };
        self.newest = self.newest.max(Some(number));
        self.named.extend(rules.map(|rule| (number, rule)));
    }

    /// Ranges from `base` on; numbers above the newest get `beyond`.
    fn ranges(mut self, rules: &[Rule], default: u32, beyond: u32) -> Vec<Range> {
        self.named.sort_by_key(|&(number, _)| number); // stable: rules of one number stay in order
        let mut ranges = Vec::new();
        push(&mut ranges, self.base, Decision::Return(default));
        for same in self.named.chunk_by(|a, b| a.0 == b.0) {
            push(&mut ranges, same[0].0, self.decision(same, rules));
            push(&mut ranges, same[0].0 + 1, Decision::Return(default));
        }
        if let Some(newest) = self.newest {
            push(&mut ranges, newest + 1, Decision::Return(beyond));
        }
        ranges
    }

    fn decision(&self, same: &[(u32, usize)], rules: &[Rule]) -> Decision {
        let unconditional = |rule: &&Rule| rule.conditions.iter().all(|c| c.always_holds(self.width));
        match same.iter().map(|&(_, rule)| &rules[rule]).find(unconditional) {
            Some(rule) => Decision::Return(rule.action),
            None => Decision::Rules(self.width, same.iter().map(|&(_, rule)| rule).collect()),
        }
    }
}

/// Adds a range; it replaces one with the same start and continues one with the same decision.
fn push(ranges: &mut Vec<Range>, start: u32, decision: Decision) {
    ranges.pop_if(|last| last.start == start);
    if ranges.last().is_none_or(|last| last.decision != decision) {
        ranges.push(Range { start, decision });
    }
}

fn join(ranges: &mut Vec<Range>, more: Vec<Range>) {
    for range in more {
        push(ranges, range.start, range.decision);
    }
}
