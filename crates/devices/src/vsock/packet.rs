//! Packet headers (5.10.6).

/// Bytes of a header.
pub const HEADER: usize = 44;

pub const TYPE_STREAM: u16 = 1;

pub const OP_REQUEST: u16 = 1;
pub const OP_RESPONSE: u16 = 2;
pub const OP_RESET: u16 = 3;
pub const OP_SHUTDOWN: u16 = 4;
pub const OP_DATA: u16 = 5;
pub const OP_CREDIT_UPDATE: u16 = 6;
pub const OP_CREDIT_REQUEST: u16 = 7;

/// The sender of a shutdown will receive no more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// The sender of a shutdown will send no more.
pub const SHUTDOWN_SEND: u32 = 2;

/// A packet without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    pub source_cid: u64,
    pub destination_cid: u64,
    pub source_port: u32,
    pub destination_port: u32,
    pub length: u32,
    pub kind: u16,
    pub operation: u16,
    pub flags: u32,
    pub buffer: u32,
    pub forwarded: u32,
}

impl Header {
    pub fn decode(raw: &[u8; HEADER]) -> Self {
        let u16_at = |at: usize| u16::from_le_bytes([raw[at], raw[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        Self {
            source_cid: u64_at(0),
            destination_cid: u64_at(8),
            source_port: u32_at(16),
            destination_port: u32_at(20),
            length: u32_at(24),
            kind: u16_at(28),
            operation: u16_at(30),
            flags: u32_at(32),
            buffer: u32_at(36),
            forwarded: u32_at(40),
        }
    }

    pub fn encode(&self) -> [u8; HEADER] {
        let mut raw = [0; HEADER];
        raw[0..8].copy_from_slice(&self.source_cid.to_le_bytes());
        raw[8..16].copy_from_slice(&self.destination_cid.to_le_bytes());
        raw[16..20].copy_from_slice(&self.source_port.to_le_bytes());
        raw[20..24].copy_from_slice(&self.destination_port.to_le_bytes());
        raw[24..28].copy_from_slice(&self.length.to_le_bytes());
        raw[28..30].copy_from_slice(&self.kind.to_le_bytes());
        raw[30..32].copy_from_slice(&self.operation.to_le_bytes());
        raw[32..36].copy_from_slice(&self.flags.to_le_bytes());
        raw[36..40].copy_from_slice(&self.buffer.to_le_bytes());
        raw[40..44].copy_from_slice(&self.forwarded.to_le_bytes());
        raw
    }
}
