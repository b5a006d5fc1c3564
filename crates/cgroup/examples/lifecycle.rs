//! What a container's cgroup costs on this host: medians of finding the layout, making the cgroup with common limits,
//! opening the files to join by, reading the statistics, and removing it.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::time::{Duration, Instant};
use strata_cgroup::{Cgroup, DEFAULT_DEVICE_RULES, Layout};
use strata_spec::runtime::{Cpu, DeviceRule, Memory, Pids, Resources};

fn main() {
    let rounds = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(200);
    let mut devices = vec![DeviceRule { allow: false, ..DeviceRule::default() }];
    devices.extend(DEFAULT_DEVICE_RULES.iter().cloned());
    let resources = Resources {
        devices,
        memory: Some(Memory { limit: Some(256 << 20), ..Memory::default() }),
        cpu: Some(Cpu { shares: Some(512), ..Cpu::default() }),
        pids: Some(Pids { limit: Some(100) }),
        ..Resources::default()
    };
    let names = ["detect", "create, no limits", "remove", "create, limits", "join handles", "statistics", "remove"];
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); names.len()];
    let path = format!("/strata-lifecycle-{}", std::process::id());
    for _ in 0..rounds {
        let mut at = 0;
        let mut mark = Instant::now();
        let mut done = || {
            times[at].push(mark.elapsed());
            at += 1;
            mark = Instant::now();
        };
        let layout = Layout::detect().unwrap();
        done();
        let bare = Cgroup::create(&layout, Some(&path), "x", &Resources::default()).unwrap();
        done();
        bare.remove().unwrap();
        done();
        let cgroup = Cgroup::create(&layout, Some(&path), "x", &resources).unwrap();
        done();
        let handles = cgroup.join_handles().unwrap();
        done();
        cgroup.stats().unwrap();
        done();
        drop(handles);
        cgroup.remove().unwrap();
        done();
    }
    for (name, mut times) in names.into_iter().zip(times) {
        times.sort();
        let at = |share: usize| times[times.len() * share / 100].as_micros();
        println!("{name:20} median {:6} us   p10 {:6}   p90 {:6}", at(50), at(10), at(90));
    }
}
