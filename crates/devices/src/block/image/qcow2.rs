//! qcow2 images (QEMU `docs/interop/qcow2.txt`, versions 2 and 3): clusters that are allocated as they are written, on
//! top of an optional backing image.
//!
//! A guest offset leads through an L1 table (in memory) and an L2 table (cached) to a cluster in the file. Read are
//! plain, zero and compressed (zlib, zstd) clusters and whatever the backing image has. Written are new clusters at
//! the end of the file, with their reference counts.
//!
//! *Order.* Data is written before the L2 entry that points to it, and reference counts before either is flushed; a crash
//! leaks a cluster at worst, as does what is copied from a compressed cluster (the old one stays counted). An image with internal snapshots has clusters that must not be written in place: an entry
//! without the *copied* flag is copied first.
//!
//! *Not here.* Encryption, external data files, extended L2 entries: refused by name. Space is never given back to the
//! file; a discard makes clusters read as zeroes.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Image, Pieces, transfer};
use crate::sys;

const MAGIC: u32 = 0x5146_49fb;

/// Bits of an L1 or L2 entry that are an address.
const ADDRESS: u64 = 0x00ff_ffff_ffff_fe00;
/// The cluster has one reference only: it may be written in place.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeroes.
const ZERO: u64 = 1;

/// The greatest L1 table: 32 MiB, as QEMU has it.
const MAX_L1: u64 = 32 << 20;
/// The greatest table of reference blocks: 8 MiB.
const MAX_REFCOUNT_TABLE: u64 = 8 << 20;
/// The greatest disk.
const MAX_SIZE: u64 = 1 << 56;
/// L2 tables kept in memory: with clusters of 64 KiB they cover 32 GiB of disk with 4 MiB.
const CACHED_TABLES: usize = 64;

/// What makes a file no usable qcow2 image.
#[derive(Debug, thiserror::Error)]
pub enum Qcow2Error {
    /// The file cannot be read.
    #[error("The qcow2 image could not be read: {0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("The file is not a qcow2 image: it begins with {0:#010x}")]
    Magic(u32),
    /// Not versions 2 or 3.
    #[error("The qcow2 image is of version {0}; 2 and 3 are known")]
    Version(u32),
    /// A feature that changes how the image is read.
    #[error("The qcow2 image uses {0}, which is not supported; `qemu-img convert` makes an image without")]
    Feature(&'static str),
    /// A value that cannot be.
    #[error("The qcow2 image is damaged: {field} is {value}")]
    Damaged {
        /// Which.
        field: &'static str,
        /// What it is.
        value: u64,
    },
    /// A backing file is named and none was given, or the other way round.
    #[error("The qcow2 image names the backing file {0:?}, which has to be opened with it")]
    Backing(String),
}

/// What the header says of the image below, before it is opened: path and format, as the image names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingFile {
    /// Relative to the image's directory, unless absolute.
    pub path: String,
}

/// A qcow2 image.
pub struct Qcow2Image {
    file: File,
    size: u64,
    cluster_bits: u32,
    zstd: bool,
    read_only: bool,
    backing: Option<Arc<dyn Image>>,
    tables: Mutex<Tables>,
}

struct Tables {
    l1: Vec<u64>,
    l1_offset: u64,
    /// L2 tables by their address, least recently used first.
    l2: Vec<(u64, Vec<u64>)>,
    refcount_table: Vec<u64>,
    refcount_table_offset: u64,
    /// The first byte after everything.
    end: u64,
    /// The cluster that was decompressed last, by its descriptor.
    decompressed: Option<(u64, Vec<u8>)>,
}

struct Header([u8; 112]);

impl Header {
    fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) << 32 | u64::from(self.u32(at + 4))
    }

    fn read(file: &File) -> Result<Self, Qcow2Error> {
        let mut raw = [0; 112];
        let mut done = 0;
        // A version 2 image may be shorter than the header of version 3.
        while done < raw.len() {
            match file.read_at(&mut raw[done..], done as u64)? {
                0 => break,
                count => done += count,
            }
        }
        let header = Self(raw);
        if header.u32(0) != MAGIC {
            return Err(Qcow2Error::Magic(header.u32(0)));
        }
        match header.u32(4) {
            2 | 3 => Ok(header),
            other => Err(Qcow2Error::Version(other)),
        }
    }
}

