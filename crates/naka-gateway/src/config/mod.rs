//! Text in, checked values out. This room knows no layer, no runtime and no socket.

pub mod checked;
mod decode;
mod diagnostic;
mod node;
mod path;
mod raw;
mod suggest;
mod units;
mod values;

pub use diagnostic::{Code, Diagnostic, Diagnostics, Place, Severity, Source};
