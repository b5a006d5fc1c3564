use proptest::prelude::*;
use strata_spec::runtime::{Seccomp, SyscallArg, SyscallRule};

use crate::model::{AUDIT_ARCH_I386, AUDIT_ARCH_X86_64, SeccompData, evaluate, interpret};
use crate::*;

const ARCHES: [u32; 3] = [AUDIT_ARCH_X86_64, AUDIT_ARCH_I386, 0xc000_00b7 /* AArch64 */];
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0;

fn call(arch: u32, nr: u32, args: [u64; 6]) -> SeccompData {
    SeccompData { nr, arch, instruction_pointer: 0x7fff_dead_beef, args }
}

fn x86_64(profile: &str, nr: i64, args: [u64; 6]) -> u32 {
    on(profile, AUDIT_ARCH_X86_64, nr as u32, args)
}

fn on(profile: &str, arch: u32, nr: u32, args: [u64; 6]) -> u32 {
    let profile: Seccomp = serde_json::from_str(profile).unwrap();
    let data = call(arch, nr, args);
    let result = interpret(&compile(&profile).unwrap().instructions, &data).unwrap().0;
    assert_eq!(result, evaluate(&profile, &data));
    result
}

/// Every number up to beyond the newest, on every convention, with changing arguments.
fn assert_same_everywhere(profile: &Seccomp) {
    let program = compile(profile).unwrap();
    let numbers =
        (0..=560).flat_map(|nr| [nr, 0x4000_0000 + nr]).chain([0x7fff_ffff, 0x8000_0000, u32::MAX - 1, u32::MAX]);
    for nr in numbers {
        for (arch, first) in ARCHES.into_iter().zip([8, 16, u64::MAX].into_iter().cycle().skip(nr as usize % 3)) {
            let data = call(arch, nr, [first, first, 9, 0, 0, 0]);
            let result = interpret(&program.instructions, &data).unwrap().0;
            assert_eq!(result, evaluate(profile, &data), "{data:x?}");
        }
    }
}

/// A profile like those that container engines apply by default: every call but some that administer the host,
/// and a few by their arguments.
fn default_profile() -> Seccomp {
    let denied = [
        "acct",
        "add_key",
        "bpf",
        "clock_settime",
        "clock_settime64",
        "create_module",
        "delete_module",
        "fanotify_init",
        "finit_module",
        "fsconfig",
        "fsmount",
        "fsopen",
        "fspick",
        "init_module",
        "ioperm",
        "iopl",
        "kexec_file_load",
        "kexec_load",
        "keyctl",
        "lookup_dcookie",
        "mbind",
        "mount",
        "mount_setattr",
        "move_mount",
        "move_pages",
        "nfsservctl",
        "open_by_handle_at",
        "open_tree",
        "perf_event_open",
        "pivot_root",
        "query_module",
        "quotactl",
        "reboot",
        "request_key",
        "set_mempolicy",
        "setdomainname",
        "sethostname",
        "setns",
        "settimeofday",
        "stime",
        "swapoff",
        "swapon",
        "syslog",
        "umount",
        "umount2",
        "unshare",
        "uselib",
        "userfaultfd",
        "vhangup",
    ];
    let by_argument = ["clone", "clone3", "personality", "socket"];
    let allowed: Vec<_> = table::names().filter(|n| !denied.contains(n) && !by_argument.contains(n)).collect();
    let argument = |index: u32, op: &str, value: u64| serde_json::json!({"index": index, "op": op, "value": value});
    let allow = |name: &str, args: &[serde_json::Value]| serde_json::json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": args});
    let mut rules = vec![
        serde_json::json!({"names": denied.to_vec(), "action": "SCMP_ACT_ERRNO", "errnoRet": 1}),
        serde_json::json!({"names": allowed, "action": "SCMP_ACT_ALLOW"}),
        serde_json::json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}),
        allow("clone", &[argument(0, "SCMP_CMP_MASKED_EQ", 0x7e02_0000)]),
        allow("socket", &[argument(0, "SCMP_CMP_NE", 16)]),
        allow("socket", &[argument(2, "SCMP_CMP_NE", 9)]),
    ];
    rules.extend([0, 8, 0x20000, 0x20008, 0xffff_ffff].map(|v| allow("personality", &[argument(0, "SCMP_CMP_EQ", v)])));
    serde_json::from_value(serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    }))
    .unwrap()
}

