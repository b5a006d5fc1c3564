//! What is measured, and why boundaries differ in it.
//!
//! Most measures are taken by the project's multi-call program inside the boundary (`toolbox bench NAME --json`, one JSON line);
//! starting and resident memory can only be seen from outside. Units and good directions of the former come with
//! its figures.

use crate::units::Better;

/// Where a measure's figure comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The multi-call program's measure of the same name, taken inside.
    Inside,
    /// Wall time of starting `true` and waiting for everything to end.
    Start,
    /// Memory while a workload sleeps.
    Resident,
    /// Wall time of the user's command.
    CommandWall,
    /// Processor time of the user's command and its boundary.
    CommandCpu,
    /// Peak memory of the user's command and its boundary.
    CommandPeak,
}

/// One thing measured behind every boundary.
#[derive(Debug, PartialEq, Eq)]
pub struct Measure {
    /// Short stable name; for [`Source::Inside`] the multi-call program's.
    pub name: &'static str,
    /// Name for headings.
    pub title: &'static str,
    /// Heading of the group.
    pub group: &'static str,
    /// What it is and whose mechanism makes it slow.
    pub about: &'static str,
    /// Where the figure comes from.
    pub source: Source,
    /// Unit, unless the figure brings its own.
    pub unit: &'static str,
    /// Good direction, unless the figure brings its own.
    pub better: Better,
}

const STARTING: &str = "Starting and standing by";
const COMPUTING: &str = "Computing";
const KERNEL: &str = "Asking the kernel";
const STORAGE: &str = "Files";
const NETWORK: &str = "Network";
const COMMAND: &str = "The command";

const fn outside(
    name: &'static str,
    title: &'static str,
    group: &'static str,
    source: Source,
    unit: &'static str,
    about: &'static str,
) -> Measure {
    Measure { name, title, group, about, source, unit, better: Better::Lower }
}

const fn inside(
    name: &'static str,
    title: &'static str,
    group: &'static str,
    unit: &'static str,
    better: Better,
    about: &'static str,
) -> Measure {
    Measure { name, title, group, about, source: Source::Inside, unit, better }
}

