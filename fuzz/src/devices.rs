//! Virtio devices under a hostile driver: descriptors, rings, registers and configuration space as the input says.
//!
//! The first byte chooses the device, then each operation is an opcode and its operands. A panic, a device that never
//! rests, or one that does not work again after a reset is a finding.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::{Arc, OnceLock};

use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, open};
use strata_devices::BusDevice;
use strata_devices::balloon::{Balloon, BalloonOptions};
use strata_devices::block::{Block, BlockOptions, Image, Qcow2Image, RawImage};
use strata_devices::console::{Console, Port};
use strata_devices::fs::{CachePolicy, Fs, FsOptions};
use strata_devices::mem::Mem;
use strata_devices::net::{Net, NetOptions, StreamSocket};
use strata_devices::pmem::Pmem;
use strata_devices::rng::Rng;
use strata_devices::virtio::VirtioDevice;
use strata_devices::virtio::testing::Driver;
use strata_devices::vsock::{PathConnector, Vsock};
use vm_memory::{Bytes, GuestAddress};

/// Entry point.
pub fn fuzz_one(data: &[u8]) {
    let Some((&device, script)) = data.split_first() else { return };
    match device % 10 {
        0 => run(Rng::new(), script),
        1 => {
            let (far, near) = UnixStream::pair().unwrap();
            near.set_nonblocking(true).unwrap();
            let file = |stream: UnixStream| Some(File::from(OwnedFd::from(stream)));
            let port = || Port { console: true, name: Some("port".into()), ..Port::default() };
            let input = file(near.try_clone().unwrap());
            run(Console::new(vec![Port { input, output: file(near), ..port() }, port()], (80, 25)), script);
            drop(far);
        }
        2 => {
            let disk = File::from(memfd_create("disk", MemfdFlags::CLOEXEC).unwrap());
            disk.set_len(1 << 16).unwrap();
            let image = RawImage::new(disk, Default::default()).unwrap();
            run(Block::new(Arc::new(image), BlockOptions::default()).unwrap(), script);
        }
        3 => {
            let connector = Box::new(PathConnector(shared_directory().join("vsock")));
            run(Vsock::new(3, None, connector).unwrap(), script);
        }
        4 => {
            let root = open(shared_directory(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
            let proc_fd = open("/proc/self/fd", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
            let options =
                FsOptions { tag: "fuzz".into(), read_only: true, cache: CachePolicy::Auto, keep_owner: false };
            run(Fs::new(root, proc_fd, options).unwrap(), script);
        }
        5 => {
            let (far, near) = UnixStream::pair().unwrap();
            run(Net::new(Box::new(StreamSocket::new(near).unwrap()), NetOptions::default()).unwrap(), script);
            drop(far);
        }
        6 => run(Balloon::new(BalloonOptions::default()), script),
        7 => run(Pmem::new(None, 1 << 32, 2 << 20), script),
        8 => {
            let mut device = Mem::new(1 << 32, 8 << 20).unwrap();
            device.set_requested(4 << 20).unwrap();
            run(device, script);
        }
        // The input is a disk image as well as what the guest does with it.
        _ => {
            let disk = File::from(memfd_create("disk", MemfdFlags::CLOEXEC).unwrap());
            Qcow2Image::create(&disk, 1 << 20, None).unwrap();
            let mut script = Script(script);
            for _ in 0..script.u8() % 16 {
                let at = u64::from(script.u8() % 5) << 16 | u64::from(script.u16() % 128);
                disk.write_all_at(&script.take::<8>(), at).unwrap();
            }
            if let Ok(image) = Qcow2Image::new(disk, None, false)
                && image.size() <= 1 << 30
            {
                run(Block::new(Arc::new(image), BlockOptions::default()).unwrap(), script.0);
            }
        }
    }
}

/// A directory with something in it; left to the system's cleaning of temporary files.
fn shared_directory() -> &'static std::path::Path {
    static DIRECTORY: OnceLock<tempfile::TempDir> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "content").unwrap();
        let _ = UnixDatagram::bind(directory.path().join("vsock_1"));
        directory
    });
    directory.path()
}

/// Operands, zero when the input is at its end.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut value = [0; N];
        let count = N.min(self.0.len());
        value[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        value
    }
}

fn run<D: VirtioDevice + 'static>(device: D, script: &[u8]) {
    let mut driver = Driver::new(device);
    let mut script = Script(script);
    for _ in 0..200 {
        if script.0.is_empty() {
            break;
        }
        let queues = driver.queues.len().max(1);
        let operation = script.u8();
        let queue = usize::from(operation >> 4) % queues;
        match operation & 15 {
            // A descriptor: near addresses and short lengths mostly, or anything.
            0..=3 => {
                let (index, address, length) = (script.u16() % 16, script.u32(), script.u16());
                let (flags, next) = (script.u16(), script.u16());
                let address = if flags & 0x100 != 0 { u64::from(address) << 32 } else { u64::from(address % 0x4_0000) };
                driver.set_descriptor(queue, index, address, u32::from(length), flags & 0xff, next % 17);
            }
            4..=6 => {
                let head = script.u16() % 16;
                driver.offer(queue, head);
            }
            // A proper chain with content and room.
            7..=9 => {
                let content: [u8; 64] = script.take();
                let (split, room) = (usize::from(script.u8()) % 65, usize::from(script.u16()) % 8192);
                let layout = driver.queues[queue].layout;
                let at = driver.allocate(64 + room as u64);
                driver.memory.write_slice(&content, GuestAddress(at)).unwrap();
                let index = script.u16() % (layout.size - 1);
                driver.set_descriptor(queue, index, at, split as u32, 1, index + 1);
                driver.set_descriptor(queue, index + 1, at + 64, room as u32, 2, 0);
                driver.offer(queue, index);
                driver.kick(queue);
            }
            10 | 11 => driver.kick(queue),
            12 => {
                let (offset, value) = (u64::from(script.u16() % 0x200), script.u32());
                driver.write_register(offset, value);
            }
            13 => {
                let (offset, length) = (u64::from(script.u16() % 0x1100), usize::from(script.u8() % 17));
                driver.transport.read(offset, &mut vec![0; length]);
                driver.transport.write(offset, &script.take::<16>()[..length.min(16)]);
            }
            14 => {
                let (address, value) = (u64::from(script.u32() % 0x4_0000), script.take::<16>());
                driver.memory.write_slice(&value, GuestAddress(address)).unwrap();
            }
            _ => {
                if driver.transport.save().is_err() {
                    driver.negotiate(u64::MAX);
                }
            }
        }
    }
    driver.run();
    driver.negotiate(u64::MAX);
    assert!(!driver.needs_reset(), "the device does not work after a reset");
}
