//! What is on disk: definitions of networks below the store, everything about running instances below the state
//! directory, which a reboot empties as it empties the kernel.
//!
//! ```text
//! STORE/networks/NAME.json                     a network
//! STATE/network/lock                           held while any of this changes
//! STATE/network/instances/ID.json              the attachments of an instance, written before anything else is made
//! STATE/network/leases/ADDRESS -> ID           who holds an address
//! STATE/network/names/NETWORK/NAME/ID -> ADDRESSES
//! STATE/network/next/NETWORK -> OFFSET         where the search for a free address goes on
//! STATE/network/sysctls.json                   settings of the host as they were before Strata changed them
//! ```
//!
//! A lease and a name are symbolic links that lead nowhere: one system call makes such a link with what it says, or
//! fails because it is there, and nothing can be seen half written.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::model::{Attachment, Network};

/// Files of one store and one state directory.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    networks: PathBuf,
    state: PathBuf,
}

/// Held while files change; released when dropped, or when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Files {
    pub(crate) fn open(store: &Path, state: &Path) -> Result<Files, Error> {
        let files = Files { networks: store.join("networks"), state: state.join("network") };
        let directories = ["instances", "leases", "names", "next"].map(|name| files.state.join(name));
        if !directories[3].exists() {
            for directory in &directories {
                fs::create_dir_all(directory).map_err(|e| Error::file("make", directory, e))?;
            }
        }
        Ok(files)
    }

    pub(crate) fn lock(&self) -> Result<Lock, Error> {
        let path = self.state.join("lock");
        let file = File::options().create(true).append(true).open(&path).map_err(|e| Error::file("open", &path, e))?;
        rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))
            .map_err(|e| Error::file("lock", &path, e))?;
        Ok(Lock { _file: file })
    }

    fn network_path(&self, name: &str) -> PathBuf {
        self.networks.join(format!("{name}.json"))
    }

    pub(crate) fn network(&self, name: &str) -> Result<Option<Network>, Error> {
        read(&self.network_path(name))
    }

    pub(crate) fn write_network(&self, network: &Network) -> Result<(), Error> {
        fs::create_dir_all(&self.networks).map_err(|e| Error::file("make", &self.networks, e))?;
        write(&self.network_path(&network.name), network)
    }

    pub(crate) fn remove_network(&self, name: &str) -> Result<(), Error> {
        // Names of instances that are gone may be left.
        let _ = fs::remove_dir_all(self.state.join("names").join(name));
        let _ = fs::remove_file(self.state.join("next").join(name));
        remove(&self.network_path(name))
    }

    /// Every network, by name.
    pub(crate) fn networks(&self) -> Result<Vec<Network>, Error> {
        let mut networks = Vec::new();
        for name in names(&self.networks)? {
            if let Some(name) = name.strip_suffix(".json") {
                networks.extend(self.network(name)?);
            }
        }
        networks.sort_by(|a: &Network, b: &Network| a.name.cmp(&b.name));
        Ok(networks)
    }

    pub(crate) fn attachments_path(&self, instance: &str) -> PathBuf {
        self.state.join("instances").join(format!("{instance}.json"))
    }

    /// The attachments of an instance.
    pub(crate) fn attachments(&self, instance: &str) -> Result<Vec<Attachment>, Error> {
        Ok(read(&self.attachments_path(instance))?.unwrap_or_default())
    }

    pub(crate) fn write_attachments(&self, instance: &str, attachments: &[Attachment]) -> Result<(), Error> {
        match attachments {
            [] => remove(&self.attachments_path(instance)),
            _ => write(&self.attachments_path(instance), &attachments),
        }
    }

    /// Ids of all instances with attachments.
    pub(crate) fn instances(&self) -> Result<Vec<String>, Error> {
        let all = names(&self.state.join("instances"))?;
        Ok(all.iter().filter_map(|name| Some(name.strip_suffix(".json")?.to_string())).collect())
    }

    /// The attachments of all instances.
    pub(crate) fn all_attachments(&self) -> Result<Vec<Attachment>, Error> {
        let mut all = Vec::new();
        for instance in self.instances()? {
            all.extend(self.attachments(&instance)?);
        }
        Ok(all)
    }

    /// Takes an address for an instance; `false` if somebody has it.
    pub(crate) fn lease(&self, address: IpAddr, instance: &str) -> Result<bool, Error> {
        let path = self.lease_path(address);
        match symlink(instance, &path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(Error::file("make", &path, error)),
        }
    }

    fn lease_path(&self, address: IpAddr) -> PathBuf {
        self.state.join("leases").join(address.to_string())
    }

    /// Who holds an address.
    pub(crate) fn holder(&self, address: IpAddr) -> Option<String> {
        fs::read_link(self.lease_path(address)).ok()?.into_os_string().into_string().ok()
    }

    pub(crate) fn release(&self, attachment: &Attachment) {
        let v4 = attachment.ipv4.map(|(address, _)| IpAddr::from(address));
        let v6 = attachment.ipv6.map(|(address, _)| IpAddr::from(address));
        for address in [v4, v6].into_iter().flatten() {
            if self.holder(address).as_deref() == Some(&attachment.instance) {
                let _ = fs::remove_file(self.lease_path(address));
            }
        }
        for name in std::iter::once(&attachment.instance).chain(&attachment.aliases) {
            let directory = self.name_path(&attachment.network, name);
            let _ = fs::remove_file(directory.join(&attachment.instance));
            // Goes only when nobody else has the name.
            let _ = fs::remove_dir(directory);
        }
    }

    fn name_path(&self, network: &str, name: &str) -> PathBuf {
        self.state.join("names").join(network).join(name.to_ascii_lowercase())
    }

    /// Lets an attachment be found by its names.
    pub(crate) fn announce(&self, attachment: &Attachment) -> Result<(), Error> {
        let v4 = attachment.ipv4.map(|(address, _)| address.to_string());
        let v6 = attachment.ipv6.map(|(address, _)| address.to_string());
        let addresses: Vec<String> = [v4, v6].into_iter().flatten().collect();
        for name in std::iter::once(&attachment.instance).chain(&attachment.aliases) {
            let directory = self.name_path(&attachment.network, name);
            fs::create_dir_all(&directory).map_err(|e| Error::file("make", &directory, e))?;
            let path = directory.join(&attachment.instance);
            // A network without addresses has nothing to say, and a link cannot be empty.
            match symlink(format!("{},", addresses.join(",")), &path) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(Error::file("make", &path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Addresses of the instances that have this name on a network; nothing if there is none.
    pub(crate) fn lookup(&self, network: &str, name: &str) -> Option<Vec<IpAddr>> {
        let mut addresses = Vec::new();
        let mut entries = fs::read_dir(self.name_path(network, name)).ok()?.flatten().peekable();
        entries.peek()?;
        for entry in entries {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            addresses.extend(target.to_string_lossy().split(',').filter_map(|text| text.parse::<IpAddr>().ok()));
        }
        Some(addresses)
    }

    /// Where the search for an address of this network goes on.
    pub(crate) fn next(&self, network: &str) -> u128 {
        let path = self.state.join("next").join(network);
        fs::read_link(path).ok().and_then(|target| target.to_str()?.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn set_next(&self, network: &str, offset: u128) {
        // If this is lost, the search begins at the start.
        let path = self.state.join("next").join(network);
        let _ = fs::remove_file(&path);
        let _ = symlink(offset.to_string(), path);
    }

    /// Removes leases and names of instances that are gone; returns how many.
    pub(crate) fn sweep(&self, alive: &dyn Fn(&str) -> bool) -> Result<usize, Error> {
        let mut swept = 0;
        let leases = self.state.join("leases");
        for name in names(&leases)? {
            let path = leases.join(&name);
            let holder = fs::read_link(&path).unwrap_or_default();
            if holder.to_str().is_none_or(|id| !alive(id)) && fs::remove_file(&path).is_ok() {
                swept += 1;
            }
        }
        let networks = self.state.join("names");
        for network in names(&networks)? {
            let directory = networks.join(network);
            for name in names(&directory)? {
                let directory = directory.join(name);
                for id in names(&directory)? {
                    if !alive(&id) && fs::remove_file(directory.join(&id)).is_ok() {
                        swept += 1;
                    }
                }
                let _ = fs::remove_dir(directory);
            }
            let _ = fs::remove_dir(directory);
        }
        // A write that a kill interrupted.
        for directory in [&self.networks, &self.state.join("instances")] {
            for name in names(directory)? {
                if name.ends_with(".new") {
                    let _ = fs::remove_file(directory.join(name));
                }
            }
        }
        Ok(swept)
    }

    pub(crate) fn sysctls_path(&self) -> PathBuf {
        self.state.join("sysctls.json")
    }
}

/// Names in a directory; none if there is no directory.
fn names(directory: &Path) -> Result<Vec<String>, Error> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::file("read", directory, error)),
    }
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::file("read", path, error)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Error::Damaged { path: path.to_path_buf(), reason: format!("{error}; remove the file") })
}

/// Writes a file as a whole or not at all.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let new = path.with_extension("json.new");
    let result = serde_json::to_vec_pretty(value).map_err(io::Error::from).and_then(|bytes| {
        let mut file = File::create(&new)?;
        file.write_all(&bytes)?;
        fs::rename(&new, path)
    });
    result.map_err(|error| {
        let _ = fs::remove_file(&new);
        Error::file("write", path, error)
    })
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::file("remove", path, error)),
        _ => Ok(()),
    }
}
