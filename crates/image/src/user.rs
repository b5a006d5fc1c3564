//! Names of users in an image (OCI image-spec `config.md`, `User`): `user`, `uid`, `user:group`, `uid:gid`, `uid:group`,
//! `user:gid`, looked up in the image's own `/etc/passwd` and `/etc/group` (passwd(5), group(5)).
//!
//! The image is untrusted: its `/etc` may be a symbolic link to `/`, its `passwd` a FIFO or endless. The files are opened
//! by `openat2` with `RESOLVE_IN_ROOT`, so that links stay inside the root file system; only regular files are
//! read, and only 1 MiB of them.

use std::{fs::File, io::Read, path::Path};

use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2},
    io::Errno,
};
use strata_spec::runtime::User;

use crate::Error;

/// Bytes read of `passwd` and `group`.
const FILE_MAX: u64 = 1 << 20;

/// Resolves `user[:group]` against the root file system at `rootfs`. Without group the user's own is taken, and the groups
/// that list the user are added; a number without entry in `passwd` is taken as it is, with group 0. Empty is root.
pub fn resolve_user(rootfs: &Path, text: &str) -> Result<User, Error> {
    let passwd = read(rootfs, "etc/passwd", text)?;
    let group = read(rootfs, "etc/group", text)?;
    resolve(&passwd, &group, text)
}

fn read(rootfs: &Path, name: &str, user: &str) -> Result<String, Error> {
    let error = |errno: Errno| Error::User {
        user: user.to_owned(),
        reason: format!("cannot read /{name} of the image: {errno}"),
    };
    let root = openat(rustix::fs::CWD, rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::io("cannot open", rootfs))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let fd = match openat2(&root, name, flags, Mode::empty(), resolve) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(String::new()),
        Err(errno) => return Err(error(errno)),
    };
    if FileType::from_raw_mode(fstat(&fd).map_err(error)?.st_mode) != FileType::RegularFile {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    File::from(fd).take(FILE_MAX).read_to_end(&mut bytes).map_err(Error::io("cannot read", &rootfs.join(name)))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The lookup itself, over the text of the two files.
pub fn resolve(passwd: &str, group: &str, text: &str) -> Result<User, Error> {
    let fail = |reason: String| Error::User { user: text.to_owned(), reason };
    let (name, group_name) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (text, None),
    };
    if group_name.is_some_and(|group| group.is_empty() || group.contains(':')) {
        return Err(fail("the group is malformed (want user[:group])".to_owned()));
    }
    let name = if name.is_empty() { "0" } else { name };
    let number = id(name);
    // A name that is a number may still be a user's name; the name wins, as in Docker.
    let entries = || passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() >= 4);
    let entry = entries().find(|fields| fields[0] == name).or_else(|| {
        let wanted = number?;
        entries().find(|fields| id(fields[2]) == Some(wanted))
    });
    let mut user = User::default();
    match (&entry, number) {
        (Some(fields), _) => {
            let bad = || fail(format!("the image's /etc/passwd has a malformed line for it: {}", fields.join(":")));
            user.uid = id(fields[2]).ok_or_else(bad)?;
            user.gid = id(fields[3]).ok_or_else(bad)?;
        }
        (None, Some(uid)) => user.uid = uid,
        (None, None) => return Err(fail("the image's /etc/passwd has no such user".to_owned())),
    }
    let groups = || group.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() >= 4);
    match group_name {
        Some(wanted) => {
            let number = id(wanted);
            let named = groups().find(|fields| fields[0] == wanted).and_then(|fields| id(fields[2]));
            user.gid =
                named.or(number).ok_or_else(|| fail(format!("the image's /etc/group has no group `{wanted}`")))?;
        }
        None => {
            if let Some(fields) = &entry {
                let member = |list: &str| list.split(',').any(|member| member.trim() == fields[0]);
                user.additional_gids =
                    groups().filter(|group| member(group[3])).filter_map(|group| id(group[2])).collect();
                user.additional_gids.sort_unstable();
                user.additional_gids.dedup();
                user.additional_gids.retain(|&gid| gid != user.gid);
            }
        }
    }
    Ok(user)
}

/// A user or group id; `u32::MAX` is "none" to the kernel.
fn id(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|&id| id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34::/:\nshort\n12:x:99:98::/:\nbad:x:many:1::/:\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\ndisk:x:6:root,www\nvideo:x:44:www\nother:x:7:nobody\n";

    fn ids(text: &str) -> (u32, u32, Vec<u32>) {
        let user = resolve(PASSWD, GROUP, text).unwrap();
        (user.uid, user.gid, user.additional_gids)
    }

    #[test]
    fn resolve_covers_every_form_of_the_specification() {
        assert_eq!(ids(""), (0, 0, vec![6]));
        assert_eq!(ids("www"), (33, 34, vec![6, 44]));
        assert_eq!(ids("33"), (33, 34, vec![6, 44]));
        assert_eq!(ids("www:video"), (33, 44, vec![]));
        assert_eq!(ids("www:5"), (33, 5, vec![]));
        assert_eq!(ids("1000"), (1000, 0, vec![]));
        assert_eq!(ids("1000:1000"), (1000, 1000, vec![]));
        assert_eq!(ids("1000:disk"), (1000, 6, vec![]));
        // A user may be called by a number.
        assert_eq!(ids("12"), (99, 98, vec![]));
    }

    #[test]
    fn resolve_unknown_or_malformed_returns_the_name() {
        for text in ["nobody", "www:nogroup", "www:", "www:a:b", "bad", "4294967295", "-1", "1:4294967295"] {
            let error = resolve(PASSWD, GROUP, text).unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
