//! The image inside the command: one static program that is a shell, the usual small commands and the workloads of
//! `strata compare`, so that a first run needs no network and no other image.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    process::Command,
};

use oci_spec::image::ConfigBuilder;

use crate::{
    Digest, Error, Image, Reference, Store,
    build::configuration,
    layer::{
        archive::{Entry, Kind},
        decode::Compression,
        pack::Writer,
    },
};

/// The image's name. It always stands for the image inside the running command.
pub const REFERENCE: &str = "toolbox:latest";
/// The program in it.
pub const PROGRAM: &str = "/bin/toolbox";

/// Puts the image into the store unless it is there. The same program always gives the same digest.
pub fn ensure(store: &Store) -> Result<Image, Error> {
    let origin = Digest::of(strata_embedded::TOOLBOX).to_string();
    let reference: Reference = REFERENCE.parse()?;
    if let Some(named) = store.named(REFERENCE)?
        && named.origin.as_ref() == Some(&origin)
        && let Ok(mut image) = store.load_manifest(&named.digest)
    {
        image.reference = Some(reference);
        return Ok(image);
    }
    store.adding(|| put_in(store, reference, origin))
}

fn put_in(store: &Store, reference: Reference, origin: String) -> Result<Image, Error> {
    let archive = root_file_system(strata_embedded::TOOLBOX, &applets(store, strata_embedded::TOOLBOX)?)
        .map_err(Error::io("cannot build the image", PROGRAM.as_ref()))?;
    // Uncompressed: the program is in the command already, and the first run should not wait for a compressor.
    let layer = store.add_layer(&archive[..], Compression::None, REFERENCE, &())?;
    let config = ConfigBuilder::default()
        .env(vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()])
        .cmd(vec!["/bin/sh".to_owned()])
        .working_dir("/")
        .build()
        .map_err(|error| Error::Unsupported(format!("cannot make a configuration: {error}")))?;
    let mut image = store.add_image(&configuration(&layer, config)?, vec![layer.descriptor])?;
    store.set_name(&reference, &image, None, Some(origin))?;
    image.reference = Some(reference);
    Ok(image)
}

/// The names under which the program is to be called, as it lists them itself.
fn applets(store: &Store, program: &[u8]) -> Result<Vec<String>, Error> {
    let path = store.temporary();
    let run = || -> io::Result<std::process::Output> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o700).open(&path)?;
        file.write_all(program)?;
        drop(file);
        // Another thread that forks at this moment holds the file open for writing until it executes something.
        for _ in 0..100 {
            match Command::new(&path).arg("--list").output() {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                result => return result,
            }
        }
        Command::new(&path).arg("--list").output()
    };
    let output = run();
    let _ = std::fs::remove_file(&path);
    let output = output.map_err(Error::io("cannot run the embedded program as", &path))?;
    let mut names: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| line.trim().to_owned())
        .filter(|name| !name.is_empty() && !name.contains('/') && name != "toolbox" && name != "." && name != "..")
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// The layer: directories, the files programs look for, the program and its names. Times are 0 for a stable digest.
fn root_file_system(program: &[u8], applets: &[String]) -> io::Result<Vec<u8>> {
    let mut tar = Writer::new(Vec::with_capacity(program.len() + (64 << 10)));
    for (path, mode) in [
        ("./", 0o755),
        ("bin/", 0o755),
        ("dev/", 0o755),
        ("etc/", 0o755),
        ("home/", 0o755),
        ("proc/", 0o555),
        ("root/", 0o700),
        ("run/", 0o755),
        ("sys/", 0o555),
        ("tmp/", 0o1777),
        ("usr/", 0o755),
        ("var/", 0o755),
        ("var/tmp/", 0o1777),
    ] {
        tar.entry(&Entry::new(path, Kind::Directory, mode), io::empty())?;
    }
    for (path, text) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ("etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n"),
        ("etc/hostname", "strata\n"),
        ("etc/resolv.conf", ""),
        ("etc/os-release", "ID=strata-toolbox\nNAME=\"Strata toolbox\"\nPRETTY_NAME=\"Strata toolbox\"\n"),
    ] {
        let entry = Entry { size: text.len() as u64, ..Entry::new(path, Kind::File, 0o644) };
        tar.entry(&entry, text.as_bytes())?;
    }
    let entry = Entry { size: program.len() as u64, ..Entry::new(&PROGRAM[1..], Kind::File, 0o755) };
    tar.entry(&entry, program)?;
    for name in applets {
        let entry = Entry { link: b"toolbox".to_vec(), ..Entry::new(format!("bin/{name}"), Kind::Symlink, 0o777) };
        tar.entry(&entry, io::empty())?;
    }
    tar.finish()
}
