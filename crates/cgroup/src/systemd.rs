//! The systemd driver: systemd makes the cgroup, as a *scope* unit that holds the container's first process.
//!
//! Where systemd owns the hierarchy, what others make beside it can be moved or reset at its next reload. So the
//! container becomes a transient scope of its own, `Delegate=yes`, with the limits systemd knows as properties
//! (systemd.resource-control(5), org.freedesktop.systemd1(5)); the rest is written to the files as without systemd.
//! `linux.cgroupsPath` then has the form `slice:prefix:name`, as runc, Docker and Kubernetes write it.
#![forbid(unsafe_code)]

use crate::Error;
use crate::apply::in_user_namespace;
use crate::cgroup::{Cgroup, ControllerDir};
use crate::convert::{cpu_weight, swap_max};
use crate::dbus::{self, CallError, Connection, Value};
use crate::devices::{Kind, MKNOD, READ, Rule, WRITE};
use crate::layout::{Hierarchy, Layout, clean};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::time::Duration;
use strata_spec::runtime::Resources;

/// How long systemd may take for a job.
const JOB_TIMEOUT: Duration = Duration::from_secs(30);
const SYSTEMD: &str = "org.freedesktop.systemd1";
const SYSTEMD_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// The unit that holds a container's cgroup. Kept in its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unit {
    pub name: String,
    pub slice: String,
    /// Whether it belongs to the user's systemd and not the system's.
    pub user: bool,
}

/// The unit and slice that a `linux.cgroupsPath` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitPath {
    /// `machine.slice`.
    pub slice: String,
    /// `PREFIX-NAME.scope`, or a slice if the name ends so.
    pub unit: String,
}

