//! From ranges of call numbers to classic BPF.
//!
//! The program is written backwards, last instruction first: a jump in classic BPF only goes forwards, so the
//! target of each is known when the jump is written, as its distance from the end of the program. Comparisons
//! have offsets of 8 bits; where a target is further away, an unconditional jump (32 bits) or another copy of
//! the wanted return is written just before the comparison, that is, right behind it in the finished program.
//!
//! Layout: the convention is tested first, then for each convention one binary tree over the call number, whose
//! leaves are returns or the tests of a call's conditional rules.

use std::collections::BTreeMap;
use std::mem::offset_of;

use crate::SockFilter;
use crate::rules::{BAD_ARCHITECTURE, Condition, Decision, Op, Profile, Range, Rule, Width};

/// `BPF_MAXINSNS`.
pub const MAX_INSTRUCTIONS: usize = 4096;

/// x86-64, 64 bits, little endian (`linux/audit.h`).
pub const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// i386, little endian.
pub const AUDIT_ARCH_I386: u32 = 0x4000_0003;

/// Loads a word of [`SeccompData`] into the accumulator.
pub const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
/// Ands a constant to the accumulator.
pub const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
/// Jumps.
pub const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
/// Jumps by equality.
pub const JUMP_EQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
/// Jumps by "greater", unsigned.
pub const JUMP_GT: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
/// Jumps by "greater or equal", unsigned.
pub const JUMP_GE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
/// Ends with a constant.
pub const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// The kernel's `struct seccomp_data`, which a filter reads.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeccompData {
    /// Call number.
    pub nr: u32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// Address of the calling instruction.
    pub instruction_pointer: u64,
    /// Argument registers.
    pub args: [u64; 6],
}

/// Compiles a resolved profile.
pub fn program(profile: &Profile) -> Vec<SockFilter> {
    let mut e = Emitter { profile, reversed: Vec::with_capacity(1024), returns: BTreeMap::new() };
    let mut entry = Target::Return(BAD_ARCHITECTURE);
    if let Some(ranges) = &profile.i386 {
        let tree = e.convention(ranges);
        entry = e.branch(JUMP_EQ, AUDIT_ARCH_I386, tree, entry);
    }
    let tree = e.convention(&profile.x86_64);
    e.branch(JUMP_EQ, AUDIT_ARCH_X86_64, tree, entry);
    e.load(offset_of!(SeccompData, arch));
    e.reversed.reverse();
    e.reversed
}

/// Where to go on.
#[derive(Clone, Copy)]
enum Target {
    /// The instruction with this index counted from the program's end.
    At(usize),
    /// Any instruction that returns this.
    Return(u32),
}

struct Emitter<'a> {
    profile: &'a Profile,
    reversed: Vec<SockFilter>,
    /// Where each action's return was last written.
    returns: BTreeMap<u32, usize>,
}

impl Emitter<'_> {
    fn push(&mut self, code: u16, k: u32, jt: u8, jf: u8) -> Target {
        self.reversed.push(SockFilter { code, jt, jf, k });
        Target::At(self.reversed.len() - 1)
    }

    fn load(&mut self, offset: usize) -> Target {
        self.push(LOAD, offset as u32, 0, 0)
    }

    /// A comparison of the accumulator with `k`.
    fn branch(&mut self, code: u16, k: u32, mut when_true: Target, mut when_false: Target) -> Target {
        loop {
            match (self.offset(when_true), self.offset(when_false)) {
                (Some(jt), Some(jf)) => return self.push(code, k, jt, jf),
                // What was brought near moves away by at most one instruction, so this ends.
                (None, _) => when_true = self.bring_near(when_true),
                (_, None) => when_false = self.bring_near(when_false),
            }
        }
    }

    /// The offset of a jump written now, if it fits in 8 bits.
    fn offset(&self, target: Target) -> Option<u8> {
        let at = match target {
            Target::At(at) => at,
            Target::Return(action) => *self.returns.get(&action)?,
        };
        u8::try_from(self.reversed.len() - 1 - at).ok()
    }

    fn bring_near(&mut self, target: Target) -> Target {
        match target {
            Target::At(at) => self.push(JUMP, (self.reversed.len() - 1 - at) as u32, 0, 0),
            Target::Return(action) => {
                self.returns.insert(action, self.reversed.len());
                self.push(RETURN, action, 0, 0)
            }
        }
    }

    /// The whole of one convention, entered with anything in the accumulator.
    fn convention(&mut self, ranges: &[Range]) -> Target {
        match self.tree(ranges) {
            Target::At(_) => self.load(offset_of!(SeccompData, nr)),
            always => always,
        }
    }

    /// A balanced search for the range of the call number in the accumulator.
    fn tree(&mut self, ranges: &[Range]) -> Target {
        if let [range] = ranges {
            return match &range.decision {
                Decision::Return(action) => Target::Return(*action),
                Decision::Rules(width, rules) => self.rules(*width, rules),
            };
        }
        let middle = ranges.len() / 2;
        let above = self.tree(&ranges[middle..]);
        let below = self.tree(&ranges[..middle]);
        self.branch(JUMP_GE, ranges[middle].start, above, below)
    }

    fn rules(&mut self, width: Width, rules: &[usize]) -> Target {
        let mut next = Target::Return(self.profile.default);
        for Rule { action, conditions } in rules.iter().rev().map(|&i| &self.profile.rules[i]) {
            let holds = Target::Return(*action);
            next = conditions.iter().rev().fold(holds, |holds, c| self.condition(width, c, holds, next));
        }
        next
    }

    /// The high half of an argument decides alone unless it is equal to the value's.
    fn condition(&mut self, width: Width, c: &Condition, holds: Target, fails: Target) -> Target {
        let (code, when_true, when_false) = match c.op {
            Op::Eq | Op::MaskedEq => (JUMP_EQ, holds, fails),
            Op::Ne => (JUMP_EQ, fails, holds),
            Op::Ge => (JUMP_GE, holds, fails),
            Op::Lt => (JUMP_GE, fails, holds),
            Op::Gt => (JUMP_GT, holds, fails),
            Op::Le => (JUMP_GT, fails, holds),
        };
        let low = offset_of!(SeccompData, args) + usize::from(c.index) * 8;
        let halves = |n: u64| (n as u32, (n >> 32) as u32);
        let ((mask_low, mask_high), (value_low, value_high)) = (halves(c.mask), halves(c.value));

        let mut entry = when_true;
        if mask_low != 0 {
            self.branch(code, value_low, when_true, when_false);
            entry = self.masked(low, mask_low);
        }
        if width == Width::Bits64 && mask_high != 0 {
            let equal = self.branch(JUMP_EQ, value_high, entry, when_false);
            if code != JUMP_EQ {
                self.branch(JUMP_GT, value_high, when_true, equal);
            }
            entry = self.masked(low + 4, mask_high);
        }
        entry
    }

    /// Loads a word and keeps the bits in `mask`.
    fn masked(&mut self, offset: usize, mask: u32) -> Target {
        if mask != u32::MAX {
            self.push(AND, mask, 0, 0);
        }
        self.load(offset)
    }
}