/// Where a guest cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Nowhere,
    Zero,
    At { address: u64, copied: bool },
    Compressed(u64),
}

impl Qcow2Image {
    /// The backing file that the image in `file` names, which the caller opens and checks.
    pub fn backing_file(file: &File) -> Result<Option<BackingFile>, Qcow2Error> {
        let header = Header::read(file)?;
        let (offset, length) = (header.u64(8), header.u32(16));
        if offset == 0 {
            return Ok(None);
        }
        if length > 1023 {
            return Err(Qcow2Error::Damaged { field: "the length of the backing file's name", value: length.into() });
        }
        let mut name = vec![0; length as usize];
        file.read_exact_at(&mut name, offset)?;
        Ok(Some(BackingFile { path: String::from_utf8_lossy(&name).into_owned() }))
    }

    /// Opens the image in `file`, with the image below it if it names one.
    pub fn new(file: File, backing: Option<Arc<dyn Image>>, read_only: bool) -> Result<Self, Qcow2Error> {
        let named = Self::backing_file(&file)?;
        if let (Some(named), None) = (&named, &backing) {
            return Err(Qcow2Error::Backing(named.path.clone()));
        }
        let header = Header::read(&file)?;
        let damaged = |field, value| Qcow2Error::Damaged { field, value };
        let cluster_bits = header.u32(20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(damaged("the number of cluster bits", cluster_bits.into()));
        }
        let size = header.u64(24);
        if size > MAX_SIZE {
            return Err(damaged("the size of the disk", size));
        }
        if header.u32(32) != 0 {
            return Err(Qcow2Error::Feature("encryption"));
        }
        let mut zstd = false;
        if header.u32(4) == 3 {
            let incompatible = header.u64(72);
            let refused = [(1 << 2, "an external data file"), (1 << 4, "extended L2 entries")];
            for (bit, name) in refused {
                if incompatible & bit != 0 {
                    return Err(Qcow2Error::Feature(name));
                }
            }
            if incompatible & 2 != 0 {
                return Err(Qcow2Error::Feature("the mark of corruption"));
            }
            if incompatible & 1 != 0 && !read_only {
                return Err(Qcow2Error::Feature(
                    "lazy reference counts that were not repaired (`qemu-img check -r all`)",
                ));
            }
            if incompatible & !0b1001 != 0 {
                return Err(damaged("the set of incompatible features", incompatible));
            }
            if !read_only && header.u32(96) != 4 {
                return Err(Qcow2Error::Feature("reference counts that are not of 16 bits"));
            }
            zstd = incompatible & 8 != 0 && header.0[104] == 1;
        }
        let cluster = 1u64 << cluster_bits;
        let l1_entries = u64::from(header.u32(36));
        let needed = size.div_ceil(cluster * (cluster / 8));
        if l1_entries < needed || l1_entries * 8 > MAX_L1 {
            return Err(damaged("the size of the L1 table", l1_entries));
        }
        let table_clusters = u64::from(header.u32(56));
        if table_clusters == 0 || table_clusters * cluster > MAX_REFCOUNT_TABLE {
            return Err(damaged("the size of the reference count table", table_clusters));
        }
        let length = file.metadata()?.len();
        let read_table = |field, offset: u64, entries: u64| -> Result<Vec<u64>, Qcow2Error> {
            let end = offset.checked_add(entries * 8).filter(|&end| end <= length && offset.is_multiple_of(8));
            end.ok_or(damaged(field, offset))?;
            Ok(read_entries(&file, offset, entries as usize)?)
        };
        let l1 = read_table("the place of the L1 table", header.u64(40), l1_entries)?;
        let refcount_table =
            read_table("the place of the reference count table", header.u64(48), table_clusters * cluster / 8)?;
        let tables = Tables {
            l1,
            l1_offset: header.u64(40),
            l2: Vec::new(),
            refcount_table,
            refcount_table_offset: header.u64(48),
            end: length.next_multiple_of(cluster),
            decompressed: None,
        };
        Ok(Self { file, size: size & !511, cluster_bits, zstd, read_only, backing, tables: Mutex::new(tables) })
    }

