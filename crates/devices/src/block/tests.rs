use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::image::RawOptions;
use super::*;
use crate::rate_limiter::Limit;
use crate::virtio::testing::Driver;

const DISK: usize = 1 << 20;

fn file() -> File {
    let file = tempfile::tempfile().unwrap();
    let content: Vec<u8> = (0..DISK).map(|at| (at / 512 % 251) as u8).collect();
    file.write_all_at(&content, 0).unwrap();
    file
}

fn disk(options: BlockOptions) -> (File, Driver<Block>) {
    let file = file();
    let image = RawImage::new(file.try_clone().unwrap(), RawOptions::default()).unwrap();
    (file, Driver::new(Block::new(Arc::new(image), options).unwrap()))
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

fn segment(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

fn status(driver: &mut Driver<Block>, readable: &[&[u8]], room: usize) -> u8 {
    *driver.request(0, readable, &[room, 1]).data.last().unwrap()
}

#[test]
fn reads_and_writes_reach_the_file() {
    for indirect in [false, true] {
        let (file, mut driver) = disk(BlockOptions::default());
        driver.indirect = indirect;
        assert_eq!(u64::from_le_bytes(driver.config(0)), (DISK / 512) as u64);
        let answer = driver.request(0, &[&header(0, 3)], &[512, 1024, 1]);
        assert_eq!((answer.data[0], answer.data[512], answer.data[1535], answer.data[1536]), (3, 4, 5, 0));
        assert_eq!(status(&mut driver, &[&header(1, 8), &[0xaa; 512], &[0xbb; 512]], 0), 0);
        assert_eq!(status(&mut driver, &[&header(4, 0)], 0), 0);
        let mut got = [0; 1024];
        file.read_exact_at(&mut got, 8 * 512).unwrap();
        assert!(got[..512] == [0xaa; 512] && got[512..] == [0xbb; 512]);
    }
}

#[test]
fn discard_and_write_zeroes() {
    let (file, mut driver) = disk(BlockOptions::default());
    for (kind, flags) in [(13, 0), (13, 1), (11, 0)] {
        let request = [segment(16, 8, flags), segment(64, 16, flags)].concat();
        assert_eq!(status(&mut driver, &[&header(kind, 0), &request], 0), 0, "type {kind}, flags {flags}");
    }
    let mut got = [1; 24 * 512];
    file.read_exact_at(&mut got[..8 * 512], 16 * 512).unwrap();
    file.read_exact_at(&mut got[8 * 512..], 64 * 512).unwrap();
    assert!(got.iter().all(|&byte| byte == 0));
    file.read_exact_at(&mut got[..512], 24 * 512).unwrap();
    assert_eq!(got[0], 24, "the neighbour stays");
    // A discard with the unmap flag, an unknown flag, beyond the end, too many sectors, a torn segment.
    assert_eq!(status(&mut driver, &[&header(11, 0), &segment(0, 1, 1)], 0), 2);
    assert_eq!(status(&mut driver, &[&header(13, 0), &segment(0, 1, 4)], 0), 2);
    assert_eq!(status(&mut driver, &[&header(13, 0), &segment(2047, 2, 0)], 0), 1);
    assert_eq!(status(&mut driver, &[&header(13, 0), &segment(u64::MAX, 1, 0)], 0), 1);
    assert_eq!(status(&mut driver, &[&header(13, 0), &segment(0, u32::MAX, 0)], 0), 1);
    assert_eq!(status(&mut driver, &[&header(13, 0), &segment(0, 1, 0)[..15]], 0), 1);
}

#[test]
fn wrong_requests_get_errors_and_the_device_goes_on() {
    let (_file, mut driver) = disk(BlockOptions { id: "disk-with-a-rather-long-name".into(), ..Default::default() });
    assert_eq!(status(&mut driver, &[&header(0, 2048)], 512), 1, "beyond the end");
    assert_eq!(status(&mut driver, &[&header(0, u64::MAX)], 512), 1);
    assert_eq!(status(&mut driver, &[&header(1, u64::MAX / 512), &[0; 1024]], 0), 1);
    assert_eq!(status(&mut driver, &[&header(0, 0)], 100), 1, "not whole sectors");
    assert_eq!(status(&mut driver, &[&header(77, 0)], 512), 2);
    assert_eq!(status(&mut driver, &[&header(8, 0)], 19), 1);
    assert_eq!(driver.request(0, &[&header(8, 0)], &[20, 1]).data, b"disk-with-a-rather-l\0");
    assert_eq!(status(&mut driver, &[&header(0, 0)], 512), 0);
    // Not even a status byte, not even a header.
    for (readable, writable) in [(&[&header(0, 0)[..]][..], &[][..]), (&[&[0; 4]], &[512, 1])] {
        driver.submit(0, readable, writable);
        driver.kick(0);
        assert!(driver.needs_reset());
        driver.negotiate(u64::MAX);
    }
}

#[test]
fn read_only_refuses_what_modifies() {
    let (file, mut driver) = disk(BlockOptions { read_only: true, ..Default::default() });
    assert_ne!(driver.features & (1 << 5), 0);
    assert_eq!(status(&mut driver, &[&header(1, 0), &[9; 512]], 0), 1);
    assert_eq!(status(&mut driver, &[&header(13, 0), &segment(1, 1, 1)], 0), 1);
    assert_eq!(status(&mut driver, &[&header(11, 0), &segment(1, 1, 0)], 0), 1);
    let mut got = [0; 1024];
    file.read_exact_at(&mut got, 0).unwrap();
    assert_eq!((got[0], got[512]), (0, 1));
}

#[test]
fn limits_hold_and_every_request_is_answered() {
    let operations = Some(Limit { rate: 100, burst: 10 });
    let (_file, mut driver) = disk(BlockOptions { operations, ..Default::default() });
    let started = Instant::now();
    for _ in 0..30 {
        driver.submit(0, &[&header(0, 0)], &[512, 1]);
    }
    driver.kick(0);
    let mut answered = 0;
    driver.run_until(|driver| {
        while driver.completed(0).is_some() {
            answered += 1;
        }
        answered == 30
    });
    assert!(started.elapsed() >= Duration::from_millis(180), "{:?}", started.elapsed());
}

#[test]
fn reset_and_snapshot_with_writes_under_way() {
    let (file, mut driver) = disk(BlockOptions::default());
    for round in 0..20 {
        for at in 0..20 {
            driver.submit(0, &[&header(1, at), &[round; 512]], &[1]);
        }
        driver.write_register(0x50, 0);
        driver.events.run_once(Some(Duration::ZERO)).unwrap();
        if round % 2 == 0 {
            driver.negotiate(u64::MAX);
        } else {
            let image = RawImage::new(file.try_clone().unwrap(), RawOptions::default()).unwrap();
            driver = driver.migrate(Block::new(Arc::new(image), BlockOptions::default()).unwrap());
            let mut answered = 0;
            driver.run_until(|driver| {
                while driver.completed(0).is_some() {
                    answered += 1;
                }
                answered == 20
            });
        }
    }
}

#[test]
fn same_head_twice_is_completed_twice() {
    let (_file, mut driver) = disk(BlockOptions::default());
    let head = driver.submit(0, &[&header(1, 0), &[1; 512]], &[1]);
    driver.offer(0, head);
    driver.kick(0);
    let layout = driver.queues[0].layout;
    driver.run_until(|driver| {
        use vm_memory::{Bytes, GuestAddress};
        driver.memory.read_obj::<u16>(GuestAddress(layout.used + 2)).unwrap() == 2
    });
}

#[test]
fn direct_io_bounces_what_is_not_aligned() {
    // A directory of a disk's file system: the memory file system of /tmp may not know O_DIRECT.
    let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = directory.path().join("disk");
    std::fs::write(&path, (0..DISK).map(|at| (at / 512 % 251) as u8).collect::<Vec<_>>()).unwrap();
    let open = File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    let image = RawImage::new(open, RawOptions { direct: Some(4096) }).unwrap();
    let mut driver = Driver::new(Block::new(Arc::new(image), BlockOptions::default()).unwrap());
    assert_eq!(u32::from_le_bytes(driver.config(20)), 4096);
    assert_eq!(status(&mut driver, &[&header(1, 9), &[0xcc; 3], &[0xdd; 509]], 0), 0);
    let answer = driver.request(0, &[&header(0, 8)], &[1000, 536, 1]);
    assert_eq!(answer.data[1536], 0);
    assert_eq!((answer.data[511], answer.data[512], answer.data[515], answer.data[1024]), (8, 0xcc, 0xdd, 10));
}
