//! `strata image`: the store of images.

use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use strata_image::{Bootstrap, ImportOptions, Platform, Source, Target, Variant};
use strata_spec::quantity::format_bytes;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Table, age, print, print_json};
use crate::progress::Bars;

/// Options of `image`.
#[derive(Debug, Args)]
pub struct Image {
    #[command(subcommand)]
    verb: Verb,
}

/// What to do with images.
#[derive(Debug, Subcommand)]
enum Verb {
    /// List images
    Ls(Ls),
    /// Show everything known of images, as JSON
    Inspect(Inspect),
    /// Fetch images from registries
    Pull(super::pull::Pull),
    /// Send an image to a registry
    Push(super::push::Push),
    /// Bring images in: an OCI layout, an archive, or - for standard input
    Import(Import),
    /// Write images out: oci:DIR, oci-archive:FILE, docker-archive:FILE, or - for standard output
    Export(Export),
    /// Build an image from Debian packages
    Bootstrap(BootstrapArgs),
    /// Give an image a further name
    Tag(Tag),
    /// Remove names, and what no other name or instance needs
    Rm(Rm),
    /// Remove what nothing refers to
    Gc(Gc),
    /// Unpack an image into a plain directory
    Unpack(Unpack),
}

/// Options of `image ls`.
#[derive(Debug, Args)]
pub struct Ls {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print names only
    #[arg(short, long)]
    quiet: bool,
}

/// Options of `image inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Names, or digests
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// Options of `image import`.
#[derive(Debug, Args)]
pub struct Import {
    /// Name to give, instead of the one the image carries
    #[arg(short, long, visible_alias = "tag", value_name = "NAME[:TAG]")]
    name: Option<String>,
    /// Platform to take from an image of several (linux/arm64)
    #[arg(long, value_name = "OS/ARCHITECTURE", value_parser = Platform::parse)]
    platform: Option<Platform>,
    /// FILE, DIR, oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME], or - for standard input
    #[arg(value_name = "SOURCE")]
    source: String,
}

/// Options of `image export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Images, then where they go: oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE, or - for standard output
    #[arg(value_name = "IMAGE… TARGET", num_args = 2.., required = true)]
    images_and_target: Vec<String>,
}