/// Every measure, in the order of the report. Those of a user's command come last.
pub static MEASURES: &[Measure] = &[
    outside(
        "start",
        "Start to exit",
        STARTING,
        Source::Start,
        "ns",
        "A program that does nothing, from starting the boundary's own program on the host to the end of that. A container pays for namespaces, mounts and cgroups; a kernel in user space also for starting that kernel; a machine boots a whole kernel and powers off.",
    ),
    outside(
        "resident",
        "Memory standing by",
        STARTING,
        Source::Resident,
        "B",
        "Proportional set size of every process the boundary needs while the workload only sleeps. A container keeps one small supervisor at most; a kernel in user space keeps its own tables; a machine keeps its monitor and the guest's memory touched so far.",
    ),
    inside(
        "integer",
        "Integer arithmetic",
        COMPUTING,
        "kops/s",
        Better::Higher,
        "Random numbers, a sieve and Collatz paths. Wherever the processor executes the workload's instructions itself this is the bare host's figure; only software that translates instructions pays.",
    ),
    inside(
        "float",
        "Floating point",
        COMPUTING,
        "GFLOP/s",
        Better::Higher,
        "A product of matrices, with vector instructions where the processor shows them. Translators usually compute it in software to be exact, which makes it their worst case.",
    ),
    inside(
        "hash",
        "Hashing",
        COMPUTING,
        "MB/s",
        Better::Higher,
        "SHA-256 in ordinary instructions: arithmetic with loads, as in compression and encryption.",
    ),
    inside(
        "membw",
        "Memory bandwidth",
        COMPUTING,
        "GB/s",
        Better::Higher,
        "Copying large blocks. Translators pay for every address they must look up; nested page tables cost little here.",
    ),
    inside(
        "memlat",
        "Memory latency",
        COMPUTING,
        "ns",
        Better::Lower,
        "A chain of dependent loads over much memory. Two levels of page tables make each miss of the address cache dearer; small pages behind the boundary show here too.",
    ),
    inside(
        "syscall",
        "System call",
        KERNEL,
        "ns",
        Better::Lower,
        "The cheapest call. Containers ask the host's kernel directly (a filter adds a little); a kernel in user space must catch the call first, by a signal or a trap; a guest's kernel answers it without leaving the machine.",
    ),
    inside(
        "fork",
        "Fork, exit, wait",
        KERNEL,
        "us",
        Better::Lower,
        "Copying a process. Page tables are copied and write-protected: cheap in hardware, dear where a user-space kernel or translator maintains address spaces itself.",
    ),
    inside(
        "forkexec",
        "Fork, exec, exit, wait",
        KERNEL,
        "us",
        Better::Lower,
        "Starting a program, as shells and build systems do all day: a new address space filled page by page, and new code for a translator.",
    ),
    inside(
        "pagefault",
        "Map, touch, unmap",
        KERNEL,
        "ns",
        Better::Lower,
        "One page of fresh memory, from the call that maps it to the one that unmaps it. In a machine the guest's and then the host's kernel may fault; in a user-space kernel the fault is a signal answered by a mapping call.",
    ),
    inside(
        "pipe",
        "Pipe round trip",
        KERNEL,
        "us",
        Better::Lower,
        "Two processes waking each other. It measures the scheduler: inside a machine sleeping processors must be woken through the boundary.",
    ),
    inside(
        "file",
        "A small file's life",
        STORAGE,
        "us",
        Better::Lower,
        "Create, write 4 KiB, read back, remove: path walks. A kernel in user space asks a file server process or checks every step itself.",
    ),
    inside(
        "seqio",
        "Sequential I/O",
        STORAGE,
        "MB/s",
        Better::Higher,
        "64 MiB written, forced to the disk and read back. Machines work on a file tree in their memory here, for which forcing is free, and gVisor on an overlay of its own.",
    ),
    inside(
        "randio",
        "Random writes",
        STORAGE,
        "IOPS",
        Better::Higher,
        "4 KiB at random places of one file, into the page cache of whichever kernel answers: mostly the cost of a call and a copy.",
    ),
    inside(
        "tcprtt",
        "TCP round trip",
        NETWORK,
        "us",
        Better::Lower,
        "One byte there and back over the loopback interface of the kernel that answers: four system calls and two wake-ups.",
    ),
    inside(
        "tcpbw",
        "TCP bandwidth",
        NETWORK,
        "GB/s",
        Better::Higher,
        "Bulk data over loopback: a user-space network stack processes each segment itself.",
    ),
    outside(
        "wall",
        "Wall time",
        COMMAND,
        Source::CommandWall,
        "ns",
        "From starting the boundary's program on the host to its end: starting is included.",
    ),
    outside(
        "cpu",
        "Processor time",
        COMMAND,
        Source::CommandCpu,
        "ns",
        "User and system time of every process the boundary needed, starting included.",
    ),
    outside(
        "peak",
        "Peak memory",
        COMMAND,
        Source::CommandPeak,
        "B",
        "Largest sum of proportional set sizes of all processes the boundary needed, sampled in runs of their own, and never less than the largest resident set of one of them.",
    ),
];

impl Measure {
    /// The measure of that name.
    pub fn named(name: &str) -> Option<&'static Measure> {
        MEASURES.iter().find(|m| m.name == name)
    }

    /// Whether it belongs to a user's command and not to the built-in suite.
    pub fn of_command(&self) -> bool {
        matches!(self.source, Source::CommandWall | Source::CommandCpu | Source::CommandPeak)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for m in MEASURES {
            assert_eq!(Measure::named(m.name), Some(m), "{}", m.name);
            assert!(m.about.ends_with('.'));
        }
        assert_eq!(Measure::named("nonsense"), None);
    }

    #[test]
    fn groups_are_contiguous() {
        let mut groups: Vec<_> = MEASURES.iter().map(|m| m.group).collect();
        groups.dedup();
        let count = groups.len();
        groups.sort_unstable();
        groups.dedup();
        assert_eq!(groups.len(), count, "a group appears twice");
    }
}
