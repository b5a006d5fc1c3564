//! The console device.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind};

use super::config::{
    CONSOLE_PORT, Control, DEVICE_READY, F_MULTIPORT, F_SIZE, PORT_ADD, PORT_NAME, PORT_OPEN, PORT_READY, RESIZE,
    config_space,
};
use super::state::{ConsoleState, PortState};
use crate::bus::read_window;
use crate::event_loop::{Interest, Readiness};
use crate::sys;
use crate::virtio::device::{Activation, DeviceState, DeviceType, FIRST_OWN_TOKEN, VirtioDevice};
use crate::virtio::fault::DeviceError;
use crate::virtio::feature;

const CONTROL_TO_GUEST: u16 = 2;
const CONTROL_FROM_GUEST: u16 = 3;

/// Control messages kept for a driver that gives no buffers. Each port causes three; a terminal may be resized often.
const MAX_CONTROL: usize = 256;

/// The host's side of a port. Descriptors must be non-blocking, or of a kind that never blocks (files, terminals in
/// non-blocking mode, pipes, sockets).
#[derive(Default)]
pub struct Port {
    /// What the guest's driver calls it (`/dev/virtio-ports/NAME`); for a console no name is needed.
    pub name: Option<String>,
    /// A console (`hvcN`) rather than a plain channel.
    pub console: bool,
    /// Where the guest's input comes from.
    pub input: Option<File>,
    /// Where the guest's output goes; `None` discards it.
    pub output: Option<File>,
}

#[derive(Default)]
struct PortRuntime {
    open: bool,
    /// Bytes of the chain at the head of the output queue that were written.
    output_done: usize,
    /// The input descriptor is in the event loop.
    input_registered: bool,
    output_registered: bool,
    /// The input has ended.
    input_ended: bool,
}

/// The console device.
pub struct Console {
    ports: Vec<Port>,
    runtime: Vec<PortRuntime>,
    queue_sizes: Vec<u16>,
    size: (u16, u16),
    features: u64,
    control: VecDeque<Vec<u8>>,
    active: Option<Activation>,
}

fn input_queue(port: usize) -> u16 {
    if port == 0 { 0 } else { 2 * port as u16 + 2 }
}

fn port_of(queue: u16) -> usize {
    if queue < 2 { 0 } else { usize::from(queue / 2 - 1) }
}

fn input_token(port: usize) -> u32 {
    FIRST_OWN_TOKEN + 2 * port as u32
}

fn output_token(port: usize) -> u32 {
    input_token(port) + 1
}

impl Console {
    /// A console with these ports (at least one, at most 30), and a terminal of `size` columns and rows.
    pub fn new(mut ports: Vec<Port>, size: (u16, u16)) -> Self {
        ports.truncate(30);
        if ports.is_empty() {
            ports.push(Port { console: true, ..Port::default() });
        }
        let queues = if ports.len() == 1 { 4 } else { 2 * ports.len() + 2 };
        let runtime = ports.iter().map(|_| PortRuntime::default()).collect();
        Self {
            queue_sizes: vec![128; queues],
            ports,
            runtime,
            size,
            features: 0,
            control: VecDeque::new(),
            active: None,
        }
    }

    /// Tells the guest that its terminal has now `columns` and `rows`.
    pub fn resize(&mut self, columns: u16, rows: u16) -> Result<(), DeviceError> {
        self.size = (columns, rows);
        if self.features & F_MULTIPORT != 0 {
            for port in 0..self.ports.len() {
                if self.ports[port].console && self.runtime[port].open {
                    self.send_resize(port as u32);
                }
            }
            self.flush_control()?;
        }
        match &self.active {
            Some(active) => Ok(active.interrupt.config()?),
            None => Ok(()),
        }
    }

    /// Replaces the host's side of a port, as when a terminal attaches.
    pub fn connect(&mut self, port: usize, input: Option<File>, output: Option<File>) -> Result<(), DeviceError> {
        if port >= self.ports.len() {
            return Err(io::Error::new(ErrorKind::InvalidInput, format!("there is no console port {port}")).into());
        }
        self.unregister(port);
        (self.ports[port].input, self.ports[port].output) = (input, output);
        self.runtime[port].input_ended = false;
        self.send_input(port)?;
        self.take_output(port)
    }

    /// A copy of a port's host side, with which another console continues.
    #[cfg(test)]
    pub fn ports_output(&self, port: usize) -> Port {
        let copy = |file: &Option<File>| file.as_ref().and_then(|file| file.try_clone().ok());
        let port = &self.ports[port];
        Port { name: port.name.clone(), console: port.console, input: copy(&port.input), output: copy(&port.output) }
    }

