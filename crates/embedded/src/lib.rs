//! The program of the embedded image, as bytes in the command.
//!
//! It is the toolbox: one static program that is a shell, the small commands people try first, and the workloads of
//! `strata compare`, so that the main job needs no network and no other image.

#![forbid(unsafe_code)]

/// The static program, an ELF file. `--list` prints the names under which it is to be called.
pub static TOOLBOX: &[u8] = include_bytes!(env!("STRATA_TOOLBOX"));

#[cfg(test)]
mod tests {
    #[test]
    fn the_program_is_a_static_elf_file() {
        assert!(super::TOOLBOX.starts_with(b"\x7fELF"));
        // A dynamic one would name its loader.
        let loader = b"/ld-linux";
        assert!(!super::TOOLBOX.windows(loader.len()).any(|window| window == loader));
    }
}