    /// Makes an empty image of `size` bytes in `file`, on top of the image at the path `backing` (raw or qcow2, as
    /// `format` says). The file is open for reading and writing.
    pub fn create(file: &File, size: u64, backing: Option<(&str, &str)>) -> io::Result<()> {
        const BITS: u32 = 16;
        const CLUSTER: u64 = 1 << BITS;
        let l1_entries = size.div_ceil(CLUSTER * (CLUSTER / 8)).max(1);
        let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER);
        let name = backing.map_or("", |(path, _)| path);
        if size > MAX_SIZE || l1_entries * 8 > MAX_L1 || name.len() > 1023 {
            return Err(io::Error::new(ErrorKind::InvalidInput, "The disk or the backing file's name is too long"));
        }
        // Cluster 0: header. 1: table of reference blocks. 2: the first of those. From 3: L1 table.
        let mut head = vec![0; 3 * CLUSTER as usize];
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC.to_be_bytes());
        put(4, &3u32.to_be_bytes());
        put(20, &BITS.to_be_bytes());
        put(24, &size.to_be_bytes());
        put(36, &(l1_entries as u32).to_be_bytes());
        put(40, &(3 * CLUSTER).to_be_bytes());
        put(48, &CLUSTER.to_be_bytes());
        put(56, &1u32.to_be_bytes());
        // Reference counts of 2^4 bits; bytes of the header.
        put(96, &4u32.to_be_bytes());
        put(100, &104u32.to_be_bytes());
        if let Some((path, format)) = backing {
            // An extension names the format, so that nobody guesses it from content that a guest wrote.
            put(104, &0xe279_2acau32.to_be_bytes());
            put(108, &(format.len() as u32).to_be_bytes());
            put(112, format.as_bytes());
            let after = 112 + format.len().next_multiple_of(8) + 8;
            put(8, &(after as u64).to_be_bytes());
            put(16, &(path.len() as u32).to_be_bytes());
            put(after, path.as_bytes());
        }
        put(CLUSTER as usize, &(2 * CLUSTER).to_be_bytes());
        for cluster in 0..3 + l1_clusters as usize {
            put(2 * CLUSTER as usize + 2 * cluster, &1u16.to_be_bytes());
        }
        file.set_len(0)?;
        file.write_all_at(&head, 0)?;
        file.set_len((3 + l1_clusters) * CLUSTER)
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// L1 index, L2 index.
    fn indices(&self, offset: u64) -> (usize, usize) {
        let cluster = offset >> self.cluster_bits;
        let l2_bits = self.cluster_bits - 3;
        ((cluster >> l2_bits) as usize, (cluster & ((1 << l2_bits) - 1)) as usize)
    }

    /// The L2 table at `address`, through the cache.
    fn l2<'t>(&self, tables: &'t mut Tables, address: u64) -> io::Result<&'t mut Vec<u64>> {
        if !address.is_multiple_of(self.cluster()) {
            return Err(corrupt("an L2 table is not aligned"));
        }
        match tables.l2.iter().position(|(at, _)| *at == address) {
            Some(found) => {
                let entry = tables.l2.remove(found);
                tables.l2.push(entry);
            }
            None => {
                let table = read_entries(&self.file, address, (self.cluster() / 8) as usize)?;
                if tables.l2.len() >= CACHED_TABLES {
                    tables.l2.remove(0);
                }
                tables.l2.push((address, table));
            }
        }
        tables.l2.last_mut().map(|(_, table)| table).ok_or_else(|| corrupt("no L2 table"))
    }

    fn place(&self, tables: &mut Tables, offset: u64) -> io::Result<Place> {
        let (l1, l2) = self.indices(offset);
        let table = tables.l1.get(l1).copied().unwrap_or(0) & ADDRESS;
        if table == 0 {
            return Ok(Place::Nowhere);
        }
        let entry = self.l2(tables, table)?[l2];
        let address = entry & ADDRESS;
        Ok(if entry & COMPRESSED != 0 {
            Place::Compressed(entry & !(COMPRESSED | COPIED))
        } else if entry & ZERO != 0 {
            Place::Zero
        } else if address == 0 {
            Place::Nowhere
        } else if !address.is_multiple_of(self.cluster()) {
            return Err(corrupt("a cluster is not aligned"));
        } else {
            Place::At { address, copied: entry & COPIED != 0 }
        })
    }

    /// Fills `data`, which lies within one cluster.
    fn read_within(&self, offset: u64, data: &Pieces<'_>) -> io::Result<()> {
        let within = offset & (self.cluster() - 1);
        let place = self.place(&mut self.lock(), offset)?;
        match place {
            Place::Nowhere => match &self.backing {
                // What is beyond the image below reads as zeroes.
                Some(backing) => {
                    let there = backing.size().saturating_sub(offset).min(data.len() as u64) as usize;
                    if there > 0 {
                        backing.read(offset, &data.part(0, there))?;
                    }
                    data.part(there, data.len()).zero();
                }
                None => data.zero(),
            },
            Place::Zero => data.zero(),
            Place::At { address, .. } => {
                let at = address + within;
                transfer(data, |slices, done| sys::read_into_guest(&self.file, slices, Some(at + done)))?;
            }
            Place::Compressed(descriptor) => {
                let mut tables = self.lock();
                let content = self.decompressed(&mut tables, descriptor)?;
                let within = within as usize;
                let bytes = content.get(within..within + data.len()).ok_or_else(|| corrupt("a cluster is short"))?;
                data.copy_from(bytes);
            }
        }
        Ok(())
    }

    fn decompressed<'t>(&self, tables: &'t mut Tables, descriptor: u64) -> io::Result<&'t [u8]> {
        if tables.decompressed.as_ref().is_none_or(|(of, _)| *of != descriptor) {
            let bits = 62 - (self.cluster_bits - 8);
            let address = descriptor & ((1 << bits) - 1);
            let sectors = (descriptor >> bits) + 1;
            let length = (sectors * 512 - (address & 511)) as usize;
            let mut raw = vec![0; length];
            let mut done = 0;
            // The last sector may be cut at the end of the file.
            while done < length {
                match self.file.read_at(&mut raw[done..], address + done as u64)? {
                    0 => break,
                    count => done += count,
                }
            }
            let mut content = vec![0; self.cluster() as usize];
            match self.zstd {
                true => zstd::stream::read::Decoder::new(&raw[..done])?.read_exact(&mut content)?,
                false => flate2::read::DeflateDecoder::new(&raw[..done]).read_exact(&mut content)?,
            }
            tables.decompressed = Some((descriptor, content));
        }
        tables.decompressed.as_ref().map(|(_, content)| &content[..]).ok_or_else(|| corrupt("no content"))
    }

    /// A whole cluster as it reads now.
    fn whole_cluster(&self, tables: &mut Tables, place: Place, start: u64) -> io::Result<Vec<u8>> {
        let mut content = vec![0; self.cluster() as usize];
        match place {
            Place::Zero => {}
            Place::At { address, .. } => self.file.read_exact_at(&mut content, address)?,
            Place::Compressed(descriptor) => content.copy_from_slice(self.decompressed(tables, descriptor)?),
            Place::Nowhere => {
                if let Some(backing) = &self.backing {
                    let there = backing.size().saturating_sub(start).min(self.cluster()) as usize;
                    backing.read(start, &Pieces::own(&mut content[..there]))?;
                }
            }
        }
        Ok(content)
    }

    /// Takes a new cluster at the end of the file and counts the reference.
    fn allocate(&self, tables: &mut Tables) -> io::Result<u64> {
        let address = tables.end;
        tables.end += self.cluster();
        self.count_reference(tables, address)?;
        Ok(address)
    }

    fn count_reference(&self, tables: &mut Tables, address: u64) -> io::Result<()> {
        let per_block = self.cluster() / 2;
        let index = address >> self.cluster_bits;
        let (block, slot) = ((index / per_block) as usize, index % per_block);
        let known = *tables.refcount_table.get(block).ok_or_else(|| {
            io::Error::new(ErrorKind::StorageFull, "The qcow2 image's table of reference counts is full")
        })?;
        let known = if known == 0 {
            let new = tables.end;
            tables.end += self.cluster();
            self.file.write_all_at(&vec![0; self.cluster() as usize], new)?;
            let at = tables.refcount_table_offset + block as u64 * 8;
            tables.refcount_table[block] = new;
            self.file.write_all_at(&new.to_be_bytes(), at)?;
            // The block is a cluster as well, mostly counted by itself.
            self.count_reference(tables, new)?;
            new
        } else {
            known & !511
        };
        self.file.write_all_at(&1u16.to_be_bytes(), known + slot * 2)
    }

    /// The L2 table for `offset`, writable: made or copied as need be.
    fn writable_l2(&self, tables: &mut Tables, offset: u64) -> io::Result<u64> {
        let (l1, _) = self.indices(offset);
        let entry = *tables.l1.get(l1).ok_or_else(|| corrupt("the L1 table is short"))?;
        let old = entry & ADDRESS;
        if old != 0 && entry & COPIED != 0 {
            return Ok(old);
        }
        let table = match old {
            0 => vec![0; (self.cluster() / 8) as usize],
            _ => self.l2(tables, old)?.clone(),
        };
        let address = self.allocate(tables)?;
        let raw: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        self.file.write_all_at(&raw, address)?;
        tables.l1[l1] = address | COPIED;
        let at = tables.l1_offset + l1 as u64 * 8;
        self.file.write_all_at(&(address | COPIED).to_be_bytes(), at)?;
        Ok(address)
    }

    fn set_entry(&self, tables: &mut Tables, offset: u64, entry: u64) -> io::Result<()> {
        let table = self.writable_l2(tables, offset)?;
        let (_, l2) = self.indices(offset);
        self.l2(tables, table)?[l2] = entry;
        self.file.write_all_at(&entry.to_be_bytes(), table + l2 as u64 * 8)
    }

    /// Writes `data`, which lies within one cluster.
    fn write_within(&self, offset: u64, data: &Pieces<'_>) -> io::Result<()> {
        let within = offset & (self.cluster() - 1);
        let mut tables = self.lock();
        let place = self.place(&mut tables, offset)?;
        if let Place::At { address, copied: true } = place {
            drop(tables);
            let at = address + within;
            return transfer(data, |slices, done| sys::write_from_guest(&self.file, slices, Some(at + done)));
        }
        let mut content = match data.len() as u64 == self.cluster() {
            true => vec![0; data.len()],
            false => self.whole_cluster(&mut tables, place, offset - within)?,
        };
        let within = within as usize;
        data.copy_to(&mut content[within..within + data.len()]);
        let address = self.allocate(&mut tables)?;
        self.file.write_all_at(&content, address)?;
        self.set_entry(&mut tables, offset, address | COPIED)
    }

    /// Works through a range cluster by cluster; `each` gets offset, place in the range, length.
    fn by_cluster(
        &self,
        offset: u64,
        length: u64,
        mut each: impl FnMut(u64, usize, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            let at = offset + done;
            let here = (self.cluster() - (at & (self.cluster() - 1))).min(length - done);
            each(at, done as usize, here as usize)?;
            done += here;
        }
        Ok(())
    }
}

