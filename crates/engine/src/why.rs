//! `skep why`: how a cell came to be as it is, in words, and what to do about it. A pure function of the record.

use model::{CellSpec, Exit, ExitReport, Missed, Remedy, StartStep, State};
use serde::Serialize;

use crate::cell::Record;

/// An explanation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// One line: what is the case.
    pub summary: String,
    /// What speaks for it, one line each.
    pub details: Vec<String>,
    /// What to do next, when there is something; a command where possible.
    pub hint: Option<String>,
}

/// Explains the state of a cell.
pub fn explain(spec: &CellSpec, record: &Record) -> Explanation {
    let name = &spec.name;
    let mut details = Vec::new();
    let (summary, hint) = match &record.state {
        State::Created => (format!("{name} was made and never started"), Some(format!("skep start {name}"))),
        State::Starting { .. } => (format!("{name} is being started"), None),
        State::Running { .. } => (format!("{name} runs"), None),
        State::Paused { .. } => (format!("{name} is paused"), Some(format!("skep resume {name}"))),
        State::Removing => (format!("{name} is being removed"), None),
        State::Restarting { last, .. } => {
            details.push(format!("its last run ended: {}", last.exit));
            details.push(format!("restart policy: {}", spec.restart));
            (format!("{name} waits to be started again"), Some(format!("skep logs {name}")))
        }
        State::Exited { report } => ended(spec, report, &mut details),
    };
    if let Some(kin) = record.kin {
        let end = if kin.host().is_some() { ", and ends when the cell that their family began with does" } else { "" };
        details.push(format!("it was forked from another cell{end}"));
    }
    if record.runs > 1 {
        details.push(format!("it was started {} times", record.runs));
    }
    details.extend(record.missed.iter().map(missed));
    details.extend(record.unknown.iter().map(|it| {
        let number = it.call & !unikernel::OUTSIDE;
        let name = container::syscall_name(number).map_or_else(|| number.to_string(), str::to_owned);
        if it.call & unikernel::OUTSIDE != 0 {
            return format!("its programs made a system call that its seal does not name: {name} ({} times)", it.times);
        }
        format!("its programs made a system call that {} cells do not have: {name} ({} times)", spec.boundary, it.times)
    }));
    details.extend(record.degraded.iter().map(|it| format!("degraded: {it}")));
    Explanation { summary, details, hint }
}

/// Something that slimming took away.
fn missed(it: &Missed) -> String {
    let outcome = match &it.remedy {
        Remedy::Nothing => "'skep run --restore-misses' puts it back".to_owned(),
        Remedy::PutBack => "it was put back".to_owned(),
        Remedy::Failed(why) => format!("it could not be put back: {why}"),
    };
    format!("missed: {it} (slimming took it away; {outcome})")
}

fn ended(spec: &CellSpec, report: &ExitReport, details: &mut Vec<String>) -> (String, Option<String>) {
    let name = &spec.name;
    let command = spec.process.argv.join(" ");
    details.push(format!("command: {command}"));
    details.push(format!("it ran for {}", report.ran));
    if report.requested {
        details.push("somebody asked for it (stop or kill)".to_owned());
    }
    let logs = Some(format!("skep logs {name}"));
    match &report.exit {
        Exit::Code { code: 0 } => (format!("{name} finished its work: exit code 0"), None),
        Exit::Code { code } => (format!("{name}'s program ended with exit code {code}, which is its own choice"), logs),
        Exit::Signal { signal } if report.requested => (format!("{name} was ended by {}", signal_name(*signal)), None),
        Exit::Signal { signal } => {
            let hint = match signal {
                4 | 5 | 6 | 7 | 8 | 11 => logs,
                _ => None,
            };
            (format!("{name}'s program was ended by {}", signal_name(*signal)), hint)
        }
        Exit::OutOfMemory { limit } => {
            let limit_text = limit.map_or("its limit".to_owned(), |it| format!("its limit of {it}"));
            let hint = limit.map(|it| {
                let doubled = it.get().saturating_mul(2) >> 20;
                format!("skep set --memory {doubled}m {name} && skep start {name}")
            });
            (format!("the kernel killed {name}: it needed more memory than {limit_text}"), hint)
        }
        Exit::Seccomp { syscall } => {
            let call = syscall.map_or("a system call".to_owned(), |it| format!("system call {it}"));
            (
                format!("{name} made {call}, which its seccomp profile forbids"),
                Some("run it again with --seccomp default, where such a call fails instead".to_owned()),
            )
        }
        Exit::GuestFault { pc, symbol } => {
            let place = symbol.as_ref().map_or(String::new(), |it| format!(" in {it}"));
            (format!("{name} took a fault that it could not handle at {pc:#x}{place}"), logs)
        }
        Exit::Budget { what } => (format!("{name} went over its budget: {what}"), None),
        Exit::NotStarted { step, error } => not_started(spec, *step, error),
        Exit::SupervisorLost => {
            details.push("everything it had on this host was cleared away".to_owned());
            (
                format!(
                    "{name}'s supervisor vanished and took {name} with it: it was killed, or the machine went down"
                ),
                Some(format!("skep start {name}")),
            )
        }
    }
}

fn not_started(spec: &CellSpec, step: StartStep, error: &str) -> (String, Option<String>) {
    let name = &spec.name;
    let hint = match step {
        StartStep::CommandNotFound => {
            Some(format!("skep run --rm --entrypoint /bin/ls {} -- /usr/bin", spec.image.name))
        }
        StartStep::Image => Some("skep pool fsck".to_owned()),
        StartStep::Network => Some("skep doctor, or run it with --net none".to_owned()),
        StartStep::Limits | StartStep::Namespaces | StartStep::Mounts | StartStep::Security => {
            Some("skep doctor".to_owned())
        }
        StartStep::CommandNotExecutable => None,
    };
    (format!("{name}'s program never ran: {error}"), hint)
}

/// The name of a signal, as `kill -l` has it.
pub fn signal_name(number: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    let name = usize::try_from(number - 1).ok().and_then(|index| NAMES.get(index));
    name.map_or_else(|| format!("signal {number}"), |name| format!("SIG{name}"))
}

/// The number of a signal given by name (`TERM`, `SIGTERM`) or number.
pub fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = format!("SIG{}", upper.strip_prefix("SIG").unwrap_or(&upper));
    (1..=31).find(|number| signal_name(*number) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_both_ways() {
        assert_eq!(signal_name(15), "SIGTERM");
        assert_eq!(signal_name(40), "signal 40");
        for number in 1..=31 {
            assert_eq!(signal_number(&signal_name(number)), Some(number));
        }
        assert_eq!(signal_number("term"), Some(15));
        assert_eq!(signal_number("40"), Some(40));
        for wrong in ["", "0", "65", "-1", "NOPE"] {
            assert_eq!(signal_number(wrong), None, "{wrong}");
        }
    }
}
