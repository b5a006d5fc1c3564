use super::*;
use crate::virtio::testing::Driver;

#[test]
fn requests_are_filled_and_capped() {
    let mut driver = Driver::new(Rng::new());
    let first = driver.request(0, &[], &[100, 28]);
    assert_eq!(first.written, 128);
    assert!(first.data.iter().any(|&byte| byte != 0));
    assert_ne!(first.data, driver.request(0, &[], &[128]).data);
    assert_eq!(driver.request(0, &[], &[1 << 20]).written, MAX_REQUEST);
    assert!(driver.interrupts() > 0);
}

#[test]
fn chain_without_room_completes_with_nothing() {
    let mut driver = Driver::new(Rng::new());
    assert_eq!(driver.request(0, &[b"readable"], &[]).written, 0);
}

#[test]
fn continues_from_a_snapshot_with_a_request_waiting() {
    let mut driver = Driver::new(Rng::new());
    driver.request(0, &[], &[64]);
    driver.submit(0, &[], &[64]);
    let mut driver = driver.migrate(Rng::new());
    driver.run();
    assert_eq!(driver.completed(0).unwrap().written, 64);
}
