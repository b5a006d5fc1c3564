//! Settings of the host that a bridge with address translation needs: forwarding, and the way from 127.0.0.1.
//!
//! What a setting was before is kept in `STATE/network/sysctls.json`. It is not set back: nobody can know whether
//! something else on the host has come to rely on forwarding since.

use std::collections::BTreeMap;
use std::fs;

use crate::error::Error;
use crate::model::Network;
use crate::state::{Files, read, write};

/// Sets what the network needs and is not so yet.
pub(crate) fn prepare(files: &Files, network: &Network) -> Result<(), Error> {
    let mut before: BTreeMap<String, String> = BTreeMap::new();
    if network.ipv4.is_some() {
        if !network.internal {
            set("net/ipv4/ip_forward", "1", &mut before)?;
        }
        // Made harmless by the chain `guard`; see nft.rs.
        set(&format!("net/ipv4/conf/{}/route_localnet", network.bridge), "1", &mut BTreeMap::new())?;
    }
    if network.ipv6.is_some() && !network.internal && value("net/ipv6/conf/all/forwarding").as_deref() == Some("0") {
        // A host that forwards no longer listens to routers, unless told to: it would lose its own default route.
        for entry in fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let path = format!("net/ipv6/conf/{}/accept_ra", name.to_string_lossy());
            if name != "all" && value(&path).as_deref() == Some("1") {
                set(&path, "2", &mut before)?;
            }
        }
        set("net/ipv6/conf/all/forwarding", "1", &mut before)?;
    }
    if !before.is_empty() {
        let path = files.sysctls_path();
        // The oldest value is the one to remember.
        before.extend(read::<BTreeMap<String, String>>(&path)?.unwrap_or_default());
        write(&path, &before)?;
    }
    Ok(())
}

fn path(name: &str) -> std::path::PathBuf {
    std::path::Path::new("/proc/sys").join(name)
}

fn value(name: &str) -> Option<String> {
    fs::read_to_string(path(name)).ok().map(|text| text.trim().to_string())
}

fn set(name: &str, wanted: &str, before: &mut BTreeMap<String, String>) -> Result<(), Error> {
    let was = value(name);
    if was.as_deref() != Some(wanted) {
        fs::write(path(name), wanted).map_err(|error| Error::file("set", &path(name), error))?;
        before.extend(was.map(|was| (name.replace('/', "."), was)));
    }
    Ok(())
}

/// Whether the kernel has IPv6 in this network namespace.
pub(crate) fn has_ipv6() -> bool {
    value("net/ipv6/conf/all/disable_ipv6").as_deref() == Some("0")
}
