use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

use super::protocol::*;
use super::*;
use crate::virtio::testing::Driver;

fn device(directory: &Path, read_only: bool, cache: CachePolicy) -> Fs {
    let root = open(directory, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let proc_fd = open("/proc/self/fd", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    Fs::new(root, proc_fd, FsOptions { tag: "shared".into(), read_only, cache, keep_owner: false }).unwrap()
}

struct Guest {
    driver: Driver<Fs>,
}

type Got = Result<Vec<u8>, i32>;

impl Guest {
    fn new(directory: &Path) -> Self {
        Self::with(device(directory, false, CachePolicy::Auto))
    }

    fn with(device: Fs) -> Self {
        let mut guest = Self { driver: Driver::new(device) };
        let init = Body::default().u32(7).u32(38).u32(1 << 17).u32(u32::MAX).0;
        let answer = guest.call(INIT, 0, &init, 64).unwrap();
        assert_eq!(Fields(&answer).u32(), Ok(7));
        guest
    }

    fn call(&mut self, opcode: u32, node: u64, arguments: &[u8], room: usize) -> Got {
        let header = Body::default().u32((40 + arguments.len()) as u32).u32(opcode).u64(0x1234).u64(node).zeroes(16);
        let answer = self.driver.request(1, &[&header.0, arguments], &[16, room]);
        let mut fields = Fields(&answer.data);
        assert_eq!(fields.u32(), Ok(answer.written as u32));
        let error = fields.u32().unwrap() as i32;
        assert_eq!(fields.u64(), Ok(0x1234));
        if error == 0 { Ok(answer.data[16..answer.written].to_vec()) } else { Err(-error) }
    }

    fn named(&mut self, opcode: u32, node: u64, before: Body, names: &[&[u8]]) -> Got {
        let mut arguments = before.0;
        for name in names {
            arguments.extend_from_slice(name);
            arguments.push(0);
        }
        self.call(opcode, node, &arguments, 256)
    }

    fn lookup(&mut self, node: u64, name: &str) -> Result<u64, i32> {
        self.named(LOOKUP, node, Body::default(), &[name.as_bytes()]).map(|entry| Fields(&entry).u64().unwrap())
    }

    fn open(&mut self, node: u64, flags: OFlags) -> Result<u64, i32> {
        self.call(OPEN, node, &Body::default().u32(flags.bits()).u32(0).0, 16).map(|o| Fields(&o).u64().unwrap())
    }

    fn read(&mut self, node: u64, handle: u64, offset: u64, size: u32) -> Got {
        self.call(READ, node, &Body::default().u64(handle).u64(offset).u32(size).zeroes(20).0, size as usize)
    }

    fn write(&mut self, node: u64, handle: u64, offset: u64, data: &[u8]) -> Got {
        let mut arguments = Body::default().u64(handle).u64(offset).u32(data.len() as u32).zeroes(20).0;
        arguments.extend_from_slice(data);
        self.call(WRITE, node, &arguments, 8)
    }
}

#[test]
fn files_are_made_written_read_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let mut guest = Guest::new(directory.path());
    let create = Body::default().u32(OFlags::RDWR.bits()).u32(0o100_640).u32(0).u32(0);
    let created = guest.named(CREATE, 1, create, &[b"new"]).unwrap();
    let node = Fields(&created).u64().unwrap();
    let handle = Fields(&created[128..]).u64().unwrap();
    assert_eq!(guest.write(node, handle, 3, b"content").unwrap()[..4], 7u32.to_le_bytes());
    assert_eq!(guest.read(node, handle, 0, 100).unwrap(), b"\0\0\0content");
    let path = directory.path().join("new");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);

    let set = Body::default().u32(FATTR_SIZE | FATTR_MODE | FATTR_MTIME).u32(0).u64(0).u64(5).u64(0);
    let set = set.u64(0).u64(1000).u64(0).u32(0).u32(7).u32(0).u32(0o600).u32(0).u32(0).u32(0).u32(0);
    guest.call(SETATTR, node, &set.0, 104).unwrap();
    let stat = fs::metadata(&path).unwrap();
    assert_eq!((stat.size(), stat.mode() & 0o777, stat.mtime(), stat.mtime_nsec()), (5, 0o600, 1000, 7));

    guest.named(MKDIR, 1, Body::default().u32(0o755).u32(0), &[b"sub"]).unwrap();
    let sub = guest.lookup(1, "sub").unwrap();
    guest.named(RENAME2, 1, Body::default().u64(sub).u32(1).u32(0), &[b"new", b"moved"]).unwrap();
    guest.named(LINK, 1, Body::default().u64(node), &[b"linked"]).unwrap();
    assert_eq!(fs::metadata(directory.path().join("linked")).unwrap().nlink(), 2);
    guest.named(SYMLINK, 1, Body::default(), &[b"link", b"/etc/passwd"]).unwrap();
    let link = guest.lookup(1, "link").unwrap();
    assert_eq!(guest.call(READLINK, link, &[], 4096).unwrap(), b"/etc/passwd");
    guest.named(UNLINK, 1, Body::default(), &[b"linked"]).unwrap();
    assert_eq!(guest.named(RMDIR, 1, Body::default(), &[b"sub"]), Err(libc::ENOTEMPTY));
    guest.named(UNLINK, sub, Body::default(), &[b"moved"]).unwrap();
    guest.named(RMDIR, 1, Body::default(), &[b"sub"]).unwrap();
    // Removed and still open.
    assert_eq!(guest.read(node, handle, 3, 10).unwrap(), b"co");
    guest.call(RELEASE, node, &Body::default().u64(handle).zeroes(16).0, 0).unwrap();
    assert_eq!(guest.read(node, handle, 0, 10), Err(libc::EBADF));
}

