//! The file system device.

use std::io;
use std::os::fd::OwnedFd;

use super::protocol::{IN_HEADER, InHeader, OUT_HEADER};
use super::server::{FsOptions, Reply, Server};
use crate::bus::read_window;
use crate::virtio::device::{Activation, DeviceState, DeviceType, VirtioDevice};
use crate::virtio::fault::DeviceError;
use crate::virtio::{GuestFault, feature};

const TAG_BYTES: usize = 36;

/// The file system device. Its requests are answered by the thread of the event loop it is registered with; a loop of
/// its own keeps a slow disk from holding up other devices.
pub struct Fs {
    server: Server,
    config: [u8; TAG_BYTES + 4],
    features: u64,
    active: Option<Activation>,
}

impl Fs {
    /// Shares the directory `root`. `proc_fd` is `/proc/self/fd`, opened as a directory.
    pub fn new(root: OwnedFd, proc_fd: OwnedFd, options: FsOptions) -> io::Result<Self> {
        let tag = options.tag.as_bytes();
        if tag.is_empty() || tag.len() > TAG_BYTES {
            let problem = format!("The tag {:?} of a shared directory has to have 1 to 36 bytes", options.tag);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let mut config = [0; TAG_BYTES + 4];
        config[..tag.len()].copy_from_slice(tag);
        config[TAG_BYTES..].copy_from_slice(&1u32.to_le_bytes());
        Ok(Self { server: Server::new(root, proc_fd, options)?, config, features: 0, active: None })
    }
}

impl VirtioDevice for Fs {
    fn device_type(&self) -> DeviceType {
        DeviceType::Fs
    }

    /// Urgent messages, requests.
    fn queue_sizes(&self) -> &[u16] {
        &[64, 512]
    }

    fn features(&self) -> u64 {
        feature::COMMON
    }

    fn ack_features(&mut self, features: u64) {
        self.features = features;
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_window(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        self.active = Some(activation);
        Ok(())
    }

    fn active(&self) -> Option<&Activation> {
        self.active.as_ref()
    }

    fn reset(&mut self) {
        self.server.reset();
        self.features = 0;
        self.active = None;
    }

    fn queue_ready(&mut self, number: u16) -> Result<(), DeviceError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let Some(Some(queue)) = active.queues.get_mut(usize::from(number)) else { return Ok(()) };
        let memory = &active.memory;
        loop {
            queue.disable_kicks(memory)?;
            while let Some(chain) = queue.pop(memory)? {
                let mut reader = chain.reader(memory);
                let header = InHeader::decode(&reader.read_array::<IN_HEADER>()?);
                let mut writer = chain.writer(memory);
                let mut body = writer.clone();
                if body.left() >= OUT_HEADER {
                    body.skip(OUT_HEADER)?;
                }
                let (error, length) = match self.server.request(&header, reader, &mut body.clone())? {
                    Ok(Reply::None) => {
                        queue.complete(memory, chain, 0)?;
                        continue;
                    }
                    Ok(Reply::InPlace(length)) => (0, length),
                    Ok(Reply::Bytes(bytes)) if bytes.len() <= body.left() => {
                        body.write(&bytes)?;
                        (0, bytes.len())
                    }
                    Ok(Reply::Bytes(bytes)) => {
                        let (needed, found) = (bytes.len(), body.left());
                        return Err(GuestFault::ShortBuffer { part: "answer", needed, found }.into());
                    }
                    Err(error) => (-error.raw_os_error(), 0),
                };
                let total = OUT_HEADER + length;
                writer.write(&(total as u32).to_le_bytes())?;
                writer.write(&error.to_le_bytes())?;
                writer.write(&header.unique.to_le_bytes())?;
                queue.complete(memory, chain, total)?;
            }
            if !queue.enable_kicks(memory)? {
                break;
            }
        }
        active.notify(number)
    }

    fn save(&self) -> DeviceState {
        DeviceState::Fs(self.server.save(self.features))
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), DeviceError> {
        match state {
            DeviceState::Fs(saved) => {
                self.server.restore(saved);
                Ok(())
            }
            other => Err(other.mismatch("a shared directory")),
        }
    }
}