impl UnitPath {
    /// Takes `slice:prefix:name` apart. Absent, it is `:strata:ID`; an empty slice is `system.slice`, or `user.slice`
    /// with a user's systemd.
    pub fn parse(path: Option<&str>, id: &str, user: bool) -> Result<UnitPath, Error> {
        let refuse = |why| Error::Name { what: "linux.cgroupsPath", value: path.unwrap_or(id).to_owned(), why };
        let parts: Vec<&str> = match path.filter(|p| !p.is_empty()) {
            Some(path) => path.split(':').collect(),
            None => vec!["", "strata", id],
        };
        let [slice, prefix, name] = parts[..] else {
            return Err(refuse("with the systemd driver it reads `slice:prefix:name`"));
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.\\@".contains(c);
        if name.is_empty() || ![slice, prefix, name].iter().all(|part| part.chars().all(allowed)) {
            return Err(refuse("the parts of a unit name are letters, digits and -_.\\@, and the name is not empty"));
        }
        let slice = match slice {
            "" if user => "user.slice",
            "" => "system.slice",
            slice => slice,
        };
        let unit = match (name.ends_with(".slice"), prefix) {
            (true, _) => name.to_owned(),
            (false, "") => format!("{name}.scope"),
            (false, prefix) => format!("{prefix}-{name}.scope"),
        };
        Ok(UnitPath { slice: slice.to_owned(), unit })
    }
}

/// The cgroup of a slice: dashes nest, so `a-b.slice` lies in `/a.slice/a-b.slice` and `-.slice` is the root.
pub fn expand_slice(slice: &str) -> Result<String, Error> {
    let why = "a slice reads like `a-b.slice`, without slashes or empty parts";
    let refuse = || Error::Name { what: "slice", value: slice.to_owned(), why };
    let name = slice.strip_suffix(".slice").filter(|n| !n.is_empty() && !n.contains('/')).ok_or_else(refuse)?;
    if name == "-" {
        return Ok("/".to_owned());
    }
    let mut path = String::new();
    for (end, _) in name.match_indices('-').chain([(name.len(), "")]) {
        path.push('/');
        path.push_str(&name[..end]);
        path.push_str(".slice");
    }
    if name.split('-').any(str::is_empty) {
        return Err(refuse());
    }
    Ok(path)
}

/// Whether systemd owns the cgroups of this host and can be asked for one: it is running (sd_booted(3)), there is version 2
/// alone, and the bus of the system, or of the calling user, answers. Then a cgroup made beside it is an
/// intrusion, which systemd may change at its next reload.
pub fn preferred() -> bool {
    // What is cheap to find out comes first: this is asked before every start.
    Path::new("/run/systemd/system").is_dir()
        && matches!(Layout::detect(), Ok(Layout::V2(_)))
        && dbus::connect_socket(&bus_address(for_user())).is_ok()
}

/// Whether the user's own systemd is the one to ask.
fn for_user() -> bool {
    !rustix::process::geteuid().is_root() || in_user_namespace()
}

fn bus_address(user: bool) -> String {
    let variable = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    match user {
        false => {
            variable("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_else(|| "unix:path=/run/dbus/system_bus_socket".to_owned())
        }
        true => variable("DBUS_SESSION_BUS_ADDRESS")
            .or_else(|| variable("XDG_RUNTIME_DIR").map(|dir| format!("unix:path={dir}/bus")))
            .unwrap_or_else(|| format!("unix:path=/run/user/{}/bus", rustix::process::geteuid().as_raw())),
    }
}

/// systemd, reached over its bus.
#[derive(Debug)]
pub(crate) struct Systemd {
    connection: Connection,
}

impl Systemd {
    /// Connects to the system's systemd, or to that of the calling user.
    pub fn connect(user: bool) -> Result<Systemd, Error> {
        Systemd::connect_to(&bus_address(user))
    }

    pub fn connect_to(address: &str) -> Result<Systemd, Error> {
        let absent = |e: io::Error| {
            Error::Unsupported(format!(
                "the systemd cgroup driver needs systemd, and its bus at {address} does not answer: {e}; start systemd \
                 and dbus, or use the cgroupfs driver with a plain linux.cgroupsPath"
            ))
        };
        let stream = dbus::connect_socket(address).map_err(absent)?;
        let connection = Connection::open(stream).map_err(|e| match e {
            CallError::Connection(e) => absent(e),
            refused => failed("Hello", refused),
        })?;
        let mut systemd = Systemd { connection };
        // Signals of jobs are sent only to who asked for them, on the bus and in systemd.
        let rule = format!("type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved'");
        let bus = "org.freedesktop.DBus";
        let matched = systemd.connection.call(bus, "/org/freedesktop/DBus", bus, "AddMatch", vec![Value::Str(rule)]);
        matched.map_err(|e| failed("AddMatch", e))?;
        systemd.manager("Subscribe", Vec::new()).map_err(|e| failed("Subscribe", e))?;
        Ok(systemd)
    }

    fn manager(&mut self, member: &str, body: Vec<Value>) -> Result<Vec<Value>, CallError> {
        self.connection.call(SYSTEMD, SYSTEMD_PATH, MANAGER, member, body)
    }

    /// Calls a method that starts a job, and waits until the job is done.
    fn job(&mut self, member: &'static str, body: Vec<Value>) -> Result<(), CallError> {
        let reply = self.manager(member, body)?;
        let job = reply.first().and_then(Value::text).unwrap_or_default().to_owned();
        let result = self.connection.wait_signal(JOB_TIMEOUT, |signal| {
            let [_, path, _, result] = &signal.body[..] else { return None };
            let done = signal.member.as_deref() == Some("JobRemoved") && path.text() == Some(&job);
            done.then(|| result.text().unwrap_or_default().to_owned())
        })?;
        if result == "done" {
            return Ok(());
        }
        Err(CallError::Refused { name: format!("job {result}"), text: "see the unit's log with journalctl -u".into() })
    }

    pub fn start(&mut self, unit: &str, properties: &Properties) -> Result<(), Error> {
        let body = || {
            let auxiliary = Value::Array("(sa(sv))".to_owned(), Vec::new());
            vec![Value::str(unit), Value::str("replace"), to_value(properties), auxiliary]
        };
        let mut started = self.job("StartTransientUnit", body());
        if matches!(&started, Err(CallError::Refused { name, .. }) if name.ends_with(".UnitExists")) {
            // A failed unit of the same name stays known until it is reset.
            self.reset(unit);
            started = self.job("StartTransientUnit", body());
        }
        started.map_err(|e| failed("StartTransientUnit", e))
    }

    pub fn set(&mut self, unit: &str, properties: &Properties) -> Result<(), Error> {
        let body = vec![Value::str(unit), Value::Bool(true), to_value(properties)];
        self.manager("SetUnitProperties", body).map_err(|e| failed("SetUnitProperties", e))?;
        Ok(())
    }

    /// Stops a unit; one that has gone already is fine.
    pub fn stop(&mut self, unit: &str) -> Result<(), Error> {
        match self.job("StopUnit", vec![Value::str(unit), Value::str("replace")]) {
            Err(CallError::Refused { name, .. }) if name.ends_with(".NoSuchUnit") => return Ok(()),
            done => done.map_err(|e| failed("StopUnit", e))?,
        }
        self.reset(unit);
        Ok(())
    }

    fn reset(&mut self, unit: &str) {
        // It is an error to reset a unit that did not fail.
        let _ = self.manager("ResetFailedUnit", vec![Value::str(unit)]);
    }

    /// The cgroup below which this systemd makes its own: `/user.slice/user-1000.slice/user@1000.service`.
    fn base(&mut self) -> Result<String, Error> {
        let properties = "org.freedesktop.DBus.Properties";
        let body = vec![Value::str(MANAGER), Value::str("ControlGroup")];
        let reply = self.connection.call(SYSTEMD, SYSTEMD_PATH, properties, "Get", body);
        let reply = reply.map_err(|e| failed("Get ControlGroup", e))?;
        Ok(reply.first().and_then(Value::text).unwrap_or_default().to_owned())
    }
}

fn failed(call: &str, e: CallError) -> Error {
    Error::Systemd {
        call: call.to_owned(),
        reason: match e {
            CallError::Refused { name, text } => format!("{text} ({name})"),
            CallError::Connection(e) => e.to_string(),
        },
    }
}

/// Unit properties by name.
pub(crate) type Properties = Vec<(&'static str, Value)>;

fn to_value(properties: &Properties) -> Value {
    let pair = |(name, value): &(&str, Value)| Value::Struct(vec![Value::str(*name), Value::variant(value.clone())]);
    Value::Array("(sv)".to_owned(), properties.iter().map(pair).collect())
}

/// The limits of `r` that systemd knows. It must know them, or its next reload takes them away.
pub(crate) fn properties(r: &Resources, v2: bool) -> Result<Properties, Error> {
    let mut list: Properties = Vec::new();
    // systemd writes "infinity" as the largest number.
    let bytes = |n: i64| Value::U64(u64::try_from(n).unwrap_or(u64::MAX));
    if let Some(m) = &r.memory {
        let limit = m.limit.filter(|&l| l != 0);
        list.extend(limit.map(|l| (if v2 { "MemoryMax" } else { "MemoryLimit" }, bytes(l))));
        if v2 {
            list.extend(m.reservation.filter(|&r| r != 0).map(|r| ("MemoryLow", bytes(r))));
            // An update of swap alone counts from the limit in force, which only the files tell.
            if limit.is_some() || m.swap == Some(-1) {
                list.extend(swap_max(limit, m.swap)?.map(|s| ("MemorySwapMax", bytes(s))));
            }
        }
    }
    if let Some(c) = &r.cpu {
        let shares = c.shares.filter(|&s| s != 0);
        list.extend(shares.map(|s| match v2 {
            true => ("CPUWeight", Value::U64(cpu_weight(s))),
            false => ("CPUShares", Value::U64(s)),
        }));
        if let Some(period) = c.period.filter(|&p| p != 0) {
            list.push(("CPUQuotaPeriodUSec", Value::U64(period)));
        }
        if let Some(quota) = c.quota.filter(|&q| q != 0) {
            let per_second = match u64::try_from(quota) {
                Err(_) => u64::MAX,
                Ok(quota) => {
                    let period = c.period.filter(|&p| p != 0).unwrap_or(100_000);
                    // systemd keeps whole percents; rounding up never takes time away.
                    let micros = (u128::from(quota) * 1_000_000 / u128::from(period)).next_multiple_of(10_000);
                    u64::try_from(micros).unwrap_or(u64::MAX)
                }
            };
            list.push(("CPUQuotaPerSecUSec", Value::U64(per_second)));
        }
        if v2 {
            for (name, text) in [("AllowedCPUs", &c.cpus), ("AllowedMemoryNodes", &c.mems)] {
                if let Some(text) = text.as_deref().filter(|t| !t.is_empty()) {
                    list.push((name, Value::bytes(&bit_mask(text)?)));
                }
            }
        }
    }
    if let Some(limit) = r.pids.and_then(|p| p.limit) {
        list.push(("TasksMax", bytes(if limit > 0 { limit } else { -1 })));
    }
    if !v2 && let Some(weight) = r.block_io.as_ref().and_then(|b| b.weight).filter(|&w| w != 0) {
        list.push(("BlockIOWeight", Value::U64(weight.into())));
    }
    if !r.devices.is_empty() {
        list.extend(device_properties(&Rule::check_all(&r.devices)?, Path::new("/")));
    }
    Ok(list)
}

/// `0-3,7` as a mask, least significant bit and byte first.
fn bit_mask(list: &str) -> Result<Vec<u8>, Error> {
    let refuse = || Error::Value {
        setting: "CPU or memory-node list",
        value: format!("{list:?}"),
        why: "it reads like 0-3,7".to_owned(),
    };
    let mut mask = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |n: &str| n.trim().parse::<usize>().ok().filter(|&n| n < 1 << 16).ok_or_else(refuse);
        for bit in number(first)?..=number(last)? {
            if mask.len() <= bit / 8 {
                mask.resize(bit / 8 + 1, 0);
            }
            mask[bit / 8] |= 1 << (bit % 8);
        }
    }
    Ok(mask)
}

/// The device list in systemd's words, which name nodes by path or a driver's whole range (`char-pts`). What those
/// cannot say is left to the list or program that is set directly.
fn device_properties(rules: &[Rule], root: &Path) -> Properties {
    let mut policy = "strict";
    let mut allow: Vec<Value> = Vec::new();
    let drivers = std::fs::read_to_string(root.join("proc/devices")).unwrap_or_default();
    for rule in rules {
        if rule.is_total() {
            policy = if rule.allow { "auto" } else { "strict" };
            allow.clear();
            continue;
        }
        if !rule.allow {
            continue;
        }
        let access: String =
            [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].iter().filter(|p| rule.access & p.0 != 0).map(|p| p.1).collect();
        for kind in [Kind::Block, Kind::Char] {
            let word = if kind == Kind::Block { "block" } else { "char" };
            if rule.kind.is_some_and(|k| k != kind) {
                continue;
            }
            let name = match (rule.major, rule.minor) {
                (None, None) => format!("{word}-*"),
                (Some(major), None) => match driver_name(&drivers, kind, major) {
                    Some(name) => format!("{word}-{name}"),
                    None => continue,
                },
                (Some(major), Some(minor)) => format!("/dev/{word}/{major}:{minor}"),
                (None, Some(_)) => continue,
            };
            allow.push(Value::Struct(vec![Value::str(name), Value::str(access.clone())]));
        }
    }
    let empty = Value::Array("(ss)".to_owned(), Vec::new());
    // The empty list takes away what an earlier update allowed.
    vec![
        ("DevicePolicy", Value::str(policy)),
        ("DeviceAllow", empty),
        ("DeviceAllow", Value::Array("(ss)".to_owned(), allow)),
    ]
}

/// The name of a major number in `/proc/devices`.
fn driver_name(text: &str, kind: Kind, major: u32) -> Option<String> {
    let heading = if kind == Kind::Block { "Block devices:" } else { "Character devices:" };
    let lines = text.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.is_empty());
    let mut pairs = lines.filter_map(|line| line.trim().split_once(' '));
    pairs.find(|(number, _)| number.parse() == Ok(major)).map(|(_, name)| name.trim().to_owned())
}

impl Cgroup {
    /// Like [`create`](Cgroup::create), but systemd makes the cgroup and puts process `pid` into it; `path` reads
    /// `slice:prefix:name`. See [`make_systemd`](Cgroup::make_systemd).
    pub fn create_systemd(
        layout: &Layout,
        path: Option<&str>,
        id: &str,
        resources: &Resources,
        pid: i32,
    ) -> Result<Cgroup, Error> {
        let cgroup = Cgroup::plan_systemd(layout, path, id)?;
        cgroup.make_systemd(id, resources, pid)?;
        Ok(cgroup)
    }