#[test]
fn default_profile_compiles_to_what_it_says() {
    let profile = default_profile();
    let program = compile(&profile).unwrap();
    assert!(program.instructions.len() < 1000, "{} instructions", program.instructions.len());
    assert!(profile.syscalls.iter().map(|r| r.names.len()).sum::<usize>() > 400);
    assert_same_everywhere(&profile);
}

#[test]
fn default_profile_is_decided_in_few_steps() {
    let profile = default_profile();
    let tree = |ranges: &[rules::Range]| ranges.len().next_power_of_two().ilog2() as usize;
    let depth = tree(&rules::resolve(&profile).unwrap().x86_64);
    assert!(depth <= 9, "{depth}");
    let program = compile(&profile).unwrap().instructions;
    let longest =
        (0..470).map(|nr| interpret(&program, &call(AUDIT_ARCH_X86_64, nr, [0; 6])).unwrap().1).max().unwrap();
    assert!(longest <= depth * 2 + 20, "{longest} instructions for one call, tree of depth {depth}");
}

/// The complete files of the distribution's packages, where they are installed.
#[test]
fn installed_default_profile_compiles() {
    let path = "/usr/share/containers/seccomp.json";
    let Ok(text) = std::fs::read_to_string(path) else {
        return skipped("installed_default_profile_compiles", "no containers-common package on this host");
    };
    let file: serde_json::Value = serde_json::from_str(&text).unwrap();
    // Podman resolves includes and excludes; this is the profile of a container without added capabilities.
    let wanted = |rule: &&serde_json::Value| {
        rule["includes"]["caps"].is_null()
            && rule["includes"]["arches"].as_array().is_none_or(|a| a.iter().any(|a| a == "amd64"))
            && rule["excludes"]["arches"].as_array().is_none_or(|a| a.iter().all(|a| a != "amd64"))
    };
    let rules: Vec<_> = file["syscalls"].as_array().unwrap().iter().filter(wanted).collect();
    let profile: Seccomp = serde_json::from_value(serde_json::json!({
        "defaultAction": file["defaultAction"],
        "defaultErrnoRet": file["defaultErrnoRet"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    }))
    .unwrap();
    assert!(profile.syscalls.iter().map(|r| r.names.len()).sum::<usize>() > 300);
    assert_same_everywhere(&profile);
}

fn skipped(test: &str, reason: &str) {
    use std::io::Write;
    let _ = writeln!(io::stderr(), "{test}: {reason}");
    if let Some(path) = std::env::var_os("STRATA_TEST_SKIPS") {
        let mut file = std::fs::File::options().append(true).create(true).open(path).unwrap();
        writeln!(file, "{test}: {reason}").unwrap();
    }
}

#[test]
fn masked_equality_compares_both_halves() {
    let profile = r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],"syscalls":[
        {"names":["clone"],"action":"SCMP_ACT_ALLOW",
         "args":[{"index":0,"value":9223372039002259456,"valueTwo":2147483648,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#;
    // mask 0x8000000080000000, wanted 0x80000000
    let clone = |flags| x86_64(profile, libc::SYS_clone, [flags, 0, 0, 0, 0, 0]);
    assert_eq!(clone(0x8000_0000), ALLOW);
    assert_eq!(clone(0x7fff_ffff_ffff_ffff), ALLOW);
    assert_eq!(clone(0), EPERM);
    assert_eq!(clone(0x8000_0000_8000_0000), EPERM);
}

#[test]
fn comparisons_are_unsigned_and_64_bits_wide() {
    for (op, expected) in [
        ("SCMP_CMP_LT", [true, true, false, false, false]),
        ("SCMP_CMP_LE", [true, true, true, false, false]),
        ("SCMP_CMP_EQ", [false, false, true, false, false]),
        ("SCMP_CMP_NE", [true, true, false, true, true]),
        ("SCMP_CMP_GE", [false, false, true, true, true]),
        ("SCMP_CMP_GT", [false, false, false, true, true]),
    ] {
        let profile = format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{{"index":2,"value":4294967298,"op":"{op}"}}]}}]}}"#
        );
        let values = [3, 0x1_0000_0001, 0x1_0000_0002, 0x1_0000_0003, 0xffff_ffff_0000_0000];
        let found = values.map(|v| x86_64(&profile, libc::SYS_read, [0, 0, v, 0, 0, 0]) == ALLOW);
        assert_eq!(found, expected, "{op}");
    }
}

