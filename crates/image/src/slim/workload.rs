//! What a user has a service do, so that what it needs is seen and proved: parsed once, from TOML.
//!
//! ```toml
//! command = ["redis-server"]        # in place of the image's own
//! user = "redis"                    # as whom, when not as the image says
//! env = ["A=b"]
//! port = 6379                       # the first that it listens on, when left out
//! patience = "30s"                  # how long a first step may fail before it has failed
//! limit = "10m"                     # how long a program of a step may run
//! [files]                           # configuration that is mounted, read-only
//! "/etc/x.conf" = "text"
//!
//! [[step]]
//! exec = "redis-cli ping"           # or a list of words; run beside the service, or alone when it has ended
//! expect = "PONG"                   # in what it prints
//! exit = 0
//! [[step]]
//! http = "/"                        # or "HEAD /x"; the status must be as on the original image
//! status = 200
//! [[step]]
//! tcp = "PING\\r\\n"
//! expect = "+PONG"
//! [[step]]
//! restart = {}                      # of the service, in the same cell
//! [[unseen]]                        # steps that are not observed, only proved
//! http = "/other"
//! ```

use std::collections::BTreeMap;

use model::{ParseError, Span, UserSpec};
use serde::Deserialize;

use super::words::words;
use crate::{Error, Result};

/// A workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The service's command, in place of the image's.
    pub command: Option<Vec<String>>,
    /// As whom it runs, when not as the image says.
    pub user: Option<UserSpec>,
    /// `NAME=value` pairs added to the image's.
    pub env: Vec<String>,
    /// Where the service listens.
    pub port: Option<u16>,
    /// How long the service may take to do its first step right.
    pub patience: Span,
    /// How long a program of a step may run.
    pub limit: Span,
    /// Files that are mounted, by their path in the cell.
    pub files: BTreeMap<String, String>,
    /// What is observed.
    pub steps: Vec<Step>,
    /// What is done only to prove the result.
    pub unseen: Vec<Step>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Run a program.
    Run(RunStep),
    /// Ask for a page.
    Http(HttpStep),
    /// Say something over TCP.
    Tcp(TcpStep),
    /// End the service and start it again.
    Restart,
}

/// A command as words.
pub type Command = Vec<String>;

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunStep {
    /// Its command.
    pub command: Command,
    /// As whom, when not as the service.
    pub user: Option<UserSpec>,
    /// Its exit code.
    pub exit: u8,
    /// What it prints.
    pub expect: Expectation,
}

/// A page to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpStep {
    /// `GET`, `HEAD`, …
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The status that must come; that of the original image when absent.
    pub status: Option<u16>,
    /// What the page must hold.
    pub expect: Expectation,
}

/// Bytes to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpStep {
    /// The bytes.
    pub says: Vec<u8>,
    /// What the answer must hold.
    pub expect: Expectation,
}

/// Bytes that must be in an answer; none means any answer will do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expectation(pub Vec<u8>);

impl Expectation {
    /// Whether the answer is as expected.
    pub fn holds(&self, answer: &[u8]) -> bool {
        self.0.is_empty() || answer.windows(self.0.len()).any(|it| it == self.0)
    }
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            command: None,
            user: None,
            env: Vec::new(),
            port: None,
            patience: Span::seconds(60),
            limit: Span::seconds(600),
            files: BTreeMap::new(),
            steps: Vec::new(),
            unseen: Vec::new(),
        }
    }
}

impl Workload {
    /// Ask for a page; what is not seen: its head only, a page that is not there, and the same after a restart.
    pub fn of_http(path: &str, port: Option<u16>) -> Self {
        let ask = |method: &str, path: &str| {
            let (method, path) = (method.to_owned(), path.to_owned());
            Step::Http(HttpStep { method, path, status: None, expect: Expectation::default() })
        };
        let unseen = vec![ask("HEAD", path), ask("GET", "/no-such-page-of-skep"), Step::Restart, ask("GET", path)];
        Self { port, steps: vec![ask("GET", path)], unseen, ..Self::default() }
    }

    /// Run a command; what is not seen is a second run in a fresh cell.
    pub fn of_command(command: Command) -> Self {
        let step = Step::Run(RunStep { command, user: None, exit: 0, expect: Expectation::default() });
        Self { steps: vec![step.clone()], unseen: vec![step], ..Self::default() }
    }