    /// Where [`create_systemd`](Cgroup::create_systemd) would make the cgroup, without making anything.
    pub fn plan_systemd(layout: &Layout, path: Option<&str>, id: &str) -> Result<Cgroup, Error> {
        let user = for_user();
        let base = if user { Systemd::connect(true)?.base()? } else { String::new() };
        plan(&base, user, layout, path, id)
    }

    /// Has systemd start the planned unit with process `pid` in it, and applies `resources`. Where version 1
    /// hierarchies exist, systemd manages some of them only, so the process must still enter through
    /// [`join_handles`](Cgroup::join_handles). When this fails, the unit ends with the process.
    pub fn make_systemd(&self, id: &str, resources: &Resources, pid: i32) -> Result<(), Error> {
        let user = self.scope.as_ref().is_some_and(|unit| unit.user);
        self.make_with(&mut Systemd::connect(user)?, id, resources, pid)
    }

    fn make_with(&self, systemd: &mut Systemd, id: &str, resources: &Resources, pid: i32) -> Result<(), Error> {
        let Some(unit) = &self.scope else {
            let why = "this cgroup was planned for the cgroupfs driver, and systemd has no unit for it";
            return Err(Error::Unsupported(why.to_owned()));
        };
        let v2 = self.v1.is_empty();
        let yes = Value::Bool(true);
        let mut list: Properties = vec![
            ("Description", Value::Str(format!("strata container {id}"))),
            ("DefaultDependencies", Value::Bool(false)),
            ("MemoryAccounting", yes.clone()),
            ("CPUAccounting", yes.clone()),
            (if v2 { "IOAccounting" } else { "BlockIOAccounting" }, yes.clone()),
            ("TasksAccounting", yes.clone()),
        ];
        if unit.name.ends_with(".slice") {
            list.push(("Wants", Value::Array("s".to_owned(), vec![Value::str(&unit.slice)])));
        } else {
            let pid = u32::try_from(pid).unwrap_or(0);
            list.extend([
                ("Slice", Value::str(&unit.slice)),
                ("Delegate", yes),
                ("PIDs", Value::Array("u".to_owned(), vec![Value::U32(pid)])),
            ]);
        }
        list.extend(properties(resources, v2)?);
        systemd.start(&unit.name, &list)?;
        self.make(resources)
    }

