//! What a guest reaches with loads, stores and port instructions.

/// Registers that a guest reads and writes: memory-mapped or by port instructions.
///
/// The guest chooses offset and width freely; no combination is an error. What does not exist reads as all ones (the
/// value of an undriven bus) and ignores writes.
pub trait BusDevice: Send {
    /// Fills `data` (any length) with the registers from `offset` bytes on, counted from the device's first register.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Takes a write of `data` (any length) at `offset` bytes.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// The answer to a read of what does not exist.
pub fn read_unmapped(data: &mut [u8]) {
    data.fill(0xff);
}

/// Copies the part of `registers` from `offset` on into `data`; what is beyond its end reads as zero, as for a
/// configuration space that a newer driver expects to be longer (4.2.2.2).
pub fn read_window(registers: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let Some(rest) = usize::try_from(offset).ok().and_then(|offset| registers.get(offset..)) else { return };
    let length = rest.len().min(data.len());
    data[..length].copy_from_slice(&rest[..length]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_beyond_the_end_reads_zero() {
        let mut data = [7; 4];
        read_window(&[1, 2, 3], 1, &mut data);
        assert_eq!(data, [2, 3, 0, 0]);
        read_window(&[1, 2, 3], u64::MAX, &mut data);
        assert_eq!(data, [0; 4]);
        read_window(&[1, 2, 3], 0, &mut []);
    }
}
