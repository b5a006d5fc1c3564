//! What decided that cached reads are answered by the event loop's thread: the time of one request, and of 32 at once,
//! with and without. `cargo run --release -p strata-devices --features testing --example block_latency`

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use strata_devices::block::{Block, BlockOptions, Image, Pieces, RawImage};
use strata_devices::virtio::testing::Driver;

/// The same image, but everything is for the workers.
struct Later(RawImage);

impl Image for Later {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read(&self, offset: u64, data: &Pieces<'_>) -> io::Result<()> {
        self.0.read(offset, data)
    }

    fn write(&self, offset: u64, data: &Pieces<'_>) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.0.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        self.0.write_zeroes(offset, length, unmap)
    }
}

fn main() -> io::Result<()> {
    let mut file = tempfile::tempfile()?;
    file.write_all(&vec![7; 64 << 20])?;
    let raw = || RawImage::new(file.try_clone()?, Default::default());
    let now: Arc<dyn Image> = Arc::new(raw()?);
    let later: Arc<dyn Image> = Arc::new(Later(raw()?));
    let mut out = io::stdout();
    for round in 0..3 {
        for (name, image) in [("event loop", &now), ("workers", &later)] {
            for depth in [1, 32] {
                let mut driver = Driver::new(Block::new(image.clone(), BlockOptions::default())?);
                let requests = 3200;
                let started = Instant::now();
                for batch in 0..requests / depth {
                    for number in 0..depth {
                        let sector = (batch * depth + number) as u64 * 7919 % ((64 << 20) / 512 - 8);
                        let header = [&[0u8; 8][..], &sector.to_le_bytes()].concat();
                        driver.submit(0, &[&header], &[4096, 1]);
                    }
                    driver.write_register(0x50, 0);
                    let mut left = depth;
                    while left > 0 {
                        driver.events.run_once(Some(Duration::from_secs(1)))?;
                        while driver.completed(0).is_some() {
                            left -= 1;
                        }
                    }
                }
                let each = started.elapsed() / requests as u32;
                writeln!(out, "round {round}: {name}, {depth} at once: {each:.1?} a request")?;
            }
        }
    }
    Ok(())
}