#[test]
fn nothing_outside_can_be_named() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let directory = outside.path().join("shared");
    fs::create_dir(&directory).unwrap();
    symlink("../secret", directory.join("link")).unwrap();
    symlink("..", directory.join("up")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        directory.join("pipe"),
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let mut guest = Guest::new(&directory);
    for name in ["..", ".", "", "../secret", "shared/../../secret", "/etc/passwd", "up/secret"] {
        assert_eq!(guest.lookup(1, name), Err(libc::EINVAL), "{name:?}");
    }
    assert_eq!(guest.lookup(1, &"x".repeat(300)), Err(libc::ENAMETOOLONG));
    let link = guest.lookup(1, "link").unwrap();
    assert_eq!(guest.open(link, OFlags::RDONLY), Err(libc::ELOOP));
    let up = guest.lookup(1, "up").unwrap();
    assert_eq!(guest.lookup(up, "secret"), Err(libc::ENOTDIR));
    // A link in the way of a create: not followed, not opened.
    let create = Body::default().u32(OFlags::RDWR.bits()).u32(0o100_644).u32(0).u32(0);
    assert_eq!(guest.named(CREATE, 1, create, &[b"link"]), Err(libc::ELOOP));
    // A pipe would block, a device would be the host's.
    let pipe = guest.lookup(1, "pipe").unwrap();
    assert_eq!(guest.open(pipe, OFlags::RDONLY), Err(libc::EOPNOTSUPP));
    let device = Body::default().u32(libc::S_IFBLK | 0o666).u32(0x800).zeroes(8);
    assert_eq!(guest.named(MKNOD, 1, device, &[b"sda"]), Err(libc::EPERM));
    let device = Body::default().u32(libc::S_IFCHR | 0o666).u32(0x103).zeroes(8);
    assert_eq!(guest.named(MKNOD, 1, device, &[b"null"]), Err(libc::EPERM));
    assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "secret");
}

