//! The transport's state machine and the queue, against a driver that breaks every rule.

use std::time::Duration;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::bus::BusDevice;
use crate::memory::{Memory, anonymous};
use crate::rng::Rng;
use crate::virtio::queue::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE};
use crate::virtio::testing::Driver;

#[test]
fn registers_of_odd_width_or_place_read_all_ones_and_ignore_writes() {
    let mut driver = Driver::new(Rng::new());
    for length in [0, 1, 2, 3, 5, 8, 16] {
        for offset in [0, 1, 0x70, 0xff, 0x1000, u64::MAX - 3] {
            let mut data = vec![0; length];
            driver.transport.read(offset, &mut data);
            assert!(data.iter().all(|&byte| byte == 0xff), "{length} bytes at {offset:#x}");
            driver.transport.write(offset, &vec![0; length]);
        }
    }
    let mut data = [0; 4];
    driver.transport.read(0x71, &mut data);
    assert_eq!(data, [0xff; 4]);
    assert_eq!(driver.status(), 0xf, "no write reached the status register");
    for offset in [0x100, 0x101, 0x555, 0xffc] {
        for length in [1, 3, 4, 9] {
            driver.transport.read(offset, &mut vec![0; length]);
            driver.transport.write(offset, &vec![0; length]);
        }
    }
}

#[test]
fn registers_are_writable_only_in_their_step() {
    let mut driver = Driver::detached(Rng::new());
    driver.write_register(0x70, status::DRIVER);
    assert_eq!(driver.status(), 0, "a driver must acknowledge first");
    driver.write_register(0x70, 1);
    driver.write_register(0x24, 1);
    driver.write_register(0x20, 1);
    driver.write_register(0x70, 0xf);
    assert_eq!(driver.status() & status::FEATURES_OK, 0, "features were written before DRIVER and do not count");
    driver.write_register(0x20, 1);
    driver.write_register(0x38, 8);
    driver.write_register(0x70, 0xb);
    assert_eq!(driver.status(), 0xb);
    driver.write_register(0x20, 0);
    driver.write_register(0x70, 3);
    assert_eq!(driver.status(), 0xb, "bits are never cleared one by one");
    driver.write_register(0x80, 0x1008);
    driver.write_register(0x44, 1);
    assert_eq!(driver.read_register(0x44), 1);
    driver.write_register(0x80, 0x1000);
    driver.write_register(0x70, 0xf);
    assert!(driver.needs_reset(), "the enabled queue is not aligned, its address could not be changed any more");
    let interrupts = driver.interrupts();
    assert!(interrupts > 0, "and the driver is told");
    assert_eq!(driver.read_register(0x60), 2);
    driver.write_register(0x70, 0);
    assert_eq!((driver.status(), driver.read_register(0x44), driver.read_register(0x60)), (0, 0, 0));
    driver.negotiate(u64::MAX);
    assert_eq!(driver.request(0, &[], &[16]).written, 16);
    // Running: the queue stays where it is.
    driver.write_register(0x30, 0);
    driver.write_register(0x44, 0);
    driver.write_register(0x80, 0xdead_0000);
    driver.write_register(0x38, 2);
    assert_eq!(driver.request(0, &[], &[16]).written, 16);
    driver.write_register(0x30, 77);
    assert_eq!(driver.read_register(0x34), 0);
    driver.write_register(0x50, 77);
    driver.run();
}

#[test]
fn unknown_or_missing_features_are_refused() {
    for (low, high) in [(u32::MAX, 1), (0, 0), (0, 3)] {
        let mut driver = Driver::detached(Rng::new());
        driver.write_register(0x70, 1);
        driver.write_register(0x70, 3);
        driver.write_register(0x20, low);
        driver.write_register(0x24, 1);
        driver.write_register(0x20, high);
        driver.write_register(0x70, 0xb);
        assert_eq!(driver.status(), 3, "{low:#x} {high:#x}");
    }
}