    /// Tells systemd of changed limits, if it holds the cgroup.
    pub(crate) fn apply_systemd(&self, r: &Resources) -> Result<(), Error> {
        let Some(unit) = &self.scope else { return Ok(()) };
        let properties = properties(r, self.v1.is_empty())?;
        if properties.is_empty() {
            return Ok(());
        }
        Systemd::connect(unit.user)?.set(&unit.name, &properties)
    }

    pub(crate) fn stop_systemd(&self) -> Result<(), Error> {
        match &self.scope {
            Some(unit) => Systemd::connect(unit.user)?.stop(&unit.name),
            None => Ok(()),
        }
    }
}

/// The cgroup of a unit, below the cgroup `base` of its systemd.
fn plan(base: &str, user: bool, layout: &Layout, path: Option<&str>, id: &str) -> Result<Cgroup, Error> {
    let UnitPath { slice, unit } = UnitPath::parse(path, id, user)?;
    let path = if unit.ends_with(".slice") {
        clean(&format!("{base}{}", expand_slice(&unit)?))
    } else {
        clean(&format!("{base}{}/{unit}", expand_slice(&slice)?))
    };
    let place = |h: &Hierarchy| ControllerDir {
        controllers: h.controllers.clone(),
        mount_point: h.mount_point.clone(),
        path: path.clone(),
    };
    Ok(Cgroup {
        v1: layout.v1().iter().map(place).collect(),
        v2: layout.v2().map(place),
        scope: Some(Unit { name: unit, slice, user }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dbus::{Kind as MessageKind, Message};
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;
    use strata_spec::runtime::{Cpu, DeviceRule, Memory, Pids};

    /// A bus with a systemd on it, as far as these tests go: it speaks the protocol over a socket of its own, keeps the
    /// calls it got, and answers with `answer`.
    struct FakeBus {
        address: String,
        server: std::thread::JoinHandle<Vec<Message>>,
        _dir: tempfile::TempDir,
    }

    type Answer = Result<Vec<Value>, &'static str>;

    fn read_message(stream: &mut UnixStream) -> Option<Message> {
        let mut bytes = vec![0; 16];
        stream.read_exact(&mut bytes).ok()?;
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let length = (16 + word(12)).next_multiple_of(8) + word(4);
        bytes.resize(length, 0);
        stream.read_exact(&mut bytes[16..]).ok()?;
        Some(Message::from_bytes(&bytes).unwrap())
    }

    impl FakeBus {
        fn start(mut answer: impl FnMut(&Message) -> Answer + Send + 'static) -> FakeBus {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("bus");
            let listener = UnixListener::bind(&path).unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = Vec::new();
                while !line.ends_with(b"\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    line.extend(byte);
                }
                assert_eq!(line, b"\0AUTH EXTERNAL\r\n");
                stream.write_all(b"DATA\r\n").unwrap();
                let mut data = [0; 6];
                stream.read_exact(&mut data).unwrap();
                assert_eq!(&data, b"DATA\r\n");
                stream.write_all(b"OK 0123456789abcdef\r\n").unwrap();
                let mut begin = [0; 7];
                stream.read_exact(&mut begin).unwrap();
                assert_eq!(&begin, b"BEGIN\r\n");
                let mut calls = Vec::new();
                let mut serial = 0;
                while let Some(call) = read_message(&mut stream) {
                    let answered = answer(&call);
                    let job = matches!(call.member.as_deref(), Some("StartTransientUnit" | "StopUnit"));
                    let path = format!("/org/freedesktop/systemd1/job/{}", call.serial);
                    let mut out = Vec::new();
                    serial += 1;
                    let mut reply = Message::new(MessageKind::Return, serial);
                    reply.reply_to = Some(call.serial);
                    let mut result = "done";
                    match answered {
                        Ok(body) => reply.body = body,
                        // A word without dots is the result of the job.
                        Err(name) if !name.contains('.') => result = name,
                        Err(name) => {
                            reply.kind = MessageKind::Error;
                            reply.error_name = Some(name.to_owned());
                            reply.body = vec![Value::str("as told")];
                        }
                    }
                    if job && reply.kind == MessageKind::Return {
                        reply.body = vec![Value::ObjectPath(path.clone())];
                        // Signals of other jobs come first, and this one's even before the reply.
                        for (job, result) in [("/other/job", "failed"), (&path, result)] {
                            serial += 1;
                            let mut signal = Message::new(MessageKind::Signal, serial);
                            signal.member = Some("JobRemoved".into());
                            signal.body = vec![
                                Value::U32(7),
                                Value::ObjectPath(job.to_owned()),
                                Value::str("x.scope"),
                                Value::str(result),
                            ];
                            out.extend(signal.to_bytes());
                        }
                    }
                    out.extend(reply.to_bytes());
                    // In pieces, as a stream may arrive.
                    for piece in out.chunks(11) {
                        stream.write_all(piece).unwrap();
                    }
                    calls.push(call);
                }
                calls
            });
            FakeBus { address: format!("unix:path={}", path.display()), server, _dir: dir }
        }

        fn calls(self) -> Vec<Message> {
            self.server.join().unwrap()
        }
    }

    fn property<'a>(list: &'a [Value], name: &str) -> Option<&'a Value> {
        list.iter().find_map(|pair| match pair {
            Value::Struct(pair) if pair[0].text() == Some(name) => match &pair[1] {
                Value::Variant(value) => Some(&**value),
                _ => None,
            },
            _ => None,
        })
    }

