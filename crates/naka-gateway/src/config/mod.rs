//! Text in, checked values out. This room knows no layer, no runtime and no socket.

pub mod checked;
