//! Programs begin: what a process does to itself between its birth and its execution, as a script.

use std::os::unix::ffi::OsStrExt;

use sys::pty::WindowSize;
use unikernel::Command;

use super::link::Link;
use super::root::{CLOSE_ON_EXEC, HERE, READ_WRITE};
use super::script::{Call, Script, Step, Value};
use crate::error::Result;

/// What the guest did, or the error of its kernel.
pub(crate) type Outcome<T> = std::result::Result<T, i32>;

/// A program that runs.
#[derive(Debug)]
pub(crate) struct Born {
    /// Its process, by the guest's number.
    pub(crate) process: i64,
    /// The agent's descriptors of its streams.
    pub(crate) streams: Ends,
}

/// The agent's ends of a program's streams.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ends {
    /// Of three pipes.
    Pipes([i32; 3]),
    /// Of a terminal.
    Terminal(i32),
}

/// Both ends of a program's streams.
struct Made {
    /// What becomes its descriptors 0, 1 and 2.
    program: [i32; 3],
    agent: Ends,
    /// What is to be closed once the program has it.
    given: Vec<i32>,
}

const NO_CONTROLLING: i64 = 0o400;
const NOT_BLOCKING: i64 = 0o4000;
const SET_FLAGS: i64 = 4;
const SIGCHLD: i64 = 17;
const UNLOCK: i64 = 0x4004_5431;
const PEER: i64 = 0x5441;
const SET_SIZE: i64 = 0x5414;
const CONTROL: i64 = 0x540e;
/// Where the image's tree is.
pub(crate) const ROOT: &str = "/root";
/// What a program ends with that could not be begun; nobody sees it.
const FAILED: i64 = 127;

/// Begins a program, on a terminal of that size or on pipes. Inside, the error that the guest's kernel gave.
pub(crate) fn spawn(link: &mut Link, command: &Command, terminal: Option<WindowSize>) -> Result<Outcome<Born>> {
    let made = match terminal {
        Some(size) => match open_terminal(link, size)? {
            Ok(made) => made,
            Err(errno) => return Ok(Err(errno)),
        },
        None => make_pipes(link)?,
    };
    let mut script = Script::new();
    let failure = script.room(8);
    script.call(Call::Pipe2, [failure.into(), CLOSE_ON_EXEC.into()]);
    let answer = link.call(script)?;
    let [hears, says] = pair(answer.data(failure));

    let mut script = Script::new();
    let (begins, goes_on) = (script.label(), script.label());
    let process = script.call(Call::Clone, [SIGCHLD.into(), 0.into(), 0.into(), 0.into(), 0.into()]);
    script.jump_if_equal(process.into(), 0.into(), begins);
    script.jump(goes_on);
    script.place(begins);
    become_program(&mut script, command, &made, says);
    script.place(goes_on);
    for descriptor in made.given.iter().chain([&says]) {
        script.call(Call::Close, [number(*descriptor)]);
    }
    let error = script.room(8);
    let heard = script.call(Call::Read, [number(hears), error.into(), 8.into()]);
    script.call(Call::Close, [number(hears)]);
    let answer = link.call(script)?;
    let failed = match (answer[process], answer[heard]) {
        (process, 0) if process > 0 => return Ok(Ok(Born { process, streams: made.agent })),
        (process, _) if process > 0 => -(i64::from_le_bytes(answer.data(error)) as i32),
        (errno, _) => -(errno as i32),
    };
    let mut script = Script::new();
    let ends = match made.agent {
        Ends::Pipes(ends) => ends.to_vec(),
        Ends::Terminal(end) => vec![end],
    };
    for end in ends {
        script.call(Call::Close, [number(end)]);
    }
    link.call(script)?;
    // Whatever its kernel says is made an error of ours.
    Ok(Err(failed.clamp(1, 4095)))
}

fn number(descriptor: i32) -> Value {
    Value::Number(i64::from(descriptor))
}

/// Two descriptors, as the kernel writes them.
fn pair([a, b, c, d, e, f, g, h]: [u8; 8]) -> [i32; 2] {
    [i32::from_le_bytes([a, b, c, d]), i32::from_le_bytes([e, f, g, h])]
}

