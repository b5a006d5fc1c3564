//! The version 2 device controller: an eBPF program on the cgroup that decides each access to a device.
//!
//! The kernel runs programs of type `BPF_PROG_TYPE_CGROUP_DEVICE` with a context of three words: access and type,
//! major, minor (`struct bpf_cgroup_dev_ctx`), and denies on 0. The program here looks at the rules from the last to
//! the first. It keeps the accesses not yet granted in a register: a rule that allows strikes its own out and grants
//! when none remain; a rule that denies ends it when one of its own remains. So the last rule that names a device and
//! an access decides it. Instruction format: `Documentation/bpf/standardization/instruction-set.rst`.

use crate::Error;
use crate::devices::{ALL, Kind, MKNOD, READ, Rule, WRITE};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// One eBPF instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Insn {
    code: u8,
    /// Destination in the low four bits, source in the high.
    registers: u8,
    offset: i16,
    immediate: i32,
}

// Operation codes: class, operation and operand kind together.
const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const MOVE_REGISTER: u8 = 0xbc; // BPF_ALU | BPF_MOV | BPF_X
const MOVE: u8 = 0xb4; // BPF_ALU | BPF_MOV | BPF_K
const AND: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const SHIFT_RIGHT: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const JUMP_EQUAL: u8 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_NOT_EQUAL: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

// Registers: r0 is the result, r1 the context.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const WANTED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

fn op(code: u8, destination: u8, immediate: i32) -> Insn {
    Insn { code, registers: destination, offset: 0, immediate }
}

fn copy(destination: u8, source: u8) -> Insn {
    Insn { code: MOVE_REGISTER, registers: destination | source << 4, offset: 0, immediate: 0 }
}

fn load(destination: u8, offset: i16) -> Insn {
    Insn { code: LOAD_WORD, registers: destination | CONTEXT << 4, offset, immediate: 0 }
}

/// The kernel's `BPF_DEVCG_ACC_*` bits.
fn access_bits(access: u8) -> i32 {
    [(MKNOD, 1), (READ, 2), (WRITE, 4)].iter().filter(|(ours, _)| access & ours != 0).map(|(_, kernel)| kernel).sum()
}

