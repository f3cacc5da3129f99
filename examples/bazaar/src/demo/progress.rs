//! How far a demonstration has come: a bar on a terminal, and a line for each step elsewhere.

use std::io::{self, IsTerminal as _, Write as _};

use crate::kernel::console::say;

/// How many characters the bar has.
const WIDTH: u64 = 30;

/// How many characters of a step are shown next to the bar.
const STEP: usize = 60;

/// How far it has come.
#[derive(Debug)]
pub struct Progress {
    total: u64,
    done: u64,
    is_terminal: bool,
}

impl Progress {
    /// Nothing of so many steps; at least one.
    pub fn of(total: u64) -> Self {
        Self { total: total.max(1), done: 0, is_terminal: io::stdout().is_terminal() }
    }

    /// Another step is done.
    pub fn step(&mut self, what: &str) {
        self.done = (self.done + 1).min(self.total);
        if self.is_terminal {
            self.draw(what);
        } else {
            say(format_args!("{}/{} {what}", self.done, self.total));
        }
    }

    /// So many steps are done; nothing is said of it but on a terminal.
    pub fn at(&mut self, done: u64, what: &str) {
        self.done = done.min(self.total);
        if self.is_terminal {
            self.draw(what);
        }
    }

    /// Something to be read that is no step.
    pub fn remark(&self, what: &str) {
        if self.is_terminal {
            _ = write!(io::stdout().lock(), "\r\u{1b}[K");
        }
        say(what);
    }

    fn draw(&self, what: &str) {
        let full = self.done * WIDTH / self.total;
        let bar = (0..WIDTH).map(|at| if at < full { '#' } else { '.' }).collect::<String>();
        let what = what.chars().take(STEP).collect::<String>();
        let mut out = io::stdout().lock();
        _ = write!(out, "\r\u{1b}[K[{bar}] {:>3} % {what}", self.done * 100 / self.total);
        _ = out.flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_terminal {
            _ = write!(io::stdout().lock(), "\r\u{1b}[K");
        }
    }
}
