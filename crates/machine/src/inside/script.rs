//! Scripts for the agent: records, and the data that they point to.
//!
//! What a call's number is the architecture says, which a script knows of when it is encoded.

use crate::arch::Arch;

/// Bytes of a record.
const RECORD: u64 = 64;
/// Where, in a record, the arguments are.
const ARGUMENTS: u64 = 16;

const JUMP: u64 = -1i64 as u64;
const LOAD: u64 = -2i64 as u64;
const WHOLE: u64 = -3i64 as u64;

/// System calls, by the numbers that all newer architectures of Linux share (`include/uapi/asm-generic/unistd.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Call {
    Dup3 = 24,
    Fcntl = 25,
    Ioctl = 29,
    Mkdirat = 34,
    Symlinkat = 36,
    Umount2 = 39,
    Mount = 40,
    Chdir = 49,
    Chroot = 51,
    Openat = 56,
    Close = 57,
    Pipe2 = 59,
    Read = 63,
    Write = 64,
    Ppoll = 73,
    Signalfd4 = 74,
    Newfstatat = 79,
    Sync = 81,
    Exit = 93,
    Nanosleep = 101,
    ClockSettime = 112,
    Kill = 129,
    RtSigprocmask = 135,
    Setgid = 144,
    Setuid = 146,
    Setsid = 157,
    Setgroups = 159,
    Sethostname = 161,
    Umask = 166,
    Socket = 198,
    Clone = 220,
    Execve = 221,
    Wait4 = 260,
    FinitModule = 273,
}

impl Call {
    /// Its number. x86-64 has those that it had before others were to share them.
    fn number(self, arch: Arch) -> u64 {
        if arch != Arch::Amd64 {
            return self as u64;
        }
        match self {
            Call::Dup3 => 292,
            Call::Fcntl => 72,
            Call::Ioctl => 16,
            Call::Mkdirat => 258,
            Call::Symlinkat => 266,
            Call::Umount2 => 166,
            Call::Mount => 165,
            Call::Chdir => 80,
            Call::Chroot => 161,
            Call::Openat => 257,
            Call::Close => 3,
            Call::Pipe2 => 293,
            Call::Read => 0,
            Call::Write => 1,
            Call::Ppoll => 271,
            Call::Signalfd4 => 289,
            Call::Newfstatat => 262,
            Call::Sync => 162,
            Call::Exit => 60,
            Call::Nanosleep => 35,
            Call::ClockSettime => 227,
            Call::Kill => 62,
            Call::RtSigprocmask => 14,
            Call::Setgid => 106,
            Call::Setuid => 105,
            Call::Setsid => 112,
            Call::Setgroups => 116,
            Call::Sethostname => 170,
            Call::Umask => 95,
            Call::Socket => 41,
            Call::Clone => 56,
            Call::Execve => 59,
            Call::Wait4 => 61,
            Call::FinitModule => 313,
        }
    }
}

/// What a record does.
#[derive(Debug, Clone, Copy)]
enum Does {
    /// A system call.
    Call(Call),
    /// Something of the agent's own, by its number.
    Own(u64),
}

/// An argument.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value {
    /// That number.
    Number(i64),
    /// The number of a system call.
    Call(Call),
    /// The address of data of this script.
    Data(Data),
    /// What an earlier record gave.
    Result(Step),
    /// The address of what an earlier record gave.
    Slot(Step),
    /// The address of a record.
    Label(Label),
    /// The address of what all records gave, behind which the data are.
    Results,
    /// Bytes of both.
    Length,
    /// The address of an argument (which) of a later record (how many further), for a call that fills it in.
    Argument(usize, u64),
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Number(number)
    }
}

impl From<Data> for Value {
    fn from(data: Data) -> Value {
        Value::Data(data)
    }
}

impl From<Step> for Value {
    fn from(step: Step) -> Value {
        Value::Result(step)
    }
}

/// Data of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Data(pub(super) u64);

/// A record of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step(pub(super) usize);

/// What an answer looks like: so many results, so many bytes of data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(super) results: usize,
    pub(super) data: usize,
}

/// A place to go to, known later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// Where a result goes.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// To where the host reads it.
    Slot,
    /// To an argument of that record.
    Argument(usize, usize),
}

#[derive(Debug, Clone)]
struct Record {
    does: Does,
    place: Place,
    arguments: [Value; 6],
}

/// A script being written.
#[derive(Debug, Default, Clone)]
pub(crate) struct Script {
    records: Vec<Record>,
    data: Vec<u8>,
    /// Places in the data that point to others.
    pointers: Vec<(u64, Data)>,
    labels: Vec<u64>,
}

impl Script {
    pub(crate) fn new() -> Script {
        Script::default()
    }

