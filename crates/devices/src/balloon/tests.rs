use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::testing::Driver;

const PAGE_ADDRESS: u64 = 0x40_0000;

fn byte(driver: &Driver<Balloon>, address: u64) -> u8 {
    driver.memory.read_obj(GuestAddress(address)).unwrap()
}

fn fill(driver: &Driver<Balloon>) {
    driver.memory.write_slice(&[7; 5 * 4096], GuestAddress(PAGE_ADDRESS)).unwrap();
}

fn list(pages: &[u32]) -> Vec<u8> {
    pages.iter().flat_map(|page| page.to_le_bytes()).collect()
}

#[test]
fn inflated_pages_are_given_back_and_their_neighbours_stay() {
    let mut driver = Driver::new(Balloon::new(BalloonOptions::default()));
    fill(&driver);
    driver.device().set_target(3 * 4096 + 5).unwrap();
    assert_eq!(u32::from_le_bytes(driver.config(0)), 3);
    driver.request(0, &[&list(&[0x401, 0x402, 0x400])], &[]);
    let content: Vec<u8> = (0..5).map(|page| byte(&driver, PAGE_ADDRESS + page * 4096)).collect();
    assert_eq!(content, [0, 0, 0, 7, 7]);
    driver.write_register(0x104, 3);
    assert_eq!(driver.device().actual(), 3 * 4096);
    driver.request(1, &[&list(&[0x400, 0x401, 0x402])], &[]);
}

#[test]
fn reported_pages_are_given_back() {
    for with_statistics in [true, false] {
        let mask = if with_statistics { u64::MAX } else { !super::config::F_STATS };
        let mut driver = Driver::with_features(Balloon::new(BalloonOptions::default()), mask);
        let queue = if with_statistics { 3 } else { 2 };
        fill(&driver);
        // Not aligned: only the whole page in between.
        driver.set_descriptor(queue, 0, PAGE_ADDRESS + 100, 8192, 2, 0);
        driver.offer(queue, 0);
        driver.kick(queue);
        let content: Vec<u8> = (0..3).map(|page| byte(&driver, PAGE_ADDRESS + page * 4096 + 200)).collect();
        assert_eq!(content, [7, 0, 7]);
    }
}

#[test]
fn statistics_come_when_asked_for_and_survive_a_snapshot() {
    let statistic = |tag: u16, value: u64| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat();
    let mut driver = Driver::new(Balloon::new(BalloonOptions::default()));
    driver.submit(2, &[&statistic(4, 111), &statistic(5, 222)], &[]);
    driver.kick(2);
    assert!(driver.completed(2).is_none(), "kept until news are wanted");
    assert_eq!(driver.device().statistics()[&5], 222);
    let mut driver = driver.migrate(Balloon::new(BalloonOptions::default()));
    driver.run();
    driver.device().request_statistics().unwrap();
    assert!(driver.completed(2).is_some());
    driver.submit(2, &[&statistic(4, 333).repeat(10_000)], &[]);
    driver.kick(2);
    assert_eq!(*driver.device().statistics(), [(4, 333)].into());
}

#[test]
fn pages_that_do_not_exist_stop_the_device_only() {
    for pages in [&[0xffff_ffffu32][..], &[0x401, 0x9_0000], &[0; 300_000]] {
        let mut driver = Driver::new(Balloon::new(BalloonOptions::default()));
        driver.submit(0, &[&list(pages)], &[]);
        driver.kick(0);
        assert!(driver.needs_reset());
    }
    let mut driver = Driver::new(Balloon::new(BalloonOptions::default()));
    driver.request(0, &[&[1, 2, 3]], &[]);
}