impl Image for Qcow2Image {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, data: &Pieces<'_>) -> io::Result<()> {
        self.by_cluster(offset, data.len() as u64, |at, start, length| self.read_within(at, &data.part(start, length)))
    }

    fn write(&self, offset: u64, data: &Pieces<'_>) -> io::Result<()> {
        if self.read_only {
            return Err(ErrorKind::PermissionDenied.into());
        }
        self.by_cluster(offset, data.len() as u64, |at, start, length| self.write_within(at, &data.part(start, length)))
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64, _unmap: bool) -> io::Result<()> {
        if self.read_only {
            return Err(ErrorKind::PermissionDenied.into());
        }
        self.by_cluster(offset, length, |at, _, here| {
            let place = self.place(&mut self.lock(), at)?;
            match place {
                Place::Zero => Ok(()),
                Place::Nowhere if self.backing.is_none() => Ok(()),
                _ => self.write_within(at, &Pieces::own(&mut vec![0; here])),
            }
        })
    }
}

fn read_entries(file: &File, offset: u64, count: usize) -> io::Result<Vec<u64>> {
    let mut raw = vec![0; count * 8];
    file.read_exact_at(&mut raw, offset)?;
    Ok(raw.as_chunks::<8>().0.iter().map(|entry| u64::from_be_bytes(*entry)).collect())
}

