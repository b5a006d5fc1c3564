use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::testing::Driver;

/// The upper region of the test driver's memory: 4 blocks.
const START: u64 = 4 << 30;

fn device() -> Mem {
    Mem::new(START, 4 * BLOCK).unwrap()
}

fn request(driver: &mut Driver<Mem>, kind: u16, address: u64, blocks: u16) -> (u16, u16) {
    let mut raw = [0; 24];
    raw[..2].copy_from_slice(&kind.to_le_bytes());
    raw[8..16].copy_from_slice(&address.to_le_bytes());
    raw[16..18].copy_from_slice(&blocks.to_le_bytes());
    let answer = driver.request(0, &[&raw], &[10]).data;
    (u16::from_le_bytes([answer[0], answer[1]]), u16::from_le_bytes([answer[8], answer[9]]))
}

#[test]
fn blocks_are_plugged_as_far_as_requested_and_given_back() {
    let mut driver = Driver::new(device());
    assert_eq!(request(&mut driver, 0, START, 1), (1, 0), "nothing was requested");
    driver.device().set_requested(3 * BLOCK + 1).unwrap();
    assert_eq!(u64::from_le_bytes(driver.config(48)), 3 * BLOCK);
    assert_eq!(request(&mut driver, 0, START, 2), (0, 0));
    assert_eq!(request(&mut driver, 0, START + 2 * BLOCK, 2), (1, 0), "more than requested");
    assert_eq!(u64::from_le_bytes(driver.config(40)), 2 * BLOCK);
    assert_eq!(request(&mut driver, 3, START, 2), (0, 0));
    assert_eq!(request(&mut driver, 3, START, 4), (0, 2));
    assert_eq!(request(&mut driver, 3, START + 2 * BLOCK, 2), (0, 1));
    driver.memory.write_obj(7u8, GuestAddress(START + BLOCK)).unwrap();
    let mut driver = driver.migrate(device());
    assert_eq!(driver.device().plugged(), 2 * BLOCK);
    assert_eq!(request(&mut driver, 1, START + BLOCK, 1), (0, 0));
    assert_eq!(driver.memory.read_obj::<u8>(GuestAddress(START + BLOCK)).unwrap(), 0);
    assert_eq!(request(&mut driver, 2, 0, 0), (0, 0));
    assert_eq!(driver.device().plugged(), 0);
}

#[test]
fn requests_outside_the_region_or_the_state_are_errors() {
    let mut driver = Driver::new(device());
    driver.device().set_requested(u64::MAX).unwrap();
    for (kind, address, blocks) in [
        (0, START - BLOCK, 1),
        (0, START + 1, 1),
        (0, START, 0),
        (0, START, 5),
        (0, START + 3 * BLOCK, u16::MAX),
        (0, u64::MAX, 1),
        (1, START, 1),
        (9, START, 1),
    ] {
        assert_eq!(request(&mut driver, kind, address, blocks), (3, 0), "{kind} {address:#x} {blocks}");
    }
    assert_eq!(request(&mut driver, 0, START, 1), (0, 0));
    assert_eq!(request(&mut driver, 0, START, 2), (3, 0), "partly plugged already");
    driver.submit(0, &[&[0; 24]], &[9]);
    driver.kick(0);
    assert!(driver.needs_reset());
}

#[test]
fn region_that_is_not_memory_does_not_activate() {
    let mut driver = Driver::new(Mem::new(START, 1 << 40).unwrap());
    assert!(driver.needs_reset());
    assert!(
        Mem::new(START + 1, BLOCK).is_err() && Mem::new(START, 0).is_err() && Mem::new(!(BLOCK - 1), BLOCK).is_err()
    );
}