#[test]
fn read_only_refuses_changes() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "content").unwrap();
    let mut guest = Guest::with(device(directory.path(), true, CachePolicy::Always));
    let node = guest.lookup(1, "file").unwrap();
    assert_eq!(guest.open(node, OFlags::RDWR), Err(libc::EROFS));
    assert_eq!(guest.open(node, OFlags::RDONLY | OFlags::TRUNC), Err(libc::EROFS));
    let handle = guest.open(node, OFlags::RDONLY).unwrap();
    assert_eq!(guest.read(node, handle, 0, 7).unwrap(), b"content");
    assert_eq!(guest.write(node, handle, 0, b"x"), Err(libc::EROFS));
    assert_eq!(guest.named(UNLINK, 1, Body::default(), &[b"file"]), Err(libc::EROFS));
    let create = Body::default().u32(0).u32(0o100_644).u32(0).u32(0);
    assert_eq!(guest.named(CREATE, 1, create, &[b"other"]), Err(libc::EROFS));
    assert_eq!(guest.call(SETATTR, node, &[0; 88], 104), Err(libc::EROFS));
    assert_eq!(guest.lookup(1, "missing"), Ok(0), "what is not there stays so");
}

#[test]
fn directories_are_listed_in_pieces() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..100 {
        fs::write(directory.path().join(format!("file-{number:03}")), "").unwrap();
    }
    for (opcode, extra) in [(READDIR, 0), (READDIRPLUS, 128)] {
        let mut guest = Guest::new(directory.path());
        let opened = guest.call(OPENDIR, 1, &[0; 8], 16).unwrap();
        let handle = Fields(&opened).u64().unwrap();
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let list = guest.call(opcode, 1, &Body::default().u64(handle).u64(offset).u32(1000).zeroes(20).0, 1000);
            let list = list.unwrap();
            if list.is_empty() {
                break;
            }
            let mut rest = &list[..];
            while !rest.is_empty() {
                let mut fields = Fields(&rest[extra..]);
                let _inode = fields.u64().unwrap();
                offset = fields.u64().unwrap();
                let (length, _kind) = (fields.u32().unwrap() as usize, fields.u32().unwrap());
                names.push(String::from_utf8(fields.0[..length].to_vec()).unwrap());
                rest = &rest[extra + (24 + length).next_multiple_of(8)..];
            }
        }
        names.sort();
        assert_eq!(names.len(), 102);
        assert_eq!((&names[0][..], &names[101][..]), (".", "file-099"));
    }
}

#[test]
fn attributes_statistics_holes_and_copies() {
    let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    fs::write(directory.path().join("from"), vec![5; 100_000]).unwrap();
    fs::write(directory.path().join("to"), "").unwrap();
    let mut guest = Guest::new(directory.path());
    let (from, to) = (guest.lookup(1, "from").unwrap(), guest.lookup(1, "to").unwrap());
    let input = guest.open(from, OFlags::RDONLY).unwrap();
    let output = guest.open(to, OFlags::RDWR).unwrap();
    let copy = Body::default().u64(input).u64(0).u64(to).u64(output).u64(8192).u64(100_000).u64(0);
    assert_eq!(guest.call(COPY_FILE_RANGE, from, &copy.0, 8).unwrap()[..4], 100_000u32.to_le_bytes());
    assert_eq!(fs::read(directory.path().join("to")).unwrap().len(), 108_192);
    let seek = Body::default().u64(output).u64(0).u32(3).u32(0);
    assert!(Fields(&guest.call(LSEEK, to, &seek.0, 8).unwrap()).u64().unwrap() <= 8192);
    assert_eq!(guest.call(LSEEK, to, &Body::default().u64(output).u64(0).u32(9).u32(0).0, 8), Err(libc::EINVAL));
    guest.call(FALLOCATE, to, &Body::default().u64(output).u64(0).u64(1 << 20).u32(0).u32(0).0, 0).unwrap();
    assert_eq!(fs::metadata(directory.path().join("to")).unwrap().len(), 1 << 20);
    guest.call(FSYNC, to, &Body::default().u64(output).u32(1).u32(0).0, 0).unwrap();
    assert_eq!(guest.call(STATFS, 1, &[], 80).unwrap().len(), 80);

    let mut set = Body::default().u32(5).u32(0).0;
    set.extend_from_slice(b"user.colour\0green");
    guest.call(SETXATTR, from, &set, 0).unwrap();
    let get = |size: u32| [&Body::default().u32(size).u32(0).0[..], b"user.colour\0"].concat();
    assert_eq!(guest.call(GETXATTR, from, &get(0), 8).unwrap()[..4], 5u32.to_le_bytes());
    assert_eq!(guest.call(GETXATTR, from, &get(64), 64).unwrap(), b"green");
    assert_eq!(guest.call(GETXATTR, from, &get(2), 64), Err(libc::ERANGE));
    let list = guest.call(LISTXATTR, from, &Body::default().u32(64).u32(0).0, 64).unwrap();
    assert!(list.windows(12).any(|name| name == b"user.colour\0"));
    guest.named(REMOVEXATTR, from, Body::default(), &[b"user.colour"]).unwrap();
    let trusted = [&Body::default().u32(1).u32(0).0[..], b"trusted.overlay.opaque\0y"].concat();
    assert_eq!(guest.call(SETXATTR, from, &trusted, 0), Err(libc::EOPNOTSUPP));
}

