//! What a process says to whoever started it.

use std::{
    fmt::Display,
    io::{self, Write as _},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// Prints a line. Unlike `println!`, it does not panic when nobody reads any more.
pub fn say(line: impl Display) {
    _ = writeln!(io::stdout().lock(), "{line}");
}

/// Prints a line on standard error, as [`say`] does.
pub fn complain(line: impl Display) {
    if !HUSHED.load(Relaxed) {
        _ = writeln!(io::stderr().lock(), "{line}");
    }
}

/// Nobody complains any more in this process.
pub fn hush() {
    HUSHED.store(true, Relaxed);
}

static HUSHED: AtomicBool = AtomicBool::new(false);
