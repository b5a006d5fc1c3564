//! Users and groups by the files passwd(5) and group(5); there is no name service in a small image.

use crate::io;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// A line of /etc/passwd.
pub struct User {
    pub name: Vec<u8>,
    pub uid: u32,
    pub gid: u32,
    pub home: Vec<u8>,
}

fn users() -> Vec<User> {
    let text = io::read_file(b"/etc/passwd").unwrap_or_default();
    let parse = |line: &[u8]| {
        let fields: Vec<&[u8]> = line.split(|b| *b == b':').collect();
        let id = |index: usize| io::number(fields.get(index)?).and_then(|n| u32::try_from(n).ok());
        Some(User { name: fields[0].to_vec(), uid: id(2)?, gid: id(3)?, home: fields.get(5)?.to_vec() })
    };
    text.split(|b| *b == b'\n').filter_map(parse).collect()
}

fn groups() -> Vec<(Vec<u8>, u32)> {
    let text = io::read_file(b"/etc/group").unwrap_or_default();
    let parse = |line: &[u8]| {
        let mut fields = line.split(|b| *b == b':');
        let name = fields.next()?.to_vec();
        Some((name, u32::try_from(io::number(fields.nth(1)?)?).ok()?))
    };
    text.split(|b| *b == b'\n').filter_map(parse).collect()
}

/// The user of this name.
pub fn by_name(name: &[u8]) -> Option<User> {
    users().into_iter().find(|user| user.name == name)
}

/// The number a user's name, or a number as text, stands for.
pub fn user_id(text: &[u8]) -> Option<u32> {
    by_name(text).map(|u| u.uid).or_else(|| u32::try_from(io::number(text)?).ok())
}

/// The number a group's name, or a number as text, stands for.
pub fn group_id(text: &[u8]) -> Option<u32> {
    let named = groups().into_iter().find(|(name, _)| name == text).map(|(_, id)| id);
    named.or_else(|| u32::try_from(io::number(text)?).ok())
}

/// Names of users and groups, read once for a listing. `root` is known without the files.
pub struct Names {
    users: Vec<User>,
    groups: Vec<(Vec<u8>, u32)>,
}

impl Names {
    /// Reads the files; those that are missing count as empty.
    pub fn load() -> Self {
        Self { users: users(), groups: groups() }
    }

    /// The name of a user, if it has one.
    pub fn known_user(&self, uid: u32) -> Option<String> {
        let found = self.users.iter().find(|u| u.uid == uid);
        let name = found.map(|u| String::from_utf8_lossy(&u.name).into_owned());
        name.or_else(|| (uid == 0).then(|| "root".to_string()))
    }

    /// The name of a group, if it has one.
    pub fn known_group(&self, gid: u32) -> Option<String> {
        let found = self.groups.iter().find(|(_, id)| *id == gid);
        let name = found.map(|(name, _)| String::from_utf8_lossy(name).into_owned());
        name.or_else(|| (gid == 0).then(|| "root".to_string()))
    }

    /// The name of a user, or the number.
    pub fn user(&self, uid: u32) -> String {
        self.known_user(uid).unwrap_or_else(|| uid.to_string())
    }

    /// The name of a group, or the number.
    pub fn group(&self, gid: u32) -> String {
        self.known_group(gid).unwrap_or_else(|| gid.to_string())
    }
}
