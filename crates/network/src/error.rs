//! What can go wrong with networks.

use std::io;
use std::path::{Path, PathBuf};

/// Why an operation on networks failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value that the user gave is none that this field can have.
    #[error("{what} {value:?} is not valid: {expected}")]
    Invalid {
        /// The field.
        what: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// No network has this name.
    #[error("there is no network {0:?}: `strata network ls` lists those there are, `strata network create` makes one")]
    NotFound(String),
    /// A network has this name already.
    #[error("a network {0:?} exists already: choose another name, or remove it with `strata network rm`")]
    Exists(String),
    /// Instances use the network.
    #[error("the network {network:?} is used by {instances}: remove these instances first")]
    InUse {
        /// The network.
        network: String,
        /// Ids, separated by commas.
        instances: String,
    },
    /// The instance is attached to this network already.
    #[error("the instance {instance:?} is attached to the network {network:?} already")]
    Attached {
        /// The instance.
        instance: String,
        /// The network.
        network: String,
    },
    /// A subnet covers addresses that something else uses.
    #[error("the subnet {subnet} overlaps with {other}: choose one that the host and its networks do not use")]
    Overlap {
        /// What was asked for.
        subnet: String,
        /// What is there.
        other: String,
    },
    /// Every address of the subnet is leased.
    #[error(
        "every address of {subnet} in the network {network:?} is taken: make a network with a larger subnet, or run `strata gc`"
    )]
    NoAddress {
        /// The network.
        network: String,
        /// The subnet.
        subnet: String,
    },
    /// An address was asked for that another instance holds.
    #[error("the address {address} is taken by {holder}: choose another one of the subnet")]
    AddressTaken {
        /// The address.
        address: String,
        /// Who holds it.
        holder: String,
    },
    /// A host port cannot be published.
    #[error("the host port {port} cannot be published: {reason}")]
    PortTaken {
        /// Address, port and protocol.
        port: String,
        /// Who holds it.
        reason: String,
    },
    /// The kernel lacks something.
    #[error("{what}: this kernel has no {part} ({hint})")]
    Missing {
        /// What was being done.
        what: String,
        /// The part.
        part: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// The process may not.
    #[error(
        "{what}: not permitted; this needs CAP_NET_ADMIN in the host's network namespace (without root, use rootless networking)"
    )]
    NotPermitted {
        /// What was being done.
        what: String,
    },
    /// The kernel refused.
    #[error("{what}: {source}")]
    Kernel {
        /// What was being done.
        what: String,
        /// Its answer.
        source: io::Error,
    },
    /// A file could not be read or written.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was being done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file of this crate's own does not hold what it should.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Neither program for networks without root is installed.
    #[error(
        "a network without root needs pasta (Debian package passt) or slirp4netns, and neither is in PATH: install one, or run with --network none or host"
    )]
    NoRootlessProgram,
    /// The program for networks without root failed.
    #[error("{program} did not connect the instance: {reason}")]
    Rootless {
        /// The program.
        program: String,
        /// What it said.
        reason: String,
    },
}

impl Error {
    pub(crate) fn file(what: &'static str, path: &Path, source: impl Into<io::Error>) -> Error {
        Error::File { what, path: path.to_path_buf(), source: source.into() }
    }

    pub(crate) fn invalid(what: &'static str, value: impl Into<String>, expected: impl Into<String>) -> Error {
        Error::Invalid { what, value: value.into(), expected: expected.into() }
    }

    /// An answer of the kernel to a request, told apart by what it means.
    pub(crate) fn kernel(what: impl Into<String>, part: Part, source: io::Error) -> Error {
        let what = what.into();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Error::NotPermitted { what },
            // rtnetlink says EOPNOTSUPP for an unknown kind of link, sockets and nf_tables the others.
            Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => part.missing(what),
            Some(libc::ENOENT) if part == Part::NfTables => part.missing(what),
            _ => Error::Kernel { what, source },
        }
    }
}

/// A part of the kernel that a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Bridge,
    VlanFilter,
    Veth,
    NfTables,
    Routing,
}

impl Part {
    fn missing(self, what: String) -> Error {
        let (part, hint) = match self {
            Part::Bridge => ("bridges", "module bridge: `modprobe bridge`, CONFIG_BRIDGE"),
            Part::VlanFilter => ("VLAN filter in its bridges", "CONFIG_BRIDGE_VLAN_FILTERING"),
            Part::Veth => ("veth pairs", "module veth: `modprobe veth`, CONFIG_VETH"),
            Part::NfTables => (
                "nf_tables with NAT",
                "modules nf_tables, nft_chain_nat, nft_masq, nft_ct, nft_fib_inet: `modprobe nf_tables`, CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT",
            ),
            Part::Routing => ("such addresses or routes", "CONFIG_INET, CONFIG_IPV6"),
        };
        Error::Missing { what, part, hint }
    }
}