/// The program for a list of rules, the last that matches winning; what none names is denied.
fn assemble(rules: &[Rule]) -> Vec<Insn> {
    let mut program = vec![
        load(TYPE, 0),
        copy(WANTED, TYPE),
        op(AND, TYPE, 0xffff),
        op(SHIFT_RIGHT, WANTED, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        let start = program.len();
        // BPF_DEVCG_DEV_BLOCK and BPF_DEVCG_DEV_CHAR.
        let kind = rule.kind.map(|k| if k == Kind::Block { 1 } else { 2 });
        let number = |n: Option<u32>| n.map(|n| n as i32);
        for (register, value) in [(TYPE, kind), (MAJOR, number(rule.major)), (MINOR, number(rule.minor))] {
            program.extend(value.map(|value| op(JUMP_NOT_EQUAL, register, value)));
        }
        let bits = access_bits(rule.access);
        if rule.access != ALL && rule.allow {
            program.extend([op(AND, WANTED, !bits), op(JUMP_NOT_EQUAL, WANTED, 0)]);
        } else if rule.access != ALL {
            program.extend([copy(SCRATCH, WANTED), op(AND, SCRATCH, bits), op(JUMP_EQUAL, SCRATCH, 0)]);
        }
        program.extend([op(MOVE, RESULT, rule.allow.into()), op(EXIT, 0, 0)]);
        // Every jump so far leads to the next rule. Offsets count from the instruction after the jump.
        let end = program.len();
        for (at, insn) in program.iter_mut().enumerate().skip(start) {
            if matches!(insn.code, JUMP_EQUAL | JUMP_NOT_EQUAL) {
                insn.offset = (end - at - 1) as i16;
            }
        }
        if rule.is_total() {
            // The verifier refuses instructions that cannot be reached.
            return program;
        }
    }
    program.extend([op(MOVE, RESULT, 0), op(EXIT, 0, 0)]);
    program
}

/// Puts the program for `rules` on the cgroup, in the place of an earlier one of ours; programs of others stay.
pub(crate) fn attach(cgroup: &Path, rules: &[Rule], fresh: bool) -> Result<(), Error> {
    let failed = |action: &'static str| move |e: Errno| Error::io(action, cgroup)(e.into());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(cgroup, flags, Mode::empty()).map_err(failed("open cgroup"))?;
    let program = sys::load(&assemble(rules)).map_err(failed("load the device program (bpf) for"))?;
    let old: Vec<OwnedFd> = if fresh { Vec::new() } else { ours(&directory) };
    let attach_failed = failed("attach the device program (bpf) to");
    if let [old] = &old[..] {
        match sys::attach(directory.as_fd(), program.as_fd(), Some(old.as_fd())) {
            // Linux before 5.6 cannot replace; then both are on for a moment, which only denies more.
            Err(Errno::INVAL) => {}
            done => return done.map_err(attach_failed),
        }
    }
    sys::attach(directory.as_fd(), program.as_fd(), None).map_err(&attach_failed)?;
    for old in old {
        sys::detach(directory.as_fd(), old.as_fd()).map_err(&attach_failed)?;
    }
    Ok(())
}

/// Our programs on a cgroup. One that cannot be looked at is not ours.
fn ours(directory: &OwnedFd) -> Vec<OwnedFd> {
    let ids = sys::attached(directory.as_fd()).unwrap_or_default();
    let open = ids.into_iter().filter_map(|id| sys::by_id(id).ok());
    open.filter(|program| sys::name(program.as_fd()).is_ok_and(|name| name == sys::NAME)).collect()
}

/// bpf(2), of which only what a device program needs.
mod sys {
    use super::Insn;
    use rustix::io::Errno;
    use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

    /// The name by which an earlier program of ours is known.
    pub const NAME: [u8; 16] = *b"strata_devices\0\0";
    const CGROUP_DEVICE_PROGRAM: u32 = 15;
    const CGROUP_DEVICE_ATTACH: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    const REPLACE: u32 = 4;
    /// The kernel's limit on programs of one cgroup.
    const MAX_PROGRAMS: usize = 64;

    #[repr(u32)]
    #[derive(Clone, Copy)]
    enum Command {
        Load = 5,
        Attach = 8,
        Detach = 9,
        GetById = 13,
        Info = 15,
        Query = 16,
    }

    #[repr(C)]
    struct LoadArgs {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
    }

    #[repr(C)]
    struct AttachArgs {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
        replace: u32,
    }

    #[repr(C)]
    struct QueryArgs {
        target: u32,
        kind: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
    }

    #[repr(C)]
    struct IdArgs {
        id: u32,
        next: u32,
        flags: u32,
    }

    #[repr(C)]
    struct InfoArgs {
        program: u32,
        length: u32,
        info: u64,
    }

    /// The first words of `struct bpf_prog_info`; the kernel fills as much as it is given.
    #[repr(C)]
    struct Info {
        before_name: [u64; 8],
        name: [u8; 16],
    }

    fn fd(fd: BorrowedFd<'_>) -> u32 {
        // A descriptor is never negative.
        fd.as_raw_fd() as u32
    }

    /// # Safety
    /// `T` must be the part of `union bpf_attr` that `command` reads, and its addresses valid for what the kernel does there.
    unsafe fn bpf<T>(command: Command, args: &mut T) -> Result<RawFd, Errno> {
        // SAFETY: `args` is valid for `size_of::<T>()` bytes in both directions; the rest is the caller's promise.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command as u32, args as *mut T, size_of::<T>()) };
        if result < 0 {
            // SAFETY: errno of this thread.
            Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }))
        } else {
            Ok(result as RawFd)
        }
    }

    pub fn load(program: &[Insn]) -> Result<OwnedFd, Errno> {
        let license = c"MIT";
        let mut args = LoadArgs {
            kind: CGROUP_DEVICE_PROGRAM,
            count: program.len() as u32,
            instructions: program.as_ptr() as u64,
            license: license.as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
            name: NAME,
        };
        // SAFETY: the kernel reads `count` instructions and the license text, both alive here; a success is a new
        // descriptor that nothing else owns.
        unsafe { Ok(OwnedFd::from_raw_fd(bpf(Command::Load, &mut args)?)) }
    }

    pub fn attach(
        cgroup: BorrowedFd<'_>,
        program: BorrowedFd<'_>,
        replace: Option<BorrowedFd<'_>>,
    ) -> Result<(), Errno> {
        let mut args = AttachArgs {
            target: fd(cgroup),
            program: fd(program),
            kind: CGROUP_DEVICE_ATTACH,
            flags: if replace.is_some() { ALLOW_MULTI | REPLACE } else { ALLOW_MULTI },
            replace: replace.map_or(0, fd),
        };
        // SAFETY: no addresses.
        unsafe { bpf(Command::Attach, &mut args) }.map(|_| ())
    }

    pub fn detach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
        let kind = CGROUP_DEVICE_ATTACH;
        let mut args = AttachArgs { target: fd(cgroup), program: fd(program), kind, flags: 0, replace: 0 };
        // SAFETY: no addresses.
        unsafe { bpf(Command::Detach, &mut args) }.map(|_| ())
    }

    /// The ids of the device programs on a cgroup.
    pub fn attached(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
        let mut ids = [0u32; MAX_PROGRAMS];
        let mut args = QueryArgs {
            target: fd(cgroup),
            kind: CGROUP_DEVICE_ATTACH,
            query_flags: 0,
            attach_flags: 0,
            ids: ids.as_mut_ptr() as u64,
            count: MAX_PROGRAMS as u32,
            padding: 0,
        };
        // SAFETY: the kernel writes at most `count` ids, for which there is room.
        unsafe { bpf(Command::Query, &mut args) }?;
        Ok(ids.into_iter().take(args.count as usize).collect())
    }

    pub fn by_id(id: u32) -> Result<OwnedFd, Errno> {
        let mut args = IdArgs { id, next: 0, flags: 0 };
        // SAFETY: no addresses; a success is a new descriptor that nothing else owns.
        unsafe { Ok(OwnedFd::from_raw_fd(bpf(Command::GetById, &mut args)?)) }
    }

    pub fn name(program: BorrowedFd<'_>) -> Result<[u8; 16], Errno> {
        let mut info = Info { before_name: [0; 8], name: [0; 16] };
        let info_at = &raw mut info as u64;
        let mut args = InfoArgs { program: fd(program), length: size_of::<Info>() as u32, info: info_at };
        // SAFETY: the kernel writes at most `length` bytes to `info`; lengths and addresses inside it are zero, so
        // that it writes nowhere else.
        unsafe { bpf(Command::Info, &mut args) }?;
        Ok(info.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::DEFAULT_DEVICE_RULES;
    use proptest::prelude::*;

    /// Runs a program as the kernel would; panics on what its verifier would refuse.
    fn run(program: &[Insn], kind: u32, wanted: u32, major: u32, minor: u32) -> u64 {
        let context = [kind | wanted << 16, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0usize;
        for _ in 0..=program.len() {
            let insn = program[at];
            at += 1;
            let (destination, source) = ((insn.registers & 15) as usize, (insn.registers >> 4) as usize);
            let immediate = insn.immediate as u32;
            let word = registers[destination] as u32;
            match insn.code {
                LOAD_WORD => registers[destination] = context[insn.offset as usize / 4].into(),
                MOVE_REGISTER => registers[destination] = (registers[source] as u32).into(),
                MOVE => registers[destination] = immediate.into(),
                AND => registers[destination] = (word & immediate).into(),
                SHIFT_RIGHT => registers[destination] = (word >> immediate).into(),
                JUMP_EQUAL if registers[destination] == insn.immediate as i64 as u64 => at += insn.offset as usize,
                JUMP_NOT_EQUAL if registers[destination] != insn.immediate as i64 as u64 => at += insn.offset as usize,
                JUMP_EQUAL | JUMP_NOT_EQUAL => {}
                EXIT => return registers[0],
                other => panic!("operation {other:#x}"),
            }
        }
        panic!("no exit");
    }

    /// The same decision, access by access, the last matching rule winning.
    fn decide(rules: &[Rule], kind: Kind, access: u8, major: u32, minor: u32) -> bool {
        [READ, WRITE, MKNOD].iter().filter(|&&bit| access & bit != 0).all(|bit| {
            let matches = |r: &&Rule| {
                r.kind.is_none_or(|k| k == kind)
                    && r.major.is_none_or(|m| m == major)
                    && r.minor.is_none_or(|m| m == minor)
                    && r.access & bit != 0
            };
            rules.iter().rev().find(matches).is_some_and(|r| r.allow)
        })
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let kind = prop_oneof![Just(None), Just(Some(Kind::Block)), Just(Some(Kind::Char))];
        (any::<bool>(), kind, proptest::option::of(0u32..3), proptest::option::of(0u32..3), 1u8..=ALL)
            .prop_map(|(allow, kind, major, minor, access)| Rule { allow, kind, major, minor, access })
    }

    proptest! {
        #[test]
        fn the_program_decides_as_the_list_reads(rules in proptest::collection::vec(any_rule(), 0..8),
                                                 block: bool, access in 1u8..=ALL, major in 0u32..3, minor in 0u32..3) {
            let kind = if block { Kind::Block } else { Kind::Char };
            let program = assemble(&rules);
            let result = run(&program, if block { 1 } else { 2 }, access_bits(access) as u32, major, minor);
            prop_assert_eq!(result == 1, decide(&rules, kind, access, major, minor));
            prop_assert_eq!(program.last().map(|i| i.code), Some(EXIT));
        }
    }

    #[test]
    fn the_default_rules_open_null_and_not_a_disk() {
        let program = assemble(&Rule::check_all(&DEFAULT_DEVICE_RULES).unwrap());
        let (read, write, mknod, block, character) = (2, 4, 1, 1, 2);
        assert_eq!(run(&program, character, read | write, 1, 3), 1);
        assert_eq!(run(&program, character, read, 136, 7), 1);
        assert_eq!(run(&program, block, mknod, 8, 0), 1);
        assert_eq!(run(&program, block, read, 8, 0), 0);
    }

    #[test]
    fn the_kernels_verifier_accepts_the_program() {
        let rules = Rule::check_all(&DEFAULT_DEVICE_RULES).unwrap();
        match sys::load(&assemble(&rules)) {
            Ok(program) => assert_eq!(sys::name(program.as_fd()).unwrap(), sys::NAME),
            Err(Errno::PERM | Errno::NOSYS) => {
                crate::testing::skipped("the_kernels_verifier_accepts_the_program", "bpf(2) is not permitted here");
            }
            Err(e) => panic!("{e}"),
        }
    }
}
