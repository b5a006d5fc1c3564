//! What a filter must do, said a second time and differently: the kernel's interpreter of classic BPF, and the
//! profile's rules evaluated directly. Tests and fuzzing compare the two.

use strata_spec::runtime::{Seccomp, SyscallArg};

pub use crate::emit::{AUDIT_ARCH_I386, AUDIT_ARCH_X86_64, SeccompData};
use crate::{SockFilter, emit, rules, table};

/// Runs a filter as the kernel would, after the checks of its `bpf_check_classic` and `seccomp_check_filter`.
///
/// Returns the `SECCOMP_RET_*` value and the number of instructions executed, or why the kernel would refuse the
/// program.
pub fn interpret(program: &[SockFilter], data: &SeccompData) -> Result<(u32, usize), String> {
    check(program)?;
    let word = |offset: u32| match offset {
        0 => data.nr,
        4 => data.arch,
        8 => data.instruction_pointer as u32,
        12 => (data.instruction_pointer >> 32) as u32,
        args => (data.args[(args as usize - 16) / 8] >> (args % 8 * 8)) as u32,
    };
    let (mut a, mut pc) = (0, 0);
    for executed in 1.. {
        let SockFilter { code, jt, jf, k } = program[pc];
        let skip = |condition: bool| usize::from(if condition { jt } else { jf });
        pc += 1;
        match code {
            emit::LOAD => a = word(k),
            emit::AND => a &= k,
            emit::JUMP => pc += k as usize,
            emit::JUMP_EQ => pc += skip(a == k),
            emit::JUMP_GT => pc += skip(a > k),
            emit::JUMP_GE => pc += skip(a >= k),
            _ => return Ok((k, executed)),
        }
    }
    unreachable!("jumps only go forwards")
}

/// What the kernel checks before it installs a filter, for the instructions this crate uses.
fn check(program: &[SockFilter]) -> Result<(), String> {
    if program.is_empty() || program.len() > 4096 {
        return Err(format!("{} instructions", program.len()));
    }
    for (pc, i) in program.iter().enumerate() {
        let left = program.len() - 1 - pc; // instructions behind this one
        let fine = match i.code {
            emit::LOAD => i.k < 64 && i.k % 4 == 0 && left > 0,
            emit::AND => left > 0,
            emit::JUMP => (i.k as usize) < left,
            emit::JUMP_EQ | emit::JUMP_GT | emit::JUMP_GE => usize::from(i.jt.max(i.jf)) < left,
            emit::RETURN => true,
            _ => false,
        };
        if !fine {
            return Err(format!("instruction {pc} of {} is not allowed: {i:?}", program.len()));
        }
    }
    Ok(())
}

/// Evaluates a valid profile for one call, rule by rule.
pub fn evaluate(seccomp: &Seccomp, data: &SeccompData) -> u32 {
    let value = |name: &str, errno: Option<u32>| {
        let known = rules::ACTIONS.iter().find(|a| a.name == name).map_or(0, |a| a.value);
        if name == "SCMP_ACT_ERRNO" || name == "SCMP_ACT_TRACE" { known | errno.unwrap_or(1) } else { known }
    };
    let default = value(&seccomp.default_action, seccomp.default_errno_ret);
    let lists = |name: &str| seccomp.architectures.iter().any(|a| a == name);
    match data.arch {
        AUDIT_ARCH_X86_64 if data.nr >= 0x4000_0000 && !lists("SCMP_ARCH_X32") => {
            return if data.nr == u32::MAX { default } else { 0 };
        }
        AUDIT_ARCH_X86_64 => {}
        AUDIT_ARCH_I386 if lists("SCMP_ARCH_X86") => {}
        _ => return 0,
    }
    let number_of = |name: &str| {
        let numbers = table::numbers(name)?;
        match data.arch {
            AUDIT_ARCH_I386 => numbers.i386,
            _ if data.nr >= 0x4000_0000 => numbers.x32.map(|n| n | 0x4000_0000),
            _ => numbers.x86_64,
        }
    };
    let multiplexer = |name: &str| table::multiplexed(name).filter(|_| data.arch == AUDIT_ARCH_I386).map(|m| m.0);
    let names = seccomp.syscalls.iter().flat_map(|r| &r.names);
    let newest = names.flat_map(|name| [number_of(name), multiplexer(name)]).flatten().max();
    let passes = ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"].contains(&seccomp.default_action.as_str());
    if !passes && newest.is_some_and(|newest| data.nr > newest) {
        return 0x0005_0000 | 38;
    }

    let narrow = data.arch == AUDIT_ARCH_I386 || data.nr >= 0x4000_0000;
    let width = if narrow { u64::from(u32::MAX) } else { u64::MAX };
    let holds = |c: &SyscallArg| {
        let (arg, value) = (data.args[c.index as usize] & width, c.value & width);
        match c.op.as_str() {
            "SCMP_CMP_EQ" => arg == value,
            "SCMP_CMP_NE" => arg != value,
            "SCMP_CMP_LT" => arg < value,
            "SCMP_CMP_LE" => arg <= value,
            "SCMP_CMP_GT" => arg > value,
            "SCMP_CMP_GE" => arg >= value,
            _ => arg & value == c.value_two & value,
        }
    };
    let trivial = |c: &SyscallArg| c.op == "SCMP_CMP_MASKED_EQ" && c.value & width == 0;
    let mut conditional = None;
    for rule in &seccomp.syscalls {
        let action = value(&rule.action, rule.errno_ret);
        if action == default {
            continue;
        }
        let alternatives = rule.args.iter().any(|c| rule.args.iter().filter(|o| o.index == c.index).count() > 1);
        let named = rule.names.iter().any(|name| number_of(name) == Some(data.nr));
        if named {
            let unconditional =
                if alternatives { rule.args.iter().any(trivial) } else { rule.args.iter().all(trivial) };
            if unconditional {
                return action;
            }
            let matches = if alternatives { rule.args.iter().any(holds) } else { rule.args.iter().all(holds) };
            if matches {
                conditional = conditional.or(Some(action));
            }
        }
        let order = |action: u32| (action & 0xffff_0000).cast_signed();
        if data.arch == AUDIT_ARCH_I386 && (rule.args.is_empty() || order(action) < order(default)) {
            let selects = |name: &String| table::multiplexed(name) == Some((data.nr, data.args[0] as u32));
            if rule.names.iter().any(selects) {
                conditional = conditional.or(Some(action));
            }
        }
    }
    conditional.unwrap_or(default)
}