    fn unregister(&mut self, port: usize) {
        let (files, runtime) = (&self.ports[port], &mut self.runtime[port]);
        let Some(active) = &self.active else { return };
        if std::mem::take(&mut runtime.input_registered)
            && let Some(input) = &files.input
        {
            let _ = active.events.remove(input);
        }
        if std::mem::take(&mut runtime.output_registered)
            && let Some(output) = &files.output
        {
            let _ = active.events.remove(output);
        }
    }

    fn send_control(&mut self, message: Control, text: &[u8]) {
        if self.control.len() < MAX_CONTROL {
            self.control.push_back([&message.encode(), text].concat());
        }
    }

    fn send_resize(&mut self, port: u32) {
        // Rows first, as Linux has it and QEMU gives it.
        let (columns, rows) = self.size;
        let size = u32::from(rows) | u32::from(columns) << 16;
        self.send_control(Control { port, event: RESIZE, value: 0 }, &size.to_le_bytes());
    }

    fn flush_control(&mut self) -> Result<(), DeviceError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let Some(Some(queue)) = active.queues.get_mut(usize::from(CONTROL_TO_GUEST)) else { return Ok(()) };
        while let Some(message) = self.control.front() {
            let Some(chain) = queue.pop(&active.memory)? else {
                if queue.enable_kicks(&active.memory)? {
                    continue;
                }
                break;
            };
            let mut writer = chain.writer(&active.memory);
            // A buffer that cannot hold the message gets its beginning.
            let fits = message.len().min(writer.left());
            writer.write(&message[..fits])?;
            queue.complete(&active.memory, chain, fits)?;
            self.control.pop_front();
        }
        active.notify(CONTROL_TO_GUEST)
    }

    fn receive_control(&mut self) -> Result<(), DeviceError> {
        loop {
            let Some(active) = &mut self.active else { return Ok(()) };
            let Some(Some(queue)) = active.queues.get_mut(usize::from(CONTROL_FROM_GUEST)) else { return Ok(()) };
            let Some(chain) = queue.pop(&active.memory)? else {
                if queue.enable_kicks(&active.memory)? {
                    continue;
                }
                break;
            };
            let message = Control::parse(&mut chain.reader(&active.memory))?;
            queue.complete(&active.memory, chain, 0)?;
            self.handle_control(message)?;
        }
        if let Some(active) = &mut self.active {
            active.notify(CONTROL_FROM_GUEST)?;
        }
        self.flush_control()
    }

    fn handle_control(&mut self, message: Control) -> Result<(), DeviceError> {
        let Control { port, event, value } = message;
        match event {
            DEVICE_READY if value == 1 => {
                for port in 0..self.ports.len() as u32 {
                    self.send_control(Control { port, event: PORT_ADD, value: 0 }, &[]);
                }
            }
            PORT_READY if value == 1 => {
                let Some(files) = self.ports.get(port as usize) else { return Ok(()) };
                let (console, name) = (files.console, files.name.clone());
                if console {
                    self.send_control(Control { port, event: CONSOLE_PORT, value: 1 }, &[]);
                    self.send_resize(port);
                }
                if let Some(name) = name {
                    self.send_control(Control { port, event: PORT_NAME, value: 1 }, name.as_bytes());
                }
                self.send_control(Control { port, event: PORT_OPEN, value: 1 }, &[]);
            }
            PORT_OPEN => {
                let Some(runtime) = self.runtime.get_mut(port as usize) else { return Ok(()) };
                runtime.open = value == 1;
                self.send_input(port as usize)?;
            }
            // Failures the driver reports, and what is not known: there is nothing to do about it.
            _ => {}
        }
        Ok(())
    }

    /// Host to guest: fills the buffers that the driver offers with what there is.
    fn send_input(&mut self, port: usize) -> Result<(), DeviceError> {
        let number = input_queue(port);
        let Some(active) = &mut self.active else { return Ok(()) };
        let (files, runtime) = (&self.ports[port], &mut self.runtime[port]);
        let Some(input) = &files.input else { return Ok(()) };
        let Some(Some(queue)) = active.queues.get_mut(usize::from(number)) else { return Ok(()) };
        if runtime.input_ended {
            return Ok(());
        }
        // Wait for input only as long as there are buffers for it: the event is level-triggered.
        let wait = loop {
            let Some(chain) = queue.pop(&active.memory)? else {
                if queue.enable_kicks(&active.memory)? {
                    continue;
                }
                break false;
            };
            let slices = chain.writer(&active.memory).rest_slices()?;
            if slices.is_empty() {
                queue.complete(&active.memory, chain, 0)?;
                continue;
            }
            match sys::read_into_guest(input, &slices, None) {
                Ok(0) => {
                    queue.undo_pop(chain);
                    runtime.input_ended = true;
                    break false;
                }
                Ok(count) => queue.complete(&active.memory, chain, count)?,
                Err(error) => {
                    queue.undo_pop(chain);
                    // Anything but "not now" is the end of the input, as when a terminal has gone.
                    runtime.input_ended = error.kind() != ErrorKind::WouldBlock;
                    break !runtime.input_ended;
                }
            }
        };
        if wait != runtime.input_registered {
            let done = match wait {
                true => active.events.add(input, input_token(port), Interest::Read),
                false => active.events.remove(input),
            };
            // A plain file is always ready and cannot be waited for.
            runtime.input_registered = wait && done.is_ok();
        }
        active.notify(number)
    }

    /// Guest to host: writes what the driver offers, as far as the host takes it.
    fn take_output(&mut self, port: usize) -> Result<(), DeviceError> {
        let number = input_queue(port) + 1;
        let Some(active) = &mut self.active else { return Ok(()) };
        let (files, runtime) = (&mut self.ports[port], &mut self.runtime[port]);
        let Some(Some(queue)) = active.queues.get_mut(usize::from(number)) else { return Ok(()) };
        let mut blocked = false;
        while !blocked {
            let Some(chain) = queue.pop(&active.memory)? else {
                if queue.enable_kicks(&active.memory)? {
                    continue;
                }
                break;
            };
            let mut reader = chain.reader(&active.memory);
            reader.skip(runtime.output_done.min(reader.left()))?;
            while reader.left() > 0 && !blocked {
                let Some(output) = &files.output else { break };
                match sys::write_from_guest(output, &reader.rest_slices()?, None) {
                    Ok(count) => reader.skip(count)?,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => blocked = true,
                    // The reader has gone: the guest's output is discarded from now on.
                    Err(_) => {
                        if std::mem::take(&mut runtime.output_registered) {
                            let _ = active.events.remove(output);
                        }
                        files.output = None;
                    }
                }
            }
            if blocked {
                runtime.output_done = reader.passed();
                queue.undo_pop(chain);
            } else {
                runtime.output_done = 0;
                queue.complete(&active.memory, chain, 0)?;
            }
        }
        if let Some(output) = &files.output
            && blocked != runtime.output_registered
        {
            match blocked {
                true => active.events.add(output, output_token(port), Interest::Write)?,
                false => active.events.remove(output)?,
            }
            runtime.output_registered = blocked;
        }
        active.notify(number)
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> DeviceType {
        DeviceType::Console
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        feature::COMMON | F_SIZE | F_MULTIPORT
    }

    fn ack_features(&mut self, features: u64) {
        self.features = features;
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_window(&config_space(self.size, self.ports.len() as u32), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        self.active = Some(activation);
        if self.features & F_MULTIPORT == 0 {
            self.runtime[0].open = true;
        }
        Ok(())
    }

    fn active(&self) -> Option<&Activation> {
        self.active.as_ref()
    }

    fn reset(&mut self) {
        for port in 0..self.ports.len() {
            self.unregister(port);
            let ended = self.runtime[port].input_ended;
            self.runtime[port] = PortRuntime { input_ended: ended, ..PortRuntime::default() };
        }
        self.control.clear();
        self.features = 0;
        self.active = None;
    }

    fn queue_ready(&mut self, queue: u16) -> Result<(), DeviceError> {
        let multiport = self.features & F_MULTIPORT != 0;
        match queue {
            CONTROL_TO_GUEST if multiport => self.flush_control(),
            CONTROL_FROM_GUEST if multiport => self.receive_control(),
            CONTROL_TO_GUEST | CONTROL_FROM_GUEST => Ok(()),
            _ if port_of(queue) >= self.ports.len() => Ok(()),
            _ if queue.is_multiple_of(2) => self.send_input(port_of(queue)),
            _ => self.take_output(port_of(queue)),
        }
    }

    fn source_ready(&mut self, token: u32, _readiness: Readiness) -> Result<(), DeviceError> {
        let port = (token.wrapping_sub(FIRST_OWN_TOKEN) / 2) as usize;
        if port >= self.ports.len() {
            return Ok(());
        }
        match token % 2 {
            0 => self.send_input(port),
            _ => self.take_output(port),
        }
    }

    fn save(&self) -> DeviceState {
        DeviceState::Console(ConsoleState {
            features: self.features,
            size: self.size,
            control: self.control.iter().cloned().collect(),
            ports: self.runtime.iter().map(|p| PortState { open: p.open, output_done: p.output_done }).collect(),
        })
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), DeviceError> {
        match state {
            DeviceState::Console(saved) if saved.ports.len() == self.ports.len() => {
                self.size = saved.size;
                self.control = saved.control.iter().take(MAX_CONTROL).cloned().collect();
                for (runtime, saved) in self.runtime.iter_mut().zip(&saved.ports) {
                    (runtime.open, runtime.output_done) = (saved.open, saved.output_done);
                }
                Ok(())
            }
            other => Err(other.mismatch("a console with as many ports")),
        }
    }
}
