//! Builds an image from Debian packages with mmdebstrap(1), where there is a package mirror but no registry.
//!
//! On a Debian host the mirror is the one apt uses there, so that a mirror or proxy somebody set up works here too:
//! both formats of sources.list(5) are read.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use oci_spec::image::ConfigBuilder;

use crate::{Error, Image, Progress, Reference, Store, build::configuration, layer::decode::Compression};

/// How much of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Variant {
    /// What packages may rely on without saying so; no apt.
    Essential,
    /// The same and apt.
    Apt,
    /// Packages of priority "required", and apt.
    #[default]
    Minbase,
    /// What a Debian without desktop is: priority "standard".
    Standard,
}

impl Variant {
    /// mmdebstrap's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Variant::Essential => "essential",
            Variant::Apt => "apt",
            Variant::Minbase => "minbase",
            Variant::Standard => "standard",
        }
    }
}

/// What to build.
#[derive(Debug, Clone, Default)]
pub struct Bootstrap {
    /// How much.
    pub variant: Variant,
    /// Packages on top.
    pub packages: Vec<String>,
    /// The suite; the tag of the image's name if `None`.
    pub suite: Option<String>,
    /// A mirror's address or lines of sources.list, instead of the host's configuration.
    pub mirrors: Vec<String>,
}

/// Builds an image of Debian and names it `name` (`debian:bookworm`: the tag is the suite). Lines of the tools go to
/// [`Progress::message`].
pub fn bootstrap(store: &Store, name: &str, options: &Bootstrap, progress: &dyn Progress) -> Result<Image, Error> {
    let reference: Reference = name.parse()?;
    let suite = match (&options.suite, reference.tag()) {
        (Some(suite), _) => suite.clone(),
        (None, Some("latest") | None) => "stable".to_owned(),
        (None, Some(tag)) => tag.to_owned(),
    };
    for word in options.packages.iter().chain([&suite]) {
        let word_ok = word.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.:/~_".contains(&c));
        if !word_ok || !word.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return Err(Error::Unsupported(format!("`{word}` is no name of a suite or package")));
        }
    }
    let mirrors = if options.mirrors.is_empty() { host_sources(&suite) } else { options.mirrors.clone() };
    let mut command = Command::new("mmdebstrap");
    command.arg(format!("--variant={}", options.variant.as_str()));
    if !options.packages.is_empty() {
        command.arg(format!("--include={}", options.packages.join(",")));
    }
    for option in host_proxies() {
        command.arg(format!("--aptopt={option}"));
    }
    // The archive's index and the packages are of no use in an image.
    command.args(["--aptopt=Acquire::Languages \"none\"", "--format=tar", &suite, "-"]).args(&mirrors);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());

    store.adding(|| build_named(store, &reference, &suite, command, progress))
}

/// Runs the command, whose output is the layer, and names the image.
fn build_named(
    store: &Store,
    reference: &Reference,
    suite: &str,
    mut command: Command,
    progress: &dyn Progress,
) -> Result<Image, Error> {
    let mut child = command.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::ToolMissing { tool: "mmdebstrap", package: "mmdebstrap" },
        _ => Error::io("cannot run", Path::new("mmdebstrap"))(error),
    })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (layer, tail) = thread::scope(|scope| {
        let messages = scope.spawn(|| relay(stderr, progress));
        let stdout: Box<dyn Read> = match stdout {
            Some(stdout) => Box::new(stdout),
            None => Box::new(std::io::empty()),
        };
        let layer = store.add_layer(stdout, Compression::Gzip, suite, progress);
        if layer.is_err() {
            // It would wait for a reader.
            let _ = child.kill();
        }
        (layer, messages.join().unwrap_or_default())
    });
    let status = child.wait().map_err(Error::io("cannot wait for", Path::new("mmdebstrap")))?;
    let layer = layer?;
    if !status.success() {
        return Err(Error::Tool { tool: "mmdebstrap", status: status.to_string(), tail: tail.join("; ") });
    }
    let config = ConfigBuilder::default()
        .env(vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()])
        .cmd(vec!["bash".to_owned()])
        .build()
        .map_err(|error| Error::Unsupported(format!("cannot make a configuration: {error}")))?;
    let mut image = store.add_image(&configuration(&layer, config)?, vec![layer.descriptor])?;
    store.set_name(reference, &image, None, None)?;
    image.reference = Some(reference.clone());
    Ok(image)
}

/// Passes lines on and keeps the last few.
fn relay(input: Option<impl Read>, progress: &dyn Progress) -> Vec<String> {
    let mut tail = Vec::new();
    let Some(input) = input else { return tail };
    // Progress bars end in a carriage return.
    for line in BufReader::new(input).split(b'\n').map_while(Result::ok) {
        for part in line.split(|&byte| byte == b'\r') {
            let part = String::from_utf8_lossy(part).trim_end().to_owned();
            if part.is_empty() {
                continue;
            }
            progress.message(&part);
            if tail.len() == 8 {
                tail.remove(0);
            }
            tail.push(part);
        }
    }
    tail
}

/// One line of sources.list, of whichever format.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    options: String,
    uri: String,
    suite: String,
    components: String,
}

