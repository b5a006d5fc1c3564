//! The options of a mount (OCI runtime-spec, `config.md`, "Linux mount options"), sorted by who understands them: the
//! mount (`mount_setattr(2)`), the file system's instance, the propagation, this runtime, and, for everything else, the
//! file system itself.

use rustix::mount::MountPropagationFlags as Propagation;
use strata_spec::runtime::Mount;

/// Attributes of `mount_setattr(2)` to set and to clear.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub set: u64,
    pub clear: u64,
}

impl Attributes {
    pub(crate) fn is_empty(self) -> bool {
        self == Attributes::default()
    }

    fn apply(&mut self, change: Attributes) {
        self.set = self.set & !change.clear | change.set;
        self.clear = self.clear & !change.set | change.clear;
        // Setting an access-time mode means leaving whichever was set, so the mask is always cleared with it.
        if change.clear & ATIME != 0 {
            self.clear |= ATIME;
        }
    }
}

const ATIME: u64 = libc::MOUNT_ATTR__ATIME;

/// Whether ids are shown mapped.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdMap {
    #[default]
    No,
    /// The mount only.
    Mount,
    /// And those below.
    Recursive,
}

/// Sorted options.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub attributes: Attributes,
    pub recursive: Attributes,
    /// Flags of the instance (superblock), by fsconfig key.
    pub instance: Vec<&'static str>,
    pub propagation: Vec<Propagation>,
    pub bind: bool,
    /// The bind takes along what is mounted below.
    pub recursive_bind: bool,
    pub remount: bool,
    pub copy_up: bool,
    pub id_map: IdMap,
    /// Key, and value if one is given.
    pub data: Vec<(String, Option<String>)>,
}

const fn set(set: u64) -> Attributes {
    Attributes { set, clear: 0 }
}

const fn clear(clear: u64) -> Attributes {
    Attributes { set: 0, clear }
}

const fn atime(set: u64) -> Attributes {
    Attributes { set, clear: ATIME }
}

/// Options of the mount itself; with `r` before the name, of the mounts below too.
const ATTRIBUTES: &[(&str, Attributes)] = &[
    ("ro", set(libc::MOUNT_ATTR_RDONLY)),
    ("rw", clear(libc::MOUNT_ATTR_RDONLY)),
    ("nosuid", set(libc::MOUNT_ATTR_NOSUID)),
    ("suid", clear(libc::MOUNT_ATTR_NOSUID)),
    ("nodev", set(libc::MOUNT_ATTR_NODEV)),
    ("dev", clear(libc::MOUNT_ATTR_NODEV)),
    ("noexec", set(libc::MOUNT_ATTR_NOEXEC)),
    ("exec", clear(libc::MOUNT_ATTR_NOEXEC)),
    ("nodiratime", set(libc::MOUNT_ATTR_NODIRATIME)),
    ("diratime", clear(libc::MOUNT_ATTR_NODIRATIME)),
    ("relatime", atime(libc::MOUNT_ATTR_RELATIME)),
    ("norelatime", atime(libc::MOUNT_ATTR_STRICTATIME)),
    ("noatime", atime(libc::MOUNT_ATTR_NOATIME)),
    ("atime", atime(libc::MOUNT_ATTR_RELATIME)),
    ("strictatime", atime(libc::MOUNT_ATTR_STRICTATIME)),
    ("nostrictatime", atime(libc::MOUNT_ATTR_RELATIME)),
    ("nosymfollow", set(libc::MOUNT_ATTR_NOSYMFOLLOW)),
    ("symfollow", clear(libc::MOUNT_ATTR_NOSYMFOLLOW)),
];

/// Options of the instance. The key is what fsconfig(2) calls it; the opposite of a default has none.
const INSTANCE: &[(&str, Option<&str>)] = &[
    ("sync", Some("sync")),
    ("async", None),
    ("dirsync", Some("dirsync")),
    ("lazytime", Some("lazytime")),
    ("nolazytime", None),
    ("mand", Some("mand")),
    ("nomand", None),
    ("iversion", Some("iversion")),
    ("noiversion", None),
    ("silent", None),
    ("loud", None),
];

const PROPAGATION: &[(&str, Propagation)] = &[
    ("private", Propagation::PRIVATE),
    ("rprivate", Propagation::PRIVATE.union(Propagation::REC)),
    ("shared", Propagation::SHARED),
    ("rshared", Propagation::SHARED.union(Propagation::REC)),
    ("slave", Propagation::DOWNSTREAM),
    ("rslave", Propagation::DOWNSTREAM.union(Propagation::REC)),
    ("unbindable", Propagation::UNBINDABLE),
    ("runbindable", Propagation::UNBINDABLE.union(Propagation::REC)),
];

/// Options that only this runtime understands.
const OWN: &[&str] = &["bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap", "defaults"];

