//! What a process says to whoever started it.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

/// Prints a line. Unlike `println!`, it does not panic when nobody reads any more.
pub fn say(line: impl Display) {
    _ = writeln!(io::stdout().lock(), "{line}");
}

/// Prints a line on standard error, as [`say`] does.
pub fn complain(line: impl Display) {
    _ = writeln!(io::stderr().lock(), "{line}");
}
