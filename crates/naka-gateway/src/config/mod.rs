//! Text in, checked values out. This room knows no layer, no runtime and no socket.

mod check;
pub mod checked;
mod decode;
mod diagnostic;
mod documents;
mod layout;
mod load;
mod node;
mod outline;
mod path;
mod raw;
mod record;
mod reference;
mod suggest;
mod units;
mod values;

pub(crate) use check::upstreams::endpoints_of;
pub(crate) use decode::{Cx, Decode, Scalar, Text};
pub(crate) use diagnostic::Source;
pub use diagnostic::{Code, Diagnostic, Diagnostics, Place, Severity};
pub(crate) use documents::read as read_document;
pub use layout::{Formatted, Unformatted, format_str, format_with};
pub use load::{
    Fresh, Held, Loaded, Sources, Watched, load, parse_str, read_scenario, scenario_schema, schema,
    schema_with,
};
pub(crate) use load::{again, is_built_in, look, text_of};
pub(crate) use node::{Key, Node, Span, Value, parse_all};
pub use outline::{Outline, Said, Spot};
pub(crate) use path::{PathRegex, PrefixPath, WholePath, encoded, names_of};
pub(crate) use raw::{RawEndpoints, default_of};
pub use reference::reference;
pub(crate) use suggest::quoted;
pub(crate) use units::Time;
pub use units::{show_duration, show_rate, show_size, show_time};
pub(crate) use values::{Authority, DnsHost, HostPort, TlsName, Url, is_host};
