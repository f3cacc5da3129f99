//! What is told about requests: traces, the access log.

mod access_log;
mod all_at_once;
mod collector;
mod traces;
mod w3c;