#[test]
fn queue_tables_must_be_aligned_memory_of_a_proper_size() {
    let cases: [(u32, u64, u64, u64); 8] = [
        (3, 0x1000, 0x2000, 0x3000),
        (0, 0x1000, 0x2000, 0x3000),
        (128, 0x1000, 0x2000, 0x3000),
        (0x1_0040, 0x1000, 0x2000, 0x3000),
        (64, 0x1008, 0x2000, 0x3000),
        (64, 0x1000, 0x2001, 0x3000),
        (64, 0x1000, 0x2000, 0x3002),
        (64, u64::MAX - 15, 0x2000, 0x3000),
    ];
    for (size, descriptors, available, used) in cases {
        let mut driver = Driver::detached(Rng::new());
        for value in [1, 3] {
            driver.write_register(0x70, value);
        }
        driver.write_register(0x24, 1);
        driver.write_register(0x20, 1);
        driver.write_register(0x70, 0xb);
        for (register, address) in [(0x80, descriptors), (0x90, available), (0xa0, used)] {
            driver.write_register(register, address as u32);
            driver.write_register(register + 4, (address >> 32) as u32);
        }
        driver.write_register(0x38, size);
        driver.write_register(0x44, 1);
        driver.write_register(0x70, 0xf);
        assert!(driver.needs_reset(), "size {size}, tables {descriptors:#x} {available:#x} {used:#x}");
    }
}

#[test]
fn saved_state_that_does_not_fit_is_refused() {
    let mut driver = Driver::new(Rng::new());
    let good = driver.transport.save().unwrap();
    let mut other = Driver::detached(Rng::new());
    let broken: [fn(&mut transport::TransportState); 6] = [
        |state| state.version = 99,
        |state| state.queues.clear(),
        |state| state.driver_features = u64::MAX,
        |state| state.queues[0].0.size = 3,
        |state| state.queues[0].0.used = !3,
        |state| state.device = DeviceState::Stateless(DeviceType::Net),
    ];
    for (number, spoil) in broken.iter().enumerate() {
        let mut state = good.clone();
        spoil(&mut state);
        assert!(other.transport.restore(&state).is_err(), "case {number}");
    }
    other.transport.restore(&good).unwrap();
}

#[test]
fn interrupts_follow_the_drivers_wish() {
    for mask in [u64::MAX, !feature::EVENT_IDX] {
        let mut driver = Driver::with_features(Rng::new(), mask);
        driver.request(0, &[], &[8]);
        assert_eq!(driver.interrupts(), 1);
        let layout = driver.queues[0].layout;
        if mask == u64::MAX {
            // An event index that is not reached.
            let at = GuestAddress(layout.available + 4 + 2 * u64::from(layout.size));
            driver.memory.write_obj(100u16, at).unwrap();
        } else {
            driver.memory.write_obj(1u16, GuestAddress(layout.available)).unwrap();
        }
        driver.request(0, &[], &[8]);
        assert_eq!(driver.interrupts(), 0);
    }
}

/// A descriptor as a hostile driver might write it.
fn descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let address = prop_oneof![
        4 => 0u64..0x8000,
        1 => Just(u64::MAX - 7),
        1 => any::<u64>(),
    ];
    let length = prop_oneof![4 => 0u32..0x200, 1 => any::<u32>(), 1 => (0u32..20).prop_map(|n| n * 16)];
    let flags = prop_oneof![6 => 0u16..4, 1 => 4u16..8, 1 => any::<u16>()];
    (address, length, flags, prop_oneof![8 => 0u16..8, 1 => any::<u16>()])
}

fn write_table(memory: &Memory, at: u64, table: &[(u64, u32, u16, u16)]) {
    for (index, &(address, length, flags, next)) in table.iter().enumerate() {
        let raw = u128::from(address) | u128::from(length) << 64 | u128::from(flags) << 96 | u128::from(next) << 112;
        memory.write_slice(&raw.to_le_bytes(), GuestAddress(at + index as u64 * 16)).unwrap();
    }
}

/// Addresses and lengths.
type Buffers = Vec<(u64, u32)>;

