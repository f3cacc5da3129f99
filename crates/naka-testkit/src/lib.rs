//! For naka's own tests: a scripted upstream, a network inside the process, and the suite every
//! layer passes.
//!
//! | Module | What it is for |
//! | --- | --- |
//! | [`consul`] | A stand-in for Consul, with whatever its clients have to live with |
//! | [`contract`] | The laws every layer keeps |
//! | [`eureka`] | A stand-in for a server of Eureka, likewise |
//! | [`network`] | Connections inside the process, for tests under virtual time |
//! | [`registry`] | What stand-ins for registries have in common |
//! | [`token`] | Whoever makes signed tokens |
//! | [`upstream`] | An HTTP/1.1 server that does as it is told, also what no server should do |
//! | [`websocket`] | What a server of WebSocket has to answer |
#![forbid(unsafe_code)]

pub mod consul;
pub mod contract;
pub mod eureka;
pub mod network;
pub mod registry;
pub mod token;
pub mod upstream;
pub mod websocket;