impl Line {
    fn text(&self) -> String {
        let options = if self.options.is_empty() { String::new() } else { format!("[{}] ", self.options) };
        format!("deb {options}{} {} {}", self.uri, self.suite, self.components)
    }
}

/// The lines for `suite` out of the host's apt configuration; empty leaves the choice to mmdebstrap.
fn host_sources(suite: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut files = vec![Path::new("/etc/apt/sources.list").to_owned()];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => lines.extend(classic(&text)),
            Some("sources") => lines.extend(deb822(&text)),
            _ => {}
        }
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or_default();
    select(&lines, suite, codename.trim_matches('"'))
}

/// The lines that belong to `suite`; where the host has another one, its mirror with this suite.
fn select(lines: &[Line], suite: &str, host_suite: &str) -> Vec<String> {
    let of = |base: &str| -> Vec<Line> {
        let pockets =
            [base.to_owned(), format!("{base}-updates"), format!("{base}-security"), format!("{base}/updates")];
        lines.iter().filter(|line| pockets.contains(&line.suite)).cloned().collect()
    };
    let own = of(suite);
    // A third party's repository may have pockets of that name too, but not the release itself.
    if own.iter().any(|line| line.suite == suite) {
        return own.iter().map(Line::text).collect();
    }
    let main = lines.iter().find(|line| line.suite == host_suite && line.components.split(' ').any(|c| c == "main"));
    main.map(|line| Line { suite: suite.to_owned(), components: "main".to_owned(), ..line.clone() }.text())
        .into_iter()
        .collect()
}

/// `deb [options] uri suite component…`
fn classic(text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb ").or_else(|| line.strip_prefix("deb\t")) else { continue };
        let rest = rest.trim();
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (options.trim(), rest.trim()),
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            let components = words.collect::<Vec<_>>().join(" ");
            lines.push(Line { options: options.to_owned(), uri: uri.to_owned(), suite: suite.to_owned(), components });
        }
    }
    lines
}

/// Stanzas of `Types:`, `URIs:`, `Suites:`, `Components:`, `Signed-By:`; an embedded key is left out.
fn deb822(text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let without_comments: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for stanza in without_comments.split(|line| line.trim().is_empty()) {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in stanza {
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            } else if let Some((key, value)) = line.split_once(':') {
                fields.push((key.trim().to_lowercase(), value.trim().to_owned()));
            }
        }
        let field = |key: &str| fields.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value.as_str());
        let disabled = matches!(field("enabled"), "no" | "false" | "0" | "off");
        if disabled || !field("types").split_whitespace().any(|kind| kind == "deb") {
            continue;
        }
        let signed_by = field("signed-by");
        let options = if signed_by.starts_with('/') {
            format!("signed-by={}", signed_by.replace(' ', ","))
        } else {
            String::new()
        };
        let components = field("components").split_whitespace().collect::<Vec<_>>().join(" ");
        for uri in field("uris").split_whitespace() {
            for suite in field("suites").split_whitespace() {
                lines.push(Line {
                    options: options.clone(),
                    uri: uri.to_owned(),
                    suite: suite.to_owned(),
                    components: components.clone(),
                });
            }
        }
    }
    lines
}

/// The host's proxies as options of apt; mmdebstrap does not read the host's apt.conf.
fn host_proxies() -> Vec<String> {
    let Ok(output) = Command::new("apt-config").args(["dump", "--format", "%f \"%v\"%n", "Acquire"]).output() else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let wanted = |line: &&str| {
        let line = line.to_lowercase();
        line.starts_with("acquire::http") && line.contains("proxy") && !line.ends_with("\"\"")
    };
    text.lines().filter(wanted).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "# mirror\nTypes: deb deb-src\nURIs: http://mirror.example/debian\n# comment\nSuites: bookworm\n bookworm-updates\nComponents: main contrib\nSigned-By: /usr/share/keyrings/k.gpg\n\nTypes: deb\nEnabled: no\nURIs: http://off.example\nSuites: bookworm\nComponents: main\n\nTypes: deb\nURIs: http://other.example\nSuites: nodistro\nComponents: main\n";

    #[test]
    fn both_formats_of_sources_give_the_same_lines() {
        let classic = classic(
            "# deb http://no.example x main\ndeb-src http://m.example bookworm main\n\
             deb [signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian bookworm main contrib # why\n\
             deb\t[ signed-by=/usr/share/keyrings/k.gpg ]  http://mirror.example/debian bookworm-updates main contrib\n\
             deb http://other.example nodistro main\n",
        );
        assert_eq!(classic, deb822(DEB822));
        assert_eq!(classic.len(), 3);
    }

    #[test]
    fn the_hosts_mirror_serves_its_own_suite_with_pockets_and_others_without() {
        let lines = deb822(DEB822);
        let signed = "[signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian";
        assert_eq!(
            select(&lines, "bookworm", "bookworm"),
            [format!("deb {signed} bookworm main contrib"), format!("deb {signed} bookworm-updates main contrib")]
        );
        assert_eq!(select(&lines, "trixie", "bookworm"), [format!("deb {signed} trixie main")]);
        assert!(select(&lines, "trixie", "noble").is_empty());
    }
}
