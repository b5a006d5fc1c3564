//! Decompresses a blob on a thread of its own and hands the bytes on in bounded pieces.
//!
//! Formats are told by their first bytes, not by the media type: archives in the wild mislabel them.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use sha2::Digest as _;

use super::{Limits, archive::ArchiveError};
use crate::{Digest, Progress, Stage};

/// Bytes of one piece: a few file system extents, and small enough that several fit in a processor's cache.
const PIECE: usize = 256 << 10;
/// Pieces that may wait in a queue.
const QUEUE: usize = 8;
/// The ratio limit holds from here on, so that a small layer full of zeros is no suspect.
const RATIO_FROM: u64 = 1 << 30;

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip (RFC 1952), one or more members.
    Gzip,
    /// Zstandard (RFC 8878), one or more frames.
    Zstd,
}

impl Compression {
    /// Tells the format by the first bytes of a stream (4 are enough).
    pub fn detect(start: &[u8]) -> Compression {
        match start {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // A zstd stream may start with a frame to be skipped.
            [first, 0x2a, 0x4d, 0x18, ..] if first & 0xf0 == 0x50 => Compression::Zstd,
            _ => Compression::None,
        }
    }

    /// The OCI media type of a layer compressed so.
    pub fn media_type(self) -> oci_spec::image::MediaType {
        match self {
            Compression::None => oci_spec::image::MediaType::ImageLayer,
            Compression::Gzip => oci_spec::image::MediaType::ImageLayerGzip,
            Compression::Zstd => oci_spec::image::MediaType::ImageLayerZstd,
        }
    }
}

/// A reader of the plain bytes of `input`, whatever its compression, which is returned too.
pub fn decoder<'a>(input: impl Read + Send + 'a) -> io::Result<(Box<dyn Read + Send + 'a>, Compression)> {
    let mut input = BufReader::with_capacity(128 << 10, input);
    let mut start = Vec::new();
    // A pipe may give its first bytes one at a time.
    input.by_ref().take(4).read_to_end(&mut start)?;
    let compression = Compression::detect(&start);
    let input = io::Cursor::new(start).chain(input);
    Ok((
        match compression {
            Compression::None => Box::new(input),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(input)?),
        },
        compression,
    ))
}

/// A piece of the plain stream; its buffer goes back to the pool when the last reader drops it.
struct Piece {
    bytes: Vec<u8>,
    pool: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Ok(mut pool) = self.pool.lock() {
            pool.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// The plain stream as the consumer reads it.
pub struct Pieces {
    queue: Receiver<io::Result<Arc<Piece>>>,
    current: Option<Arc<Piece>>,
    at: usize,
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.current.as_ref().is_none_or(|piece| self.at == piece.bytes.len()) {
            self.at = 0;
            self.current = None;
            // A closed queue is the end: an error was sent before it.
            if let Ok(piece) = self.queue.recv() {
                self.current = Some(piece?);
            }
        }
        Ok(self.current.as_ref().map_or(&[], |piece| &piece.bytes[self.at..]))
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// Runs `consume` over the plain bytes of `blob` and returns its result with the SHA-256 of all plain bytes.
///
/// Decompression and hashing happen on two threads beside the caller's. When `consume` fails, the threads end with it;
/// when it succeeds it must have read to the end, or the digest is that of a part.
pub fn pipeline<T, E: From<ArchiveError>>(
    blob: File,
    limits: Limits,
    item: &str,
    progress: &dyn Progress,
    consume: impl FnOnce(Pieces) -> Result<T, E>,
) -> Result<(T, Digest), E> {
    let total = blob.metadata().map_err(ArchiveError::from)?.len();
    thread::scope(|scope| {
        let (to_consumer, queue) = sync_channel(QUEUE);
        let (to_hasher, hash_queue) = sync_channel::<Arc<Piece>>(QUEUE);
        scope.spawn(move || {
            let counted = Counted { inner: blob, done: 0, told: 0, total, item, progress };
            if let Err(error) = decode(counted, total, limits, &to_consumer, &to_hasher) {
                // A consumer that is gone has its own error.
                let _ = to_consumer.send(Err(error));
            }
        });
        let hasher = scope.spawn(move || {
            let mut hasher = sha2::Sha256::new();
            for piece in hash_queue {
                hasher.update(&piece.bytes);
            }
            Digest::from(hasher)
        });
        let result = consume(Pieces { queue, current: None, at: 0 })?;
        let digest = hasher.join().map_err(|_| ArchiveError::Malformed("the hashing thread ended".to_owned()))?;
        Ok((result, digest))
    })
}

fn decode(
    input: impl Read + Send,
    compressed: u64,
    limits: Limits,
    to_consumer: &SyncSender<io::Result<Arc<Piece>>>,
    to_hasher: &SyncSender<Arc<Piece>>,
) -> io::Result<()> {
    let (mut plain, _) = decoder(input)?;
    let pool = Arc::new(Mutex::new(Vec::new()));
    let mut sum = 0u64;
    loop {
        let mut bytes = pool.lock().ok().and_then(|mut pool| pool.pop()).unwrap_or_else(|| vec![0; PIECE]);
        bytes.resize(PIECE, 0);
        let mut filled = 0;
        while filled < PIECE {
            match plain.read(&mut bytes[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if filled == 0 {
            return Ok(());
        }
        bytes.truncate(filled);
        sum += filled as u64;
        if sum > limits.bytes {
            return Err(io::Error::other(format!("it unpacks to more than the limit of {} bytes", limits.bytes)));
        }
        if sum > RATIO_FROM && sum / limits.ratio.max(1) > compressed {
            return Err(io::Error::other(format!(
                "{compressed} bytes unpack to more than {} times as many, the limit; it looks like an archive bomb",
                limits.ratio
            )));
        }
        let piece = Arc::new(Piece { bytes, pool: Arc::clone(&pool) });
        let _ = to_hasher.send(Arc::clone(&piece));
        if to_consumer.send(Ok(piece)).is_err() {
            return Ok(());
        }
    }
}

/// Counts what is read and tells the progress of it.
struct Counted<'a> {
    inner: File,
    done: u64,
    told: u64,
    total: u64,
    item: &'a str,
    progress: &'a dyn Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.done += count as u64;
        if self.done - self.told >= 1 << 20 || count == 0 {
            self.told = self.done;
            self.progress.update(Stage::Unpack, self.item, self.done, Some(self.total));
        }
        Ok(count)
    }
}