/// The chain as the specification reads, in the plainest way: what `pop` must agree with.
fn model(memory: &Memory, table: u64, size: u16, head: u16) -> Option<(Buffers, Buffers)> {
    let (mut table, mut size, mut index, mut nested) = (table, size, head, false);
    let (mut readable, mut writable) = (Vec::new(), Vec::new());
    let mut total = 0u64;
    for _ in 0..=u32::from(size) + 1025 {
        if index >= size {
            return None;
        }
        let raw: [u8; 16] = memory.read_obj(GuestAddress(table + u64::from(index) * 16)).ok()?;
        let raw = u128::from_le_bytes(raw);
        let (address, length, flags, next) = (raw as u64, (raw >> 64) as u32, (raw >> 96) as u16, (raw >> 112) as u16);
        let inside = address.checked_add(u64::from(length)).is_some_and(|end| end <= 0x1_0000);
        if !inside && length != 0 {
            return None;
        }
        let address = if length == 0 { 0 } else { address };
        if flags & DESC_INDIRECT != 0 {
            if nested || flags & DESC_NEXT != 0 || length == 0 || length % 16 != 0 || length / 16 > 1024 {
                return None;
            }
            (table, size, index, nested) = (address, (length / 16) as u16, 0, true);
            continue;
        }
        if readable.len() + writable.len() >= usize::from(if nested { size } else { 8 }) && !nested {
            return None;
        }
        total += u64::from(length);
        if total > u64::from(u32::MAX) {
            return None;
        }
        match flags & DESC_WRITE != 0 {
            true => writable.push((address, length)),
            false if writable.is_empty() => readable.push((address, length)),
            false => return None,
        }
        if flags & DESC_NEXT == 0 {
            return Some((readable, writable));
        }
        index = next;
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Whatever is in the descriptor table: a chain the model agrees with, or a fault.
    #[test]
    fn chains_are_what_the_model_says(
        table in prop::collection::vec(descriptor(), 8),
        elsewhere in prop::collection::vec(descriptor(), 20),
        elsewhere_at in (0u64..0x60).prop_map(|n| n * 16),
        head in 0u16..9,
        index in prop_oneof![9 => 1u16..9, 1 => any::<u16>()],
    ) {
        let memory = anonymous(&[(0, 0x8000), (0x8000, 0x8000)], false).unwrap();
        write_table(&memory, elsewhere_at, &elsewhere);
        write_table(&memory, 0x9000, &table);
        for slot in 0..8u64 {
            memory.write_obj(head, GuestAddress(0xa004 + slot * 2)).unwrap();
        }
        memory.write_obj(index, GuestAddress(0xa002)).unwrap();
        let state = QueueState { size: 8, descriptors: 0x9000, available: 0xa000, used: 0xb000, ..Default::default() };
        let mut queue = Queue::new(&memory, 0, 8, &state, feature::COMMON).unwrap();
        let popped = queue.pop(&memory);
        if index > 8 {
            prop_assert!(popped.is_err());
        } else if index != 0 {
            let expected = model(&memory, 0x9000, 8, head);
            let plain = |ranges: &[crate::memory::GuestRange]| {
                ranges.iter().map(|r| (r.address().0, r.len() as u32)).collect::<Vec<_>>()
            };
            match popped {
                Ok(Some(chain)) => {
                    let got = Some((plain(chain.readable()), plain(chain.writable())));
                    prop_assert_eq!(got, expected);
                    let mut content = vec![0; chain.readable_len().min(0x1000)];
                    chain.reader(&memory).read(&mut content).unwrap();
                    let room = chain.writable_len();
                    prop_assert!(chain.writer(&memory).write(&vec![1; room + 1]).is_err());
                    queue.complete(&memory, chain, room).unwrap();
                    prop_assert_eq!(memory.read_obj::<u16>(GuestAddress(0xb002)).unwrap(), 1);
                }
                Ok(None) => prop_assert!(false, "a chain was offered"),
                Err(fault) => prop_assert!(expected.is_none(), "{:?} for {:?}", fault, expected),
            }
        }
    }

    /// Requests of any shape are answered, with any features, whatever wraps around.
    #[test]
    fn requests_come_back_once_each(
        mask in prop_oneof![Just(u64::MAX), Just(!feature::EVENT_IDX), Just(!feature::INDIRECT_DESC)],
        indirect in any::<bool>(),
        rounds in prop::collection::vec(1usize..20, 1..20),
    ) {
        let mut driver = Driver::with_features(Rng::new(), mask);
        driver.indirect = indirect && driver.features & feature::INDIRECT_DESC != 0;
        for batch in rounds {
            let mut heads: Vec<u16> = (0..batch).map(|n| driver.submit(0, &[], &[n + 1, 7])).collect();
            driver.write_register(0x50, 0);
            driver.events.run_once(Some(Duration::from_secs(1))).unwrap();
            while let Some(done) = driver.completed(0) {
                let at = heads.iter().position(|&head| head == done.head);
                prop_assert!(at.is_some());
                heads.remove(at.unwrap());
                prop_assert_eq!(done.written, done.data.len());
            }
            prop_assert!(heads.is_empty());
        }
    }
}