    fn fake_v2(dir: &Path) -> Layout {
        std::fs::write(dir.join("cgroup.controllers"), "memory pids\n").unwrap();
        std::fs::write(dir.join("cgroup.subtree_control"), "memory pids\n").unwrap();
        let mountinfo = format!("30 1 0:26 / {} rw - cgroup2 cgroup2 rw\n", dir.display());
        Layout::detect_from(&mountinfo, "0::/init.scope\n").unwrap()
    }

    #[test]
    fn a_scope_is_started_with_the_process_and_its_limits_and_then_changed() {
        let root = tempfile::tempdir().unwrap();
        let layout = fake_v2(root.path());
        let scope: PathBuf = root.path().join("a.slice/a-b.slice/strata-box.scope");
        let made = scope.clone();
        let bus = FakeBus::start(move |call| {
            if call.member.as_deref() == Some("StartTransientUnit") {
                std::fs::create_dir_all(&made).unwrap();
                for level in made.ancestors().take(3) {
                    std::fs::write(level.join("cgroup.subtree_control"), "memory pids\n").unwrap();
                }
                for file in ["memory.max", "memory.swap.max", "pids.max"] {
                    std::fs::write(made.join(file), "").unwrap();
                }
                std::fs::write(made.join("cgroup.procs"), "4242\n").unwrap();
            }
            Ok(Vec::new())
        });
        let resources = Resources {
            memory: Some(Memory { limit: Some(1 << 20), swap: Some(3 << 20), ..Memory::default() }),
            pids: Some(Pids { limit: Some(9) }),
            ..Resources::default()
        };
        let mut systemd = Systemd::connect_to(&bus.address).unwrap();
        let path = Some("a-b.slice:strata:box");
        let cgroup = plan("", false, &layout, path, "box").unwrap();
        cgroup.make_with(&mut systemd, "box", &resources, 4242).unwrap();
        assert_eq!(cgroup.v2().unwrap().dir(), scope);
        assert_eq!(std::fs::read_to_string(scope.join("memory.max")).unwrap(), "1048576");
        assert_eq!(std::fs::read_to_string(scope.join("memory.swap.max")).unwrap(), "2097152");
        systemd.set("strata-box.scope", &properties(&resources, true).unwrap()).unwrap();
        systemd.stop("strata-box.scope").unwrap();
        drop(systemd);
        let calls = bus.calls();
        let members: Vec<_> = calls.iter().filter_map(|c| c.member.as_deref()).collect();
        let expected = [
            "Hello",
            "AddMatch",
            "Subscribe",
            "StartTransientUnit",
            "SetUnitProperties",
            "StopUnit",
            "ResetFailedUnit",
        ];
        assert_eq!(members, expected);
        assert_eq!(calls[3].body[0].text(), Some("strata-box.scope"));
        assert_eq!(calls[3].body[1].text(), Some("replace"));
        let Value::Array(_, list) = &calls[3].body[2] else { panic!("{:?}", calls[3].body) };
        assert_eq!(property(list, "PIDs"), Some(&Value::Array("u".into(), vec![Value::U32(4242)])));
        assert_eq!(property(list, "Slice"), Some(&Value::str("a-b.slice")));
        assert_eq!(property(list, "Delegate"), Some(&Value::Bool(true)));
        assert_eq!(property(list, "MemoryMax"), Some(&Value::U64(1 << 20)));
        assert_eq!(property(list, "MemorySwapMax"), Some(&Value::U64(2 << 20)));
        assert_eq!(property(list, "TasksMax"), Some(&Value::U64(9)));
        assert_eq!(calls[4].body[1], Value::Bool(true));
    }

