//! `/proc/self/mountinfo` and `/proc/self/cgroup`: the kernel's, but with names that anybody who may mount or make
//! a cgroup has chosen. The two texts are separated by a NUL byte.

use strata_cgroup::Layout;

pub fn fuzz_one(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (mountinfo, own) = text.split_once('\0').unwrap_or((&text, ""));
    let Ok(layout) = Layout::detect_from(mountinfo, own) else { return };
    for hierarchy in layout.v1().iter().chain(layout.v2()) {
        assert!(hierarchy.own.starts_with('/'), "a cgroup's path is absolute: {hierarchy:?}");
        assert!(!hierarchy.own.split('/').any(|part| part == ".."), "a cgroup's path stays inside: {hierarchy:?}");
    }
    let _ = layout.controllers();
}