    /// Puts data into it.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> Data {
        let at = self.data.len().next_multiple_of(8);
        self.data.resize(at, 0);
        self.data.extend_from_slice(bytes);
        Data(at as u64)
    }

    /// Room for so many bytes.
    pub(crate) fn room(&mut self, bytes: usize) -> Data {
        self.data(&vec![0; bytes])
    }

    /// A text, with a zero at its end.
    pub(crate) fn text(&mut self, text: impl AsRef<[u8]>) -> Data {
        let data = self.data(text.as_ref());
        self.data.push(0);
        data
    }

    /// A list of texts, as an execution takes it.
    pub(crate) fn texts<T: AsRef<[u8]>>(&mut self, texts: &[T]) -> Data {
        let places: Vec<Data> = texts.iter().map(|text| self.text(text)).collect();
        let list = self.room((places.len() + 1) * 8);
        self.pointers.extend(places.iter().enumerate().map(|(at, place)| (list.0 + at as u64 * 8, *place)));
        list
    }

    /// A system call.
    pub(crate) fn call<const N: usize>(&mut self, call: Call, arguments: [Value; N]) -> Step {
        self.record(Does::Call(call), &arguments)
    }

    /// A transfer that is repeated until all of it is done.
    pub(crate) fn whole(&mut self, call: Call, descriptor: Value, address: Value, length: Value) -> Step {
        self.record(Does::Own(WHOLE), &[descriptor, address, length, Value::Call(call)])
    }

    /// Goes on elsewhere in this script if both are equal.
    pub(crate) fn jump_if_equal(&mut self, one: Value, other: Value, to: Label) {
        self.record(Does::Own(JUMP), &[one, other, Value::Label(to)]);
    }

    /// Goes on elsewhere in this script.
    pub(crate) fn jump(&mut self, to: Label) {
        self.jump_if_equal(Value::Number(0), Value::Number(0), to);
    }

    /// Goes on at an address.
    pub(crate) fn go_to(&mut self, address: u64) {
        self.record(Does::Own(JUMP), &[Value::Number(0), Value::Number(0), Value::Number(address as i64)]);
    }

    pub(crate) fn label(&mut self) -> Label {
        self.labels.push(0);
        Label(self.labels.len() - 1)
    }

    /// The label is here.
    pub(crate) fn place(&mut self, label: Label) {
        self.labels[label.0] = self.records.len() as u64;
    }

    fn record(&mut self, does: Does, arguments: &[Value]) -> Step {
        // What an earlier record gave is fetched by a record of its own.
        let fetched = arguments.iter().filter(|it| matches!(it, Value::Result(_))).count();
        let taker = self.records.len() + fetched;
        for (at, argument) in arguments.iter().enumerate() {
            if let Value::Result(step) = argument {
                let place = Place::Argument(taker, at);
                let mut all = [Value::Number(0); 6];
                all[0] = Value::Slot(*step);
                self.records.push(Record { does: Does::Own(LOAD), place, arguments: all });
            }
        }
        let mut all = [Value::Number(0); 6];
        all[..arguments.len()].copy_from_slice(arguments);
        self.records.push(Record { does, place: Place::Slot, arguments: all });
        Step(taker)
    }

    /// Bytes of its records so far.
    pub(crate) fn length(&self) -> u64 {
        self.records.len() as u64 * RECORD
    }

    /// What comes back of it.
    pub(crate) fn shape(&self) -> Shape {
        Shape { results: self.records.len(), data: self.data.len() }
    }

    /// The bytes of the script as it lies at `base`: records, results, data.
    pub(crate) fn encode(&self, arch: Arch, base: u64) -> Vec<u8> {
        let slots = base + self.length();
        let data = slots + self.records.len() as u64 * 8;
        let mut bytes = Vec::with_capacity((data - base) as usize + self.data.len());
        for (number, record) in self.records.iter().enumerate() {
            let place = match record.place {
                Place::Slot => slots + number as u64 * 8,
                Place::Argument(taker, at) => base + taker as u64 * RECORD + ARGUMENTS + at as u64 * 8,
            };
            let value = |value: &Value| match value {
                Value::Number(number) => *number as u64,
                Value::Call(call) => call.number(arch),
                Value::Data(it) => data + it.0,
                Value::Slot(step) => slots + step.0 as u64 * 8,
                Value::Label(label) => base + self.labels[label.0] * RECORD,
                Value::Argument(ahead, at) => base + (number + ahead) as u64 * RECORD + ARGUMENTS + at * 8,
                Value::Results => slots,
                Value::Length => data - slots + self.data.len() as u64,
                // Filled in by the record before.
                Value::Result(_) => 0,
            };
            let does = match record.does {
                Does::Call(call) => call.number(arch),
                Does::Own(number) => number,
            };
            bytes.extend_from_slice(&does.to_le_bytes());
            bytes.extend_from_slice(&place.to_le_bytes());
            record.arguments.iter().for_each(|it| bytes.extend_from_slice(&value(it).to_le_bytes()));
        }
        bytes.resize((data - base) as usize, 0);
        bytes.extend_from_slice(&self.data);
        for (at, to) in &self.pointers {
            let at = (data - base + at) as usize;
            bytes[at..at + 8].copy_from_slice(&(data + to.0).to_le_bytes());
        }
        bytes
    }
}