/// Options of `image bootstrap`.
#[derive(Debug, Args)]
pub struct BootstrapArgs {
    /// How much of Debian
    #[arg(long, value_name = "VARIANT", default_value = "minbase")]
    variant: VariantName,
    /// Further packages
    #[arg(long, value_name = "PACKAGES", value_delimiter = ',')]
    include: Vec<String>,
    /// Debian suite, if it is not the name's tag
    #[arg(long)]
    suite: Option<String>,
    /// Mirror address or a line of sources.list [default: the host's]
    #[arg(long, value_name = "MIRROR")]
    mirror: Vec<String>,
    /// Name of the image; the tag is the suite
    #[arg(value_name = "NAME:SUITE", default_value = "debian:bookworm")]
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum VariantName {
    Essential,
    Apt,
    Minbase,
    Standard,
}

/// Options of `image tag`.
#[derive(Debug, Args)]
pub struct Tag {
    /// Image
    image: String,
    /// Further name
    name: String,
}

/// Options of `image rm`.
#[derive(Debug, Args)]
pub struct Rm {
    /// Remove even if an instance uses it
    #[arg(short, long)]
    force: bool,
    /// Names
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// Options of `image gc`.
#[derive(Debug, Args)]
pub struct Gc {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Options of `image unpack`.
#[derive(Debug, Args)]
pub struct Unpack {
    /// Image
    image: String,
    /// Directory, which must be empty or absent
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Image {
    /// Does it.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        match self.verb {
            Verb::Ls(verb) => verb.execute(context),
            Verb::Inspect(verb) => verb.execute(context),
            Verb::Pull(verb) => verb.execute(context).map(|_| ()),
            Verb::Push(verb) => verb.execute(context).map(|_| ()),
            Verb::Import(verb) => verb.execute(context),
            Verb::Export(verb) => verb.execute(context),
            Verb::Bootstrap(verb) => verb.execute(context),
            Verb::Tag(verb) => verb.execute(context),
            Verb::Rm(verb) => verb.execute(context),
            Verb::Gc(verb) => verb.execute(context),
            Verb::Unpack(verb) => verb.execute(context),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Ls {
    fn execute(self, context: &Context) -> Result<(), Failure> {
        let mut images = context.store()?.list()?;
        images.sort_by(|a, b| a.reference.cmp(&b.reference));
        if self.json {
            return print_json(&images);
        }
        if self.quiet {
            return images.iter().try_for_each(|image| print(&format!("{}\n", image.reference)));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
        let mut table = Table::new(&["NAME", "ID", "SIZE", "ADDED"]);
        for image in images {
            let added = format!("{} ago", age(now.saturating_sub(image.created)));
            table.row([image.reference, short(&image.id.to_string()), format_bytes(image.size), added]);
        }
        table.print()
    }
}

/// The first twelve digits of a digest.
fn short(digest: &str) -> String {
    digest.trim_start_matches("sha256:").chars().take(12).collect()
}

impl Inspect {
    fn execute(self, context: &Context) -> Result<(), Failure> {
        let store = context.store()?;
        let found = self.images.iter().map(|name| store.inspect(name)).collect::<Result<Vec<_>, _>>()?;
        print_json(&found)
    }
}

impl Import {
    fn execute(self, context: &Context) -> Result<(), Failure> {
        let store = context.store()?;
        let options = ImportOptions { name: self.name, platform: self.platform };
        let images = Bars::during(|progress| store.import(Source::parse(&self.source), &options, progress))?;
        for image in images {
            let name = image.reference().map_or_else(|| image.digest().to_string(), |name| name.to_string());
            print(&format!("{name}\n"))?;
        }
        Ok(())
    }
}

impl Export {
    fn execute(self, context: &Context) -> Result<(), Failure> {
        let store = context.store()?;
        let Some((target, images)) = self.images_and_target.split_last() else {
            return Err(Failure::new("nothing to export").hint("write `strata image export IMAGE TARGET`"));
        };
        let target = Target::parse(target);
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        if target.path.is_none() && stdout().is_terminal() {
            return Err(Failure::new("an archive is no text for a terminal").hint("redirect it, or name a file"));
        }
        Ok(Bars::during(|progress| match &target.path {
            Some(_) => store.export(&images, &target, progress),
            None => store.export_to(&images, &target, stdout().lock(), progress),
        })?)
    }
}

impl BootstrapArgs {
    fn execute(self, context: &Context) -> Result<(), Failure> {
        let options = Bootstrap {
            variant: match self.variant {
                VariantName::Essential => Variant::Essential,
                VariantName::Apt => Variant::Apt,
                VariantName::Minbase => Variant::Minbase,
                VariantName::Standard => Variant::Standard,
            },
            packages: self.include,
            suite: self.suite,
            mirrors: self.mirror,
        };
        let store = context.store()?;
        let image = Bars::during(|progress| strata_image::bootstrap(&store, &self.name, &options, progress))?;
        print(&format!("{} {}\n", self.name, format_bytes(image.size())))
    }
}

impl Tag {
    fn execute(self, context: &Context) -> Result<(), Failure> {
        Ok(context.store()?.tag(&self.image, &self.name)?)
    }
}

impl Rm {
    fn execute(self, context: &Context) -> Result<(), Failure> {
        let store = context.store()?;
        for image in &self.images {
            let removed = store.remove(image, self.force)?;
            for name in removed.untagged {
                print(&format!("{name}\n"))?;
            }
        }
        Ok(())
    }
}

impl Gc {
    fn execute(self, context: &Context) -> Result<(), Failure> {
        let report = context.store()?.gc(self.dry_run)?;
        if self.json {
            return print_json(&json!({
                "bytes_freed": report.bytes_freed,
                "blobs": report.blobs,
                "layers": report.layers,
                "temporaries": report.temporaries,
                "stale_uses": report.stale_uses,
            }));
        }
        let verb = if self.dry_run { "would be removed" } else { "removed" };
        print(&format!(
            "{} blobs and {} unpacked layers {verb}, {}\n",
            report.blobs.len(),
            report.layers.len(),
            format_bytes(report.bytes_freed)
        ))
    }
}

impl Unpack {
    fn execute(self, context: &Context) -> Result<(), Failure> {
        let store = context.store()?;
        let image = store.image(&self.image)?;
        Ok(Bars::during(|progress| store.unpack_to(&image, &self.directory, progress))?)
    }
}