fn corrupt(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("The qcow2 image is damaged: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(image: &dyn Image, offset: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0xee; length];
        image.read(offset, &Pieces::own(&mut data)).unwrap();
        data
    }

    fn write(image: &dyn Image, offset: u64, data: &[u8]) {
        image.write(offset, &Pieces::own(&mut data.to_vec())).unwrap();
    }

    fn empty(size: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        Qcow2Image::create(&file, size, None).unwrap();
        file
    }

    /// Every cluster in use is counted once, as `qemu-img check` would find.
    fn check(file: &File) {
        let image = Qcow2Image::new(file.try_clone().unwrap(), None, true).unwrap();
        let tables = image.lock();
        let cluster = image.cluster();
        let mut used = vec![0, tables.refcount_table_offset, tables.l1_offset];
        used.extend(tables.refcount_table.iter().filter(|&&block| block != 0));
        for table in tables.l1.iter().map(|entry| entry & ADDRESS).filter(|&table| table != 0) {
            used.push(table);
            let entries = read_entries(file, table, (cluster / 8) as usize).unwrap();
            used.extend(
                entries.iter().filter(|&&e| e & (COMPRESSED | ZERO) == 0 && e & ADDRESS != 0).map(|e| e & ADDRESS),
            );
        }
        let count = used.len();
        used.sort_unstable();
        used.dedup();
        assert_eq!(used.len(), count, "a cluster is used twice");
        for address in used {
            let index = address / cluster;
            let block = tables.refcount_table[(index / (cluster / 2)) as usize];
            let mut refcount = [0; 2];
            file.read_exact_at(&mut refcount, block + index % (cluster / 2) * 2).unwrap();
            assert_eq!(u16::from_be_bytes(refcount), 1, "cluster {index}");
        }
    }

    #[test]
    fn writes_are_found_again_by_another() {
        let file = empty(3 << 30);
        let image = Qcow2Image::new(file.try_clone().unwrap(), None, false).unwrap();
        assert_eq!(read(&image, 1 << 20, 1024), [0; 1024]);
        for at in [0, 512, (1 << 16) - 512, 1 << 20, (1 << 30) + 512, (3 << 30) - 2048] {
            write(&image, at, &[(at >> 9) as u8 | 1; 2048]);
        }
        image.write_zeroes(1 << 20, 512, true).unwrap();
        image.flush().unwrap();
        drop(image);
        check(&file);
        let image = Qcow2Image::new(file, None, true).unwrap();
        assert_eq!(read(&image, 0, 1024), [[1; 512], [1; 512]].concat());
        assert_eq!(read(&image, (1 << 30) + 512, 2048), [1; 2048]);
        assert_eq!(read(&image, (1 << 20) + 512, 1536), [1; 1536]);
        assert_eq!(read(&image, 1 << 20, 512), [0; 512]);
        assert!(image.write(0, &Pieces::own(&mut [0; 512])).is_err());
    }

    #[test]
    fn backing_image_is_read_below_and_never_written() {
        let below = tempfile::tempfile().unwrap();
        below.write_all_at(&[5; 100_352], 0).unwrap();
        let raw = super::super::RawImage::new(below.try_clone().unwrap(), Default::default()).unwrap();
        let file = tempfile::tempfile().unwrap();
        Qcow2Image::create(&file, 1 << 20, Some(("below.raw", "raw"))).unwrap();
        assert_eq!(Qcow2Image::backing_file(&file).unwrap().unwrap().path, "below.raw");
        assert!(matches!(Qcow2Image::new(file.try_clone().unwrap(), None, false), Err(Qcow2Error::Backing(_))));
        let image = Qcow2Image::new(file, Some(Arc::new(raw)), false).unwrap();
        write(&image, 512, &[9; 512]);
        assert_eq!(read(&image, 0, 1536), [[5; 512], [9; 512], [5; 512]].concat());
        assert_eq!(read(&image, 100_352 - 512, 1024), [[5; 512], [0; 512]].concat(), "beyond its end are zeroes");
        image.write_zeroes(0, 512, false).unwrap();
        assert_eq!(read(&image, 0, 512), [0; 512]);
        let mut content = [0; 1024];
        below.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(content, [5; 1024]);
    }

    #[test]
    fn compressed_clusters_are_read_and_replaced() {
        for use_zstd in [false, true] {
            let file = empty(1 << 20);
            let plain: Vec<u8> = (0..1u32 << 16).map(|at| (at / 100) as u8).collect();
            let packed = if use_zstd {
                file.write_all_at(&8u64.to_be_bytes(), 72).unwrap();
                file.write_all_at(&112u32.to_be_bytes(), 100).unwrap();
                file.write_all_at(&[1], 104).unwrap();
                zstd::stream::encode_all(&plain[..], 1).unwrap()
            } else {
                let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
                encoder.write_all(&plain).unwrap();
                encoder.finish().unwrap()
            };
            let image = Qcow2Image::new(file.try_clone().unwrap(), None, false).unwrap();
            // A neighbour, so that there is an L2 table; then the compressed cluster at an odd place.
            write(&image, 1 << 16, &[3; 512]);
            let at = image.lock().end + 100;
            file.write_all_at(&packed, at).unwrap();
            let sectors = ((at & 511) + packed.len() as u64).div_ceil(512) - 1;
            let bits = 62 - (16 - 8);
            image.set_entry(&mut image.lock(), 0, COMPRESSED | sectors << bits | at).unwrap();
            let image = Qcow2Image::new(file.try_clone().unwrap(), None, false).unwrap();
            assert!(read(&image, 0, 1 << 16) == plain);
            assert!(read(&image, 1024, 512) == plain[1024..1536]);
            write(&image, 1024, &[1; 512]);
            assert!(read(&image, 1024, 512) == [1; 512] && read(&image, 1536, 512) == plain[1536..2048]);
            assert_eq!(read(&image, 1 << 16, 512), [3; 512]);
        }
    }

    #[test]
    fn damaged_headers_are_refused_and_damaged_tables_are_errors() {
        let spoil = |at: u64, bytes: &[u8]| {
            let file = empty(1 << 20);
            file.write_all_at(bytes, at).unwrap();
            Qcow2Image::new(file, None, false)
        };
        for (at, bytes) in [
            (0, &[0; 4][..]),
            (4, &[0, 0, 0, 9]),
            (20, &[0, 0, 0, 40]),
            (24, &[0xff; 8]),
            (24, &[0, 1, 0, 0, 0, 0, 0, 0]),
            (32, &[0, 0, 0, 1]),
            (36, &[0xff; 4]),
            (40, &[0xff; 8]),
            (40, &[0, 0, 0, 0, 0, 0, 0, 1]),
            (48, &[0x7f; 8]),
            (56, &[0xff; 4]),
            (72, &[0xff; 8]),
            (79, &[4]),
            (96, &[0, 0, 0, 6]),
            (8, &[0, 0, 0, 0, 0, 0, 0, 104, 0xff, 0xff, 0xff, 0xff]),
        ] {
            let error = spoil(at, bytes).err().unwrap_or_else(|| panic!("{bytes:x?} at {at} was taken"));
            assert!(!error.to_string().is_empty());
        }
        for entry in [u64::MAX, COMPRESSED | ADDRESS, ADDRESS, COPIED | 0x200, COPIED | ADDRESS] {
            let image = spoil(3 << 16, &entry.to_be_bytes()).unwrap();
            assert!(image.read(0, &Pieces::own(&mut [0; 512])).is_err(), "L1 entry {entry:#x}");
            let file = empty(1 << 20);
            let image = Qcow2Image::new(file, None, false).unwrap();
            write(&image, 0, &[1; 512]);
            image.set_entry(&mut image.lock(), 0, entry & !ZERO).unwrap();
            assert!(image.read(0, &Pieces::own(&mut [0; 512])).is_err(), "L2 entry {entry:#x}");
        }
        let file = empty(1 << 20);
        file.set_len(100).unwrap();
        assert!(Qcow2Image::new(file, None, false).is_err());
    }
}