    /// Reads a workload.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: String| Error::malformed("workload", why);
        let raw: RawWorkload = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let steps = |raw: Vec<RawStep>| raw.into_iter().map(Step::try_from).collect::<Result<Vec<_>, _>>();
        let workload = Self {
            command: raw.command.map(Command::try_from).transpose().map_err(|error| wrong(error.to_string()))?,
            user: raw.user.map(|it| it.parse()).transpose().map_err(|error: ParseError| wrong(error.to_string()))?,
            env: raw.env,
            port: raw.port,
            patience: match raw.patience {
                Some(text) => text.parse().map_err(|error: ParseError| wrong(error.to_string()))?,
                None => Self::default().patience,
            },
            limit: match raw.limit {
                Some(text) => text.parse().map_err(|error: ParseError| wrong(error.to_string()))?,
                None => Self::default().limit,
            },
            files: raw.files,
            steps: steps(raw.step).map_err(|error| wrong(error.to_string()))?,
            unseen: steps(raw.unseen).map_err(|error| wrong(error.to_string()))?,
        };
        if let Some(path) = workload.files.keys().find(|it| !it.starts_with('/')) {
            return Err(wrong(format!("'{path}' is not an absolute path")));
        }
        if workload.steps.is_empty() {
            return Err(wrong("it has no [[step]]".to_owned()));
        }
        Ok(workload)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorkload {
    command: Option<RawCommand>,
    user: Option<String>,
    #[serde(default)]
    env: Vec<String>,
    port: Option<u16>,
    patience: Option<String>,
    limit: Option<String>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    #[serde(default)]
    step: Vec<RawStep>,
    #[serde(default)]
    unseen: Vec<RawStep>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawCommand {
    Line(String),
    Words(Vec<String>),
}

impl TryFrom<RawCommand> for Command {
    type Error = ParseError;
    fn try_from(raw: RawCommand) -> Result<Self, ParseError> {
        match raw {
            RawCommand::Line(line) => words(&line),
            RawCommand::Words(words) if words.is_empty() => Err(ParseError::new("command", "", "at least one word")),
            RawCommand::Words(words) => Ok(words),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStep {
    exec: Option<RawCommand>,
    user: Option<String>,
    exit: Option<u8>,
    http: Option<String>,
    status: Option<u16>,
    tcp: Option<String>,
    restart: Option<RawRestart>,
    expect: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRestart {}

impl TryFrom<RawStep> for Step {
    type Error = ParseError;
    fn try_from(raw: RawStep) -> Result<Self, ParseError> {
        let wrong = |why: &str| Err(ParseError::new("step", "[[step]]", why));
        let expects = raw.expect.is_some();
        let expect = Expectation(raw.expect.unwrap_or_default().into_bytes());
        if raw.exec.is_none() && (raw.exit.is_some() || raw.user.is_some()) {
            return wrong("'exit' and 'user' beside 'exec' only");
        }
        if raw.http.is_none() && raw.status.is_some() {
            return wrong("'status' beside 'http' only");
        }
        match (raw.exec, raw.http, raw.tcp, raw.restart) {
            (Some(command), None, None, None) => Ok(Self::Run(RunStep {
                command: command.try_into()?,
                user: raw.user.map(|it| it.parse()).transpose()?,
                exit: raw.exit.unwrap_or(0),
                expect,
            })),
            (None, Some(text), None, None) => {
                let (method, path) = text.split_once(' ').unwrap_or(("GET", &text));
                let plain = path.starts_with('/') && path.bytes().all(|it| it.is_ascii_graphic());
                if !plain || method.is_empty() || !method.bytes().all(|it| it.is_ascii_uppercase()) {
                    return wrong("an http step like \"/\" or \"HEAD /x\"");
                }
                Ok(Self::Http(HttpStep {
                    method: method.to_owned(),
                    path: path.to_owned(),
                    status: raw.status,
                    expect,
                }))
            }
            (None, None, Some(says), None) => Ok(Self::Tcp(TcpStep { says: says.into_bytes(), expect })),
            (None, None, None, Some(_)) if !expects => Ok(Self::Restart),
            _ => wrong("exactly one of exec, http, tcp and restart"),
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Run(step) => f.write_str(&step.command.join(" ")),
            Self::Http(step) => write!(f, "{} {}", step.method, step.path),
            Self::Tcp(step) => write!(f, "tcp {}", step.says.escape_ascii()),
            Self::Restart => f.write_str("restart"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_read() {
        let workload = Workload::parse(
            r#"
            command = "server --port 80"
            port = 80
            patience = "5s"
            files = { "/etc/x" = "y" }
            [[step]]
            exec = ["a", "b c"]
            expect = "d"
            [[step]]
            http = "HEAD /x"
            status = 404
            [[unseen]]
            tcp = "PING\r\n"
            [[unseen]]
            restart = {}
            "#,
        )
        .unwrap();
        assert_eq!(workload.command.unwrap(), ["server", "--port", "80"]);
        assert_eq!((workload.port, workload.patience), (Some(80), Span::seconds(5)));
        let shown: Vec<_> = workload.steps.iter().chain(&workload.unseen).map(ToString::to_string).collect();
        assert_eq!(shown, ["a b c", "HEAD /x", r"tcp PING\r\n", "restart"]);
    }

    #[test]
    fn what_is_no_workload_is_refused() {
        for text in [
            "",
            "[[step]]",
            "[[step]]\nhttp = 'x'",
            "[[step]]\nhttp = '/'\nexec = 'a'",
            "[[step]]\nhttp = '/'\nexit = 1",
            "[[step]]\nrestart = {}\nexpect = 'x'",
            "[[step]]\nexec = []",
            "[[step]]\nexec = 'a'\nbogus = 1",
            "[files]\nx = 'y'\n[[step]]\nexec = 'a'",
            "bogus = 1\n[[step]]\nexec = 'a'",
        ] {
            assert!(Workload::parse(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            let _ = Workload::parse(&text);
        }
    }
}