fn make_pipes(link: &mut Link) -> Result<Made> {
    let mut script = Script::new();
    let places = [(); 3].map(|()| script.room(8));
    for place in places {
        script.call(Call::Pipe2, [place.into(), CLOSE_ON_EXEC.into()]);
    }
    let answer = link.call(script)?;
    let [[stdin, to], [from, stdout], [other, stderr]] = places.map(|it| pair(answer.data(it)));
    let mut script = Script::new();
    for end in [to, from, other] {
        script.call(Call::Fcntl, [number(end), SET_FLAGS.into(), NOT_BLOCKING.into()]);
    }
    link.call(script)?;
    let program = [stdin, stdout, stderr];
    Ok(Made { program, agent: Ends::Pipes([to, from, other]), given: program.to_vec() })
}

fn open_terminal(link: &mut Link, size: WindowSize) -> Result<Outcome<Made>> {
    let mut script = Script::new();
    let path = script.text(format!("{ROOT}/dev/pts/ptmx"));
    let unlocked = script.room(8);
    let size = script.data(&window(size));
    let flags = READ_WRITE | NO_CONTROLLING | CLOSE_ON_EXEC;
    let ours = script.call(Call::Openat, [HERE.into(), path.into(), (flags | NOT_BLOCKING).into()]);
    script.call(Call::Ioctl, [ours.into(), UNLOCK.into(), unlocked.into()]);
    let theirs = script.call(Call::Ioctl, [ours.into(), PEER.into(), flags.into()]);
    script.call(Call::Ioctl, [ours.into(), SET_SIZE.into(), size.into()]);
    let answer = link.call(script)?;
    let (ours, theirs) = (answer[ours] as i32, answer[theirs] as i32);
    if ours < 0 || theirs < 0 {
        return Ok(Err(ours.min(theirs).saturating_neg().clamp(1, 4095)));
    }
    Ok(Ok(Made { program: [theirs; 3], agent: Ends::Terminal(ours), given: vec![theirs] }))
}

/// A size as the kernel takes it.
fn window(size: WindowSize) -> [u8; 8] {
    let ([a, b], [c, d]) = (size.rows.to_le_bytes(), size.columns.to_le_bytes());
    [a, b, c, d, 0, 0, 0, 0]
}

/// Gives a terminal another size.
pub(crate) fn resize(link: &mut Link, terminal: i32, size: WindowSize) -> Result<()> {
    let mut script = Script::new();
    let size = script.data(&window(size));
    script.call(Call::Ioctl, [number(terminal), SET_SIZE.into(), size.into()]);
    link.call(script).map(drop)
}

/// The new process: everything from here to the execution; what fails is said and ends it.
fn become_program(script: &mut Script, command: &Command, made: &Made, says: i32) {
    let none = script.room(8);
    script.call(Call::RtSigprocmask, [2.into(), none.into(), 0.into(), 8.into()]);
    script.call(Call::Setsid, []);
    if let Ends::Terminal(_) = made.agent {
        script.call(Call::Ioctl, [number(made.program[0]), CONTROL.into(), 0.into()]);
    }
    for (stream, end) in (0..).zip(made.program) {
        script.call(Call::Dup3, [number(end), Value::Number(stream), 0.into()]);
    }
    script.call(Call::Umask, [0o022.into()]);
    let (root, top) = (script.text(ROOT), script.text("/"));
    let directory = script.text(command.directory.as_os_str().as_bytes());
    let groups: Vec<u8> = command.groups.iter().flat_map(|it| it.to_le_bytes()).collect();
    let (count, groups) = (command.groups.len() as i64, script.data(&groups));
    let steps = [
        script_call(Call::Chroot, [root.into(), 0.into()]),
        script_call(Call::Chdir, [top.into(), 0.into()]),
        script_call(Call::Chdir, [directory.into(), 0.into()]),
        script_call(Call::Setgroups, [count.into(), groups.into()]),
        script_call(Call::Setgid, [i64::from(command.group).into(), 0.into()]),
        script_call(Call::Setuid, [i64::from(command.user).into(), 0.into()]),
    ];
    for (call, arguments) in steps {
        let well = script.label();
        let step = script.call(call, arguments);
        script.jump_if_equal(step.into(), 0.into(), well);
        give_up(script, step, says);
        script.place(well);
    }
    let path = script.text(command.path.as_os_str().as_bytes());
    let (arguments, environment) = (script.texts(&command.arguments), script.texts(&command.environment));
    let step = script.call(Call::Execve, [path.into(), arguments.into(), environment.into()]);
    give_up(script, step, says);
}

fn script_call(call: Call, arguments: [Value; 2]) -> (Call, [Value; 2]) {
    (call, arguments)
}

fn give_up(script: &mut Script, step: Step, says: i32) {
    script.call(Call::Write, [number(says), Value::Slot(step), 8.into()]);
    script.call(Call::Exit, [FAILED.into()]);
}