#[test]
fn conditions_on_one_argument_are_alternatives_and_on_several_all_hold() {
    let profile = |second: u32| {
        format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["personality"],"action":"SCMP_ACT_ALLOW",
            "args":[{{"index":0,"value":0,"op":"SCMP_CMP_EQ"}},{{"index":{second},"value":8,"op":"SCMP_CMP_EQ"}}]}}]}}"#
        )
    };
    let personality = |second, args| x86_64(&profile(second), libc::SYS_personality, args);
    assert_eq!(personality(0, [8, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(personality(0, [9, 0, 0, 0, 0, 0]), EPERM);
    assert_eq!(personality(1, [0, 8, 0, 0, 0, 0]), ALLOW);
    assert_eq!(personality(1, [0, 0, 0, 0, 0, 0]), EPERM);
    assert_eq!(personality(1, [8, 8, 0, 0, 0, 0]), EPERM);
}

#[test]
fn an_unconditional_rule_wins_over_conditional_ones_and_the_first_over_later_ones() {
    let profile = r#"{"defaultAction":"SCMP_ACT_KILL","syscalls":[
        {"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":5,"args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},
        {"names":["read"],"action":"SCMP_ACT_ALLOW"},
        {"names":["read"],"action":"SCMP_ACT_TRAP"},
        {"names":["write"],"action":"SCMP_ACT_ERRNO","errnoRet":5,"args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},
        {"names":["write"],"action":"SCMP_ACT_LOG","args":[{"index":0,"value":9,"op":"SCMP_CMP_LT"}]}]}"#;
    assert_eq!(x86_64(profile, libc::SYS_read, [1, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(x86_64(profile, libc::SYS_write, [1, 0, 0, 0, 0, 0]), 0x0005_0005);
    assert_eq!(x86_64(profile, libc::SYS_write, [2, 0, 0, 0, 0, 0]), 0x7ffc_0000);
    assert_eq!(x86_64(profile, libc::SYS_write, [9, 0, 0, 0, 0, 0]), KILL);
}

#[test]
fn numbers_newer_than_the_profile_fail_with_enosys_unless_the_default_lets_calls_pass() {
    let profile = |action: &str| {
        let rule = r#"{"names":["read","clone3","no_such_call"],"action":"SCMP_ACT_TRAP"}"#;
        format!(r#"{{"defaultAction":"{action}","architectures":["SCMP_ARCH_X86"],"syscalls":[{rule}]}}"#)
    };
    for (action, default, newer) in [
        ("SCMP_ACT_ERRNO", EPERM, ENOSYS),
        ("SCMP_ACT_KILL_PROCESS", 0x8000_0000, ENOSYS),
        ("SCMP_ACT_ALLOW", ALLOW, ALLOW),
    ] {
        let profile = profile(action);
        assert_eq!(x86_64(&profile, libc::SYS_write, [0; 6]), default);
        assert_eq!(x86_64(&profile, libc::SYS_clone3 + 1, [0; 6]), newer);
        assert_eq!(on(&profile, AUDIT_ARCH_I386, 434, [0; 6]), default);
        assert_eq!(on(&profile, AUDIT_ARCH_I386, 436, [0; 6]), newer);
    }
}

#[test]
fn conventions_that_are_not_listed_kill() {
    let profile = |arch: &str| {
        let rule = r#"{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":7}"#;
        format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","architectures":["{arch}"],"syscalls":[{rule}]}}"#)
    };
    let (foreign, x86, x32) = (profile("SCMP_ARCH_AARCH64"), profile("SCMP_ARCH_X86"), profile("SCMP_ARCH_X32"));
    for profile in [&foreign, &x86, &x32] {
        assert_eq!(x86_64(profile, 0, [0; 6]), 0x0005_0007, "the host's own is always there");
        assert_eq!(on(profile, 0xc000_00b7, 0, [0; 6]), KILL);
        assert_eq!(x86_64(profile, -1, [0; 6]), ALLOW, "a tracer skipped the call");
    }
    assert_eq!(on(&foreign, AUDIT_ARCH_I386, 3, [0; 6]), KILL);
    assert_eq!(on(&x86, AUDIT_ARCH_I386, 3, [0; 6]), 0x0005_0007);
    assert_eq!(x86_64(&x86, 0x4000_0000, [0; 6]), KILL);
    assert_eq!(x86_64(&x32, 0x4000_0000, [0; 6]), 0x0005_0007);
    assert_eq!(x86_64(&x32, 0x4000_0001, [0; 6]), ALLOW);
}

#[test]
fn i386_socketcall_follows_the_rules_of_the_calls_it_multiplexes() {
    let profile = |default: &str, action: &str, args: &str| {
        let rule = format!(r#"{{"names":["socket"],"action":"{action}","args":[{args}]}}"#);
        format!(r#"{{"defaultAction":"{default}","architectures":["SCMP_ARCH_X86"],"syscalls":[{rule}]}}"#)
    };
    let socketcall = |profile: &str, operation| on(profile, AUDIT_ARCH_I386, 102, [operation, 0, 0, 0, 0, 0]);
    let family = r#"{"index":0,"value":1,"op":"SCMP_CMP_EQ"}"#;
    let allowed = profile("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "");
    assert_eq!((socketcall(&allowed, 1), socketcall(&allowed, 2)), (ALLOW, EPERM));
    let only_old = allowed.replace("socket", "accept"); // has no number of its own on i386
    assert_eq!((socketcall(&only_old, 5), socketcall(&only_old, 1)), (ALLOW, EPERM), "socketcall counts as named");
    assert_eq!(on(&only_old, AUDIT_ARCH_I386, 103, [0; 6]), ENOSYS);
    let one_family_allowed = profile("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", family);
    assert_eq!(socketcall(&one_family_allowed, 1), EPERM, "the family is out of sight");
    let one_family_denied = profile("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", family);
    assert_eq!((socketcall(&one_family_denied, 1), socketcall(&one_family_denied, 2)), (EPERM, ALLOW));
}

#[test]
fn errors_name_the_value() {
    let error = |profile: &str| compile(&serde_json::from_str(profile).unwrap()).unwrap_err().to_string();
    let rule = |rule: &str| error(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#));
    for (message, parts) in [
        (error(r#"{"defaultAction":"SCMP_ACT_NOPE"}"#), ["defaultAction", "\"SCMP_ACT_NOPE\""]),
        (error(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#), ["defaultAction", "SCMP_ACT_NOTIFY"]),
        (error(r#"{"defaultAction":"SCMP_ACT_KILL","defaultErrnoRet":3}"#), ["SCMP_ACT_KILL", "3"]),
        (error(r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":65536}"#), ["defaultAction", "65536"]),
        (error(r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_VAX"]}"#), ["VAX", "SCMP_ARCH_X32"]),
        (error(r#"{"defaultAction":"SCMP_ACT_ERRNO","flags":["SECCOMP_FILTER_FLAG_X"]}"#), ["FLAG_X\"", "TSYNC"]),
        (rule(r#"{"names":["a","b"],"action":"KILL"}"#), ["syscalls[0] (a and 1 others)", "\"KILL\""]),
        (rule(r#"{"names":[""],"action":"SCMP_ACT_KILL"}"#), ["syscalls[0]", "empty"]),
        (rule(r#"{"names":["write"],"action":"SCMP_ACT_NOTIFY"}"#), ["syscalls[0] (write)", "SCMP_ACT_NOTIFY"]),
        (
            rule(r#"{"names":["a"],"action":"SCMP_ACT_KILL","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}"#),
            ["syscalls[0] (a)", "6"],
        ),
        (
            rule(r#"{"names":["a"],"action":"SCMP_ACT_KILL","args":[{"index":0,"value":0,"op":"=="}]}"#),
            ["syscalls[0] (a)", "\"==\""],
        ),
    ] {
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn a_filter_that_is_too_long_is_an_error_and_one_just_below_jumps_right() {
    let arg = |value| SyscallArg { index: 0, value, value_two: 0, op: "SCMP_CMP_EQ".to_string() };
    let profile = |count: u64| Seccomp {
        default_action: "SCMP_ACT_ERRNO".to_string(),
        syscalls: vec![SyscallRule {
            names: vec!["read".to_string()],
            action: "SCMP_ACT_ALLOW".to_string(),
            args: (0..count).map(|n| arg(n << 32 | n)).collect(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let error = compile(&profile(1100)).unwrap_err();
    assert!(matches!(error, Error::TooLong { instructions: 4400.. }), "{error}");
    let profile = profile(1000);
    let program = compile(&profile).unwrap();
    for n in [0u64, 1, 62, 63, 64, 255, 500, 999, 1000] {
        let data = call(AUDIT_ARCH_X86_64, 0, [n << 32 | n, 0, 0, 0, 0, 0]);
        let expected = if n < 1000 { ALLOW } else { EPERM };
        assert_eq!(interpret(&program.instructions, &data).unwrap().0, expected, "{n}");
    }
}

#[test]
fn flags_and_notify() {
    let compiled = |extra: &str, action: &str| {
        let rule = format!(r#"{{"names":["mkdir"],"action":"{action}"}}"#);
        let profile = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW",{extra}"syscalls":[{rule}]}}"#);
        let program = compile(&serde_json::from_str(&profile).unwrap()).unwrap();
        (program.flags, program.notify)
    };
    let all =
        r#""flags":["SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],"#;
    assert_eq!(compiled("", "SCMP_ACT_ERRNO"), (1 << 2, false));
    assert_eq!(compiled(all, "SCMP_ACT_ERRNO"), (1 << 0 | 1 << 1, false));
    assert_eq!(compiled(all, "SCMP_ACT_NOTIFY"), (1 << 0 | 1 << 1 | 1 << 5, true));
}

#[test]
fn this_kernel_supports_what_it_should() {
    // Linux 4.14 has all of these; 5.0 and 5.19 brought NOTIFY and WAIT_KILLABLE_RECV.
    for action in ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_LOG"] {
        assert!(supported_actions().contains(&action), "{action}");
    }
    assert!(supported_flags().contains(&"SECCOMP_FILTER_FLAG_TSYNC"));
    assert!(!sys::flag_available(1 << 30));
    assert!(!sys::action_available(0x1234_0000));
}

fn any_profile() -> impl Strategy<Value = Seccomp> {
    let name = prop::sample::select(vec![
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
        "no_such_call",
    ]);
    let name = name.prop_map(str::to_string);
    let action = prop::sample::select(known_actions()).prop_map(str::to_string);
    let errno = prop::option::of(prop::sample::select(vec![0u32, 1, 13, 38]));
    let value = prop_oneof![Just(0), 0..4u64, Just(1 << 32), Just((1 << 32) + 2), Just(u64::MAX), any::<u64>()];
    let op = prop::sample::select(known_operators()).prop_map(str::to_string);
    let arg = (0..6u32, value.clone(), value, op).prop_map(|(index, value, value_two, op)| SyscallArg {
        index,
        value,
        value_two,
        op,
    });
    let names = prop::collection::vec(name, 0..6);
    let rule = (names, action.clone(), errno.clone(), prop::collection::vec(arg, 0..4))
        .prop_map(|(names, action, errno_ret, args)| SyscallRule { names, action, errno_ret, args });
    let arches = vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM"];
    let arches = prop::sample::subsequence(arches, 0..=4);
    (action, errno, arches, prop::collection::vec(rule, 0..12)).prop_map(|(default_action, errno, arches, syscalls)| {
        let mut profile = Seccomp {
            default_action,
            default_errno_ret: errno,
            architectures: arches.into_iter().map(str::to_string).collect(),
            syscalls,
            ..Default::default()
        };
        make_valid(&mut profile);
        profile
    })
}

/// Leaves out what [`compile`] refuses.
fn make_valid(profile: &mut Seccomp) {
    let takes = |action: &str| action == "SCMP_ACT_ERRNO" || action == "SCMP_ACT_TRACE";
    if profile.default_action == "SCMP_ACT_NOTIFY" {
        profile.default_action = "SCMP_ACT_ERRNO".to_string();
    }
    profile.default_errno_ret = profile.default_errno_ret.filter(|_| takes(&profile.default_action));
    for rule in &mut profile.syscalls {
        rule.errno_ret = rule.errno_ret.filter(|_| takes(&rule.action));
        if rule.action == "SCMP_ACT_NOTIFY" {
            rule.names.retain(|name| name != "write");
        }
    }
}

proptest! {
    #[test]
    fn compiled_filter_does_what_the_rules_say(
        profile in any_profile(),
        calls in prop::collection::vec(
            (
                prop::sample::select(ARCHES.to_vec()),
                prop_oneof![
                    prop::sample::select(vec![0u32, 1, 3, 41, 56, 59, 102, 117, 135, 136, 195, 397, 435, 462, 512, 520]),
                    0..600u32,
                    any::<u32>(),
                ],
                any::<bool>(),
                prop::array::uniform6(prop_oneof![0..4u64, Just(1 << 32), Just((1 << 32) + 2), Just(u64::MAX), any::<u64>()]),
            ),
            1..80,
        ),
    ) {
        let program = compile(&profile).unwrap().instructions;
        for (arch, nr, x32, args) in calls {
            let data = call(arch, if x32 { nr | 0x4000_0000 } else { nr }, args);
            prop_assert_eq!(interpret(&program, &data).unwrap().0, evaluate(&profile, &data), "{:x?}", data);
        }
    }
}
