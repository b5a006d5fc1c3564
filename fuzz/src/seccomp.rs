//! Profiles made of arbitrary parts: the compiled filter must give every call what the rules say.

use arbitrary::{Result, Unstructured};
use strata_seccomp::model::{AUDIT_ARCH_I386, AUDIT_ARCH_X86_64, SeccompData, evaluate, interpret};
use strata_seccomp::{known_actions, known_archs, known_operators};
use strata_spec::runtime::{Seccomp, SyscallArg, SyscallRule};

/// Calls that differ between the conventions, are multiplexed on i386, or stand at the ends of tables.
const NAMES: [&str; 20] = [
    "read",
    "write",
    "close",
    "socket",
    "accept",
    "recv",
    "socketcall",
    "ipc",
    "shmat",
    "semop",
    "execve",
    "clone",
    "personality",
    "clone3",
    "mseal",
    "stat64",
    "rt_sigaction",
    "listns",
    "uselib",
    "no_such_call",
];

pub fn fuzz_one(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(profile) = profile(&mut u) else { return };
    let Ok(program) = strata_seccomp::compile(&profile) else { return };
    while let Ok(call) = call(&mut u) {
        let (result, _) = interpret(&program.instructions, &call).expect("the kernel accepts a compiled filter");
        assert_eq!(result, evaluate(&profile, &call), "{call:x?} under {profile:?}");
        if u.is_empty() {
            break;
        }
    }
}

fn profile(u: &mut Unstructured) -> Result<Seccomp> {
    let mut architectures = Vec::new();
    for name in ["SCMP_ARCH_X86", "SCMP_ARCH_X32"].into_iter().chain([*u.choose(&known_archs())?]) {
        if u.arbitrary()? {
            architectures.push(name.to_string());
        }
    }
    let default_action = name(u, &known_actions())?;
    let mut syscalls = Vec::new();
    for _ in 0..u.int_in_range(0..=24)? {
        syscalls.push(rule(u)?);
    }
    Ok(Seccomp {
        default_errno_ret: errno(u, &default_action)?,
        default_action,
        architectures,
        syscalls,
        ..Default::default()
    })
}

fn rule(u: &mut Unstructured) -> Result<SyscallRule> {
    let action = name(u, &known_actions())?;
    let mut rule = SyscallRule { errno_ret: errno(u, &action)?, action, ..Default::default() };
    for _ in 0..u.int_in_range(0..=4)? {
        rule.names.push(name(u, &NAMES)?);
    }
    for _ in 0..u.int_in_range(0..=5)? {
        let op = name(u, &known_operators())?;
        rule.args.push(SyscallArg { index: u.int_in_range(0..=6)?, value: word(u)?, value_two: word(u)?, op });
    }
    Ok(rule)
}

fn name(u: &mut Unstructured, names: &[&str]) -> Result<String> {
    Ok(u.choose(names)?.to_string())
}

fn errno(u: &mut Unstructured, action: &str) -> Result<Option<u32>> {
    let takes = action == "SCMP_ACT_ERRNO" || action == "SCMP_ACT_TRACE";
    if takes { u.arbitrary::<Option<u16>>().map(|e| e.map(u32::from)) } else { Ok(None) }
}

/// Mostly values near each other, so that conditions meet, now and then any.
fn word(u: &mut Unstructured) -> Result<u64> {
    Ok(match u.int_in_range(0..=7u8)? {
        0 => u.arbitrary()?,
        1 => u64::MAX,
        2 => 1 << 32,
        3 => (1 << 32) + 1,
        small => u64::from(small) - 4,
    })
}

fn call(u: &mut Unstructured) -> Result<SeccompData> {
    let arch = *u.choose(&[AUDIT_ARCH_X86_64, AUDIT_ARCH_I386, 0])?;
    let nr = match u.int_in_range(0..=3u8)? {
        0 => u.arbitrary()?,
        1 => 0x4000_0000 + u.int_in_range(0..=560u32)?,
        _ => u.int_in_range(0..=560u32)?,
    };
    Ok(SeccompData {
        nr,
        arch,
        instruction_pointer: 0,
        args: [word(u)?, word(u)?, word(u)?, word(u)?, word(u)?, word(u)?],
    })
}
