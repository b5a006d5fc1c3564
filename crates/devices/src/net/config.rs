//! Feature bits, configuration space (5.1.3, 5.1.4) and the packet header (5.1.6).

pub const F_CSUM: u64 = 1 << 0;
pub const F_GUEST_CSUM: u64 = 1 << 1;
pub const F_MTU: u64 = 1 << 3;
pub const F_MAC: u64 = 1 << 5;
pub const F_GUEST_TSO4: u64 = 1 << 7;
pub const F_GUEST_TSO6: u64 = 1 << 8;
pub const F_GUEST_ECN: u64 = 1 << 9;
pub const F_HOST_TSO4: u64 = 1 << 11;
pub const F_HOST_TSO6: u64 = 1 << 12;
pub const F_HOST_ECN: u64 = 1 << 13;
pub const F_MRG_RXBUF: u64 = 1 << 15;
pub const F_STATUS: u64 = 1 << 16;

/// What a backend that handles packet headers can do.
pub const OFFLOADS: u64 =
    F_CSUM | F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN;

/// Bytes of `virtio_net_hdr_v1`.
pub const HEADER: usize = 12;
/// Where in it the number of merged buffers is.
pub const NUM_BUFFERS: usize = 10;

/// The greatest packet: 64 KiB of IP, the Ethernet header with a VLAN tag.
pub const MAX_FRAME: usize = 65_535 + 18;

pub fn config_space(mac: [u8; 6], up: bool, mtu: u16) -> [u8; 12] {
    let mut space = [0; 12];
    space[..6].copy_from_slice(&mac);
    space[6] = u8::from(up);
    space[8] = 1;
    space[10..].copy_from_slice(&mtu.to_le_bytes());
    space
}