/// Every option with a meaning of its own, for the features document.
pub(crate) fn known() -> Vec<String> {
    let mut names: Vec<String> = OWN.iter().map(|n| (*n).to_owned()).collect();
    names.extend(INSTANCE.iter().map(|(n, _)| (*n).to_owned()));
    names.extend(PROPAGATION.iter().map(|(n, _)| (*n).to_owned()));
    names.extend(ATTRIBUTES.iter().flat_map(|(n, _)| [(*n).to_owned(), format!("r{n}")]));
    names.sort_unstable();
    names
}

/// The flags of a propagation by its name.
pub(crate) fn propagation(name: &str) -> Option<Propagation> {
    PROPAGATION.iter().find(|(n, _)| *n == name).map(|(_, flags)| *flags)
}

/// Sorts a mount's options. The error says which one is wrong and why.
pub(crate) fn parse(mount: &Mount) -> Result<Options, String> {
    let mut options = Options::default();
    let kind = mount.kind.as_deref().unwrap_or_default();
    options.bind = kind == "bind";
    for option in
        mount.options.iter().flat_map(|o| if o.contains('"') { vec![o.as_str()] } else { o.split(',').collect() })
    {
        let find = |name: &str| ATTRIBUTES.iter().find(|(n, _)| *n == name).map(|(_, change)| *change);
        if let Some(change) = find(option) {
            options.attributes.apply(change);
        } else if let Some(change) = option.strip_prefix('r').and_then(find) {
            options.recursive.apply(change);
        } else if let Some((_, key)) = INSTANCE.iter().find(|(n, _)| *n == option) {
            options.instance.extend(*key);
        } else if let Some(flags) = propagation(option) {
            options.propagation.push(flags);
        } else {
            match option {
                "" | "defaults" => {}
                "bind" => options.bind = true,
                "rbind" => (options.bind, options.recursive_bind) = (true, true),
                "remount" => options.remount = true,
                "tmpcopyup" => options.copy_up = true,
                "idmap" => options.id_map = IdMap::Mount,
                "ridmap" => options.id_map = IdMap::Recursive,
                data => options.data.push(match data.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (data.to_owned(), None),
                }),
            }
        }
    }
    if options.id_map == IdMap::No && !mount.uid_mappings.is_empty() {
        options.id_map = if options.recursive_bind { IdMap::Recursive } else { IdMap::Mount };
    }
    if options.id_map != IdMap::No && !options.bind {
        return Err("idmap needs a bind mount".into());
    }
    if options.copy_up && kind != "tmpfs" {
        return Err(format!("tmpcopyup needs a tmpfs, not {kind:?}"));
    }
    if options.bind && mount.source.is_none() && !options.remount {
        return Err("a bind mount needs a source".into());
    }
    if !options.bind && !options.remount && kind.is_empty() {
        return Err("a mount without a type must have the option bind or rbind".into());
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(kind: &str, options: &[&str]) -> Result<Options, String> {
        parse(&Mount {
            destination: "/x".into(),
            kind: Some(kind.into()),
            source: Some("s".into()),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
            ..Mount::default()
        })
    }

    #[test]
    fn the_last_of_opposites_wins() {
        let o = options("tmpfs", &["ro", "nosuid", "rw", "mode=755", "huge"]).unwrap();
        assert_eq!(o.attributes, Attributes { set: libc::MOUNT_ATTR_NOSUID, clear: libc::MOUNT_ATTR_RDONLY });
        assert_eq!(o.data, [("mode".into(), Some("755".into())), ("huge".into(), None)]);
    }

    #[test]
    fn an_access_time_mode_replaces_the_other() {
        let o = options("bind", &["noatime", "strictatime"]).unwrap();
        assert_eq!(o.attributes.set & ATIME, libc::MOUNT_ATTR_STRICTATIME);
        assert_eq!(o.attributes.clear & ATIME, ATIME);
        let o = options("bind", &["rnoatime"]).unwrap();
        assert_eq!(o.recursive.set, libc::MOUNT_ATTR_NOATIME);
        assert!(o.attributes.is_empty());
    }

    #[test]
    fn binds_and_their_flags() {
        let o = options("none", &["rbind", "rprivate", "rro"]).unwrap();
        assert!(o.bind && o.recursive_bind);
        assert_eq!(o.propagation, [Propagation::PRIVATE | Propagation::REC]);
        assert_eq!(o.recursive.set, libc::MOUNT_ATTR_RDONLY);
        assert!(options("tmpfs", &["idmap"]).is_err());
        assert!(options("proc", &["tmpcopyup"]).is_err());
        assert_eq!(options("bind", &["ridmap"]).unwrap().id_map, IdMap::Recursive);
    }

    #[test]
    fn every_known_option_is_known() {
        for name in known() {
            let o = options(if name == "tmpcopyup" { "tmpfs" } else { "bind" }, &[&name]).unwrap();
            assert!(o.data.is_empty(), "{name}");
        }
    }
}