    #[test]
    fn a_failed_unit_of_the_same_name_is_reset_and_a_failed_job_is_an_error() {
        let mut starts = 0;
        let bus = FakeBus::start(move |call| {
            starts += u32::from(call.member.as_deref() == Some("StartTransientUnit"));
            match (call.member.as_deref(), starts) {
                (Some("StartTransientUnit"), 1) => Err("org.freedesktop.systemd1.UnitExists"),
                (Some("StartTransientUnit"), 3) => Err("dependency"),
                (Some("StopUnit"), _) => Err("org.freedesktop.systemd1.NoSuchUnit"),
                (Some("ResetFailedUnit"), _) => Err("org.freedesktop.systemd1.NoSuchUnit"),
                _ => Ok(Vec::new()),
            }
        });
        let mut systemd = Systemd::connect_to(&bus.address).unwrap();
        systemd.start("x.scope", &Vec::new()).unwrap();
        let error = systemd.start("x.scope", &Vec::new()).unwrap_err().to_string();
        assert!(error.contains("StartTransientUnit failed") && error.contains("job dependency"), "{error}");
        systemd.stop("x.scope").unwrap();
        drop(systemd);
        bus.calls();
    }

    #[test]
    fn a_users_systemd_is_asked_where_its_cgroups_are() {
        let root = tempfile::tempdir().unwrap();
        let layout = fake_v2(root.path());
        let service = "/user.slice/user-1000.slice/user@1000.service";
        let bus = FakeBus::start(move |call| match call.member.as_deref() {
            Some("Get") => Ok(vec![Value::variant(Value::str(service))]),
            _ => Ok(Vec::new()),
        });
        let mut made = root.path().to_owned();
        for part in service.split('/').chain(["user.slice", "strata-c1.scope"]) {
            made.push(part);
            std::fs::create_dir_all(&made).unwrap();
            std::fs::write(made.join("cgroup.subtree_control"), "memory pids").unwrap();
        }
        let mut systemd = Systemd::connect_to(&bus.address).unwrap();
        let cgroup = plan(&systemd.base().unwrap(), true, &layout, None, "c1").unwrap();
        cgroup.make_with(&mut systemd, "c1", &Resources::default(), 1).unwrap();
        assert_eq!(cgroup.v2().unwrap().path, format!("{service}/user.slice/strata-c1.scope"));
        drop(systemd);
        bus.calls();
    }

