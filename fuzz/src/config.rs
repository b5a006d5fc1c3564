//! A bundle's `config.json`, which comes with an image or from a client.

use std::path::Path;

use strata_seccomp::model::{AUDIT_ARCH_X86_64, SeccompData, interpret};
use strata_spec::runtime::Spec;

pub fn fuzz_one(data: &[u8]) {
    // An error message is made by a scan of its own.
    let Ok(spec) = strata_container::parse_spec(Path::new("config.json"), data) else { return };
    let _ = strata_container::validate(&spec);
    let text = serde_json::to_vec(&spec).expect("what was read can be written");
    let again: Spec = serde_json::from_slice(&text).expect("what was written can be read");
    assert_eq!(spec, again, "a round trip changes the configuration");

    let Some(profile) = spec.linux.as_ref().and_then(|l| l.seccomp.as_ref()) else { return };
    if let Ok(program) = strata_seccomp::compile(profile) {
        let call = SeccompData { nr: 0, arch: AUDIT_ARCH_X86_64, instruction_pointer: 0, args: [0; 6] };
        interpret(&program.instructions, &call).expect("the kernel accepts a compiled filter");
    }
}
