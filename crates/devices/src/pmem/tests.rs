use super::*;
use crate::virtio::testing::Driver;

#[test]
fn says_where_it_is_and_flushes() {
    let file = tempfile::tempfile().unwrap();
    let mut driver = Driver::new(Pmem::new(Some(file), 4 << 30, ALIGNMENT));
    assert_eq!(u64::from_le_bytes(driver.config(0)), 4 << 30);
    assert_eq!(u64::from_le_bytes(driver.config(8)), ALIGNMENT);
    assert_eq!(driver.request(0, &[&[0; 4]], &[4]).data, [0; 4]);
    let mut driver = driver.migrate(Pmem::new(None, 4 << 30, ALIGNMENT));
    assert_eq!(driver.request(0, &[&[0; 4]], &[4]).data, [0; 4]);
}

#[test]
fn failed_flush_is_reported() {
    // A pipe cannot be flushed.
    let (reader, _writer) = std::io::pipe().unwrap();
    let file = std::fs::File::from(std::os::fd::OwnedFd::from(reader));
    let mut driver = Driver::new(Pmem::new(Some(file), 4 << 30, ALIGNMENT));
    assert_eq!(driver.request(0, &[&[0; 4]], &[4]).data, [0xff; 4]);
}

#[test]
fn unknown_or_short_requests_stop_the_device_only() {
    for (request, room) in [(&[1u8, 0, 0, 0][..], 4), (&[0, 0], 4), (&[0; 4], 3)] {
        let mut driver = Driver::new(Pmem::new(None, 4 << 30, ALIGNMENT));
        driver.submit(0, &[request], &[room]);
        driver.kick(0);
        assert!(driver.needs_reset());
    }
}