    #[test]
    fn without_systemd_the_error_says_what_to_do() {
        let error = Systemd::connect_to("unix:path=/nonexistent/bus").unwrap_err().to_string();
        assert!(error.contains("/nonexistent/bus") && error.contains("cgroupfs driver"), "{error}");
    }

    #[test]
    fn a_bus_that_talks_nonsense_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for answer in
            [&b"REJECTED EXTERNAL\r\n"[..], b"OK 1\r\nnot a message, though long enough for a header", b"OK 1\r\n"]
        {
            let path = dir.path().join("bus");
            let _ = std::fs::remove_file(&path);
            let listener = UnixListener::bind(&path).unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(answer).unwrap();
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
            });
            assert!(Systemd::connect_to(&format!("unix:path={}", path.display())).is_err());
            server.join().unwrap();
        }
    }

    #[test]
    fn cgroups_paths_become_units() {
        let parse = |path: Option<&str>, user| UnitPath::parse(path, "c1", user).map(|p| (p.slice, p.unit));
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(parse(None, false).unwrap(), pair("system.slice", "strata-c1.scope"));
        assert_eq!(parse(None, true).unwrap(), pair("user.slice", "strata-c1.scope"));
        let podman = Some("machine.slice:libpod:0a1b");
        assert_eq!(parse(podman, false).unwrap(), pair("machine.slice", "libpod-0a1b.scope"));
        assert_eq!(parse(Some("x.slice::n"), false).unwrap(), pair("x.slice", "n.scope"));
        assert_eq!(parse(Some("x.slice:p:n.slice"), false).unwrap(), pair("x.slice", "n.slice"));
        for bad in ["/a/b", "a:b", "a:b:c:d", "a:b:", "a.slice:p:x/y"] {
            assert!(parse(Some(bad), false).is_err(), "{bad}");
        }
    }

    #[test]
    fn slices_nest_by_their_dashes() {
        assert_eq!(expand_slice("a-b-c.slice").unwrap(), "/a.slice/a-b.slice/a-b-c.slice");
        assert_eq!(expand_slice("system.slice").unwrap(), "/system.slice");
        assert_eq!(expand_slice("-.slice").unwrap(), "/");
        for bad in ["", ".slice", "a", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice"] {
            assert!(expand_slice(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_paths_and_lists_are_parsed_without_panic(text in "[a-z0-9:./,-]{0,24}(.slice)?|.{0,20}") {
            let _ = (UnitPath::parse(Some(&text), "id", false), bit_mask(&text), driver_name(&text, Kind::Block, 8));
            if let Ok(path) = expand_slice(&text) {
                proptest::prop_assert!(path == "/" || path.ends_with(&text));
            }
        }
    }

    #[test]
    fn limits_become_properties_of_each_version() {
        let r = Resources {
            cpu: Some(Cpu {
                shares: Some(1024),
                quota: Some(33_333),
                period: Some(100_000),
                cpus: Some("0-1,9".into()),
                ..Cpu::default()
            }),
            memory: Some(Memory { limit: Some(-1), reservation: Some(5), ..Memory::default() }),
            pids: Some(Pids { limit: Some(-1) }),
            ..Resources::default()
        };
        let v2 = properties(&r, true).unwrap();
        let v1 = properties(&r, false).unwrap();
        let get = |list: &Properties, name: &str| list.iter().find(|p| p.0 == name).map(|p| p.1.clone());
        assert_eq!(get(&v2, "CPUWeight"), Some(Value::U64(100)));
        assert_eq!(get(&v1, "CPUShares"), Some(Value::U64(1024)));
        assert_eq!(get(&v2, "CPUQuotaPerSecUSec"), Some(Value::U64(340_000)));
        assert_eq!(get(&v2, "AllowedCPUs"), Some(Value::bytes(&[3, 2])));
        assert_eq!(get(&v2, "MemoryMax"), Some(Value::U64(u64::MAX)));
        assert_eq!(get(&v2, "MemorySwapMax"), Some(Value::U64(u64::MAX)));
        assert_eq!(get(&v2, "MemoryLow"), Some(Value::U64(5)));
        assert_eq!(get(&v1, "MemoryLow"), None);
        assert_eq!(get(&v2, "TasksMax"), Some(Value::U64(u64::MAX)));
        for bad in ["", "a", "3-", "99999999"] {
            assert!(bit_mask(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn device_rules_are_said_in_systemds_words() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("proc")).unwrap();
        let text = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  8 sd\n";
        std::fs::write(root.path().join("proc/devices"), text).unwrap();
        let rule = |kind: &str, major, minor, access: &str| DeviceRule {
            allow: true,
            kind: Some(kind.into()),
            major,
            minor,
            access: Some(access.into()),
        };
        let rules = [
            DeviceRule::default(),
            rule("c", None, None, "m"),
            rule("c", Some(1), Some(3), "rw"),
            rule("c", Some(136), None, "rwm"),
            rule("b", Some(8), None, "r"),
            rule("c", Some(77), None, "r"),
        ];
        let list = device_properties(&Rule::check_all(&rules).unwrap(), root.path());
        let pair = |a: &str, b: &str| Value::Struct(vec![Value::str(a), Value::str(b)]);
        let allowed =
            vec![pair("char-*", "m"), pair("/dev/char/1:3", "rw"), pair("char-pts", "rwm"), pair("block-sd", "r")];
        assert_eq!(list[0], ("DevicePolicy", Value::str("strict")));
        assert_eq!(list[2], ("DeviceAllow", Value::Array("(ss)".into(), allowed)));
    }
}
