//! Progress of long work: a bar on a terminal, plain lines in a pipe, silence when the work is short.

use std::io::IsTerminal;
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use model::Progress;

/// Reports on standard error.
#[derive(Debug)]
pub(crate) struct Reporter {
    style: Style,
    bar: Mutex<Option<ProgressBar>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Bar,
    Lines,
}

impl Reporter {
    pub(crate) fn new() -> Self {
        let style = if std::io::stderr().is_terminal() { Style::Bar } else { Style::Lines };
        Self { style, bar: Mutex::new(None) }
    }

    fn replace(&self, bar: Option<ProgressBar>) {
        // A poisoned lock means that a thread panicked while drawing; drawing on is harmless.
        let mut current = self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(old) = std::mem::replace(&mut *current, bar) {
            old.finish_and_clear();
        }
    }
}

impl Progress for Reporter {
    fn begin(&self, what: &str, total: Option<u64>) {
        if self.style == Style::Lines {
            return crate::output::note(what);
        }
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        let template = match total {
            Some(_) => "{spinner} {msg} [{bar:30}] {bytes}/{total_bytes}",
            None => "{spinner} {msg} {bytes}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        self.replace(Some(bar));
    }

    fn advance(&self, bytes: u64) {
        let current = self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(bar) = &*current {
            bar.inc(bytes);
        }
    }

    fn end(&self) {
        self.replace(None);
    }
}