#[test]
fn nodes_and_files_are_found_again_after_a_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("a/b")).unwrap();
    fs::write(directory.path().join("a/b/file"), "content").unwrap();
    fs::write(directory.path().join("gone"), "").unwrap();
    let mut guest = Guest::new(directory.path());
    let a = guest.lookup(1, "a").unwrap();
    let b = guest.lookup(a, "b").unwrap();
    let file = guest.lookup(b, "file").unwrap();
    let gone = guest.lookup(1, "gone").unwrap();
    let handle = guest.open(file, OFlags::RDWR).unwrap();
    guest.named(RENAME, a, Body::default().u64(1), &[b"b", b"c"]).unwrap();
    fs::remove_file(directory.path().join("gone")).unwrap();
    let next = device(directory.path(), false, CachePolicy::Auto);
    let mut guest = Guest { driver: guest.driver.migrate(next) };
    assert_eq!(guest.read(file, handle, 0, 7).unwrap(), b"content");
    assert_eq!(guest.call(GETATTR, gone, &[0; 16], 104), Err(libc::ESTALE));
    assert_eq!(guest.lookup(b, "file"), Ok(file));
    let fresh = guest.named(MKDIR, 1, Body::default().u32(0o700).u32(0), &[b"fresh"]).unwrap();
    assert!(Fields(&fresh).u64().unwrap() > gone);
}

#[test]
fn forgotten_nodes_and_nonsense() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    let mut guest = Guest::new(directory.path());
    let file = guest.lookup(1, "file").unwrap();
    assert_eq!(guest.lookup(1, "file"), Ok(file));
    let mut forget = |count: u64| {
        let message = Body::default().u32(48).u32(FORGET).u64(1).u64(file).zeroes(16).u64(count).0;
        assert_eq!(guest.driver.request(0, &[&message], &[]).written, 0);
        guest.call(GETATTR, file, &[0; 16], 104)
    };
    forget(1).unwrap();
    assert_eq!(forget(u64::MAX), Err(libc::ENOENT));
    for opcode in 0..70 {
        if matches!(opcode, FORGET | BATCH_FORGET | INTERRUPT | INIT | DESTROY | WRITE) {
            continue;
        }
        let _ = guest.call(opcode, u64::MAX, &[], 4096);
        let _ = guest.call(opcode, 1, &[0xff; 100], 4096);
    }
    guest.driver.submit(1, &[&[0; 39]], &[16]);
    guest.driver.kick(1);
    assert!(guest.driver.needs_reset());
    // Before INIT nothing is served.
    guest.driver.negotiate(u64::MAX);
    assert_eq!(guest.call(GETATTR, 1, &[0; 16], 104), Err(libc::EIO));
}
