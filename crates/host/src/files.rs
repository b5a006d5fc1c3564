//! Files of the host, below a root that tests replace. A file that is missing or unreadable is simply not there: an
//! answer that depends on it is then "unknown".

use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Most bytes read of one file; those of `/proc` and `/sys` read here are far shorter.
const LIMIT: usize = 4 << 20;

/// Reads files of one host.
#[derive(Debug, Clone)]
pub struct Files {
    root: PathBuf,
}

impl Files {
    /// Files below `root`; `/` is this host.
    pub fn new(root: &Path) -> Files {
        Files { root: root.to_path_buf() }
    }

    /// Where the absolute `path` is.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The file's text without surrounding white space.
    pub fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        use std::io::Read;
        let mut bytes = Vec::new();
        let path = self.path(path);
        // Opening a FIFO or a device by mistake must not block the examination.
        if !std::fs::metadata(&path).ok()?.is_file() {
            return None;
        }
        std::fs::File::open(path).ok()?.take(LIMIT as u64).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_string())
    }

    /// The file's only word as a number or another type.
    pub fn value<T: FromStr>(&self, path: impl AsRef<Path>) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// A module's boolean parameter, or any file of `Y`, `N`, `1`, `0`.
    pub fn flag(&self, path: impl AsRef<Path>) -> Option<bool> {
        match self.text(path)?.as_str() {
            "Y" | "y" | "1" => Some(true),
            "N" | "n" | "0" => Some(false),
            _ => None,
        }
    }

    /// Whether there is such a file, directory or device.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    /// Names in a directory, sorted.
    pub fn names(&self, directory: impl AsRef<Path>) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(directory)).into_iter().flatten();
        let mut names: Vec<String> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The value of the first line `key SEPARATOR value` of a text.
    pub fn field<'t>(text: &'t str, key: &str, separator: char) -> Option<&'t str> {
        let lines = text.lines().filter_map(|line| line.split_once(separator));
        lines.map(|(name, value)| (name.trim(), value.trim())).find(|(name, _)| *name == key).map(|(_, value)| value)
    }
}
