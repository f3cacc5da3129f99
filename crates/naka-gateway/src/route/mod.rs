//! Which route a request takes: a table compiled once per configuration and listener, then only read.
//!
//! This room knows no socket, no runtime and no layer: text and header maps in, an index out.
//!
//! # The path
//! [`normalize`] runs before matching, once, and its result is also what is forwarded: what was matched
//! is what the upstream sees. It decodes what need not be encoded (`%61` is `a`), writes the remaining
//! escapes in upper case, and refuses what two servers may read in two ways ([`BadPath`]). A path is
//! then a list of segments; the trailing slash of `/a/` is a last, empty segment, and `/` is one empty
//! segment.
//!
//! # What matches
//! A route matches when all that it names matches:
//!
//! 1. **Host**: one of its hosts, or any if it names none. `*.ola.example` takes one or more labels
//!    before `.ola.example`, and not `ola.example` itself.
//! 2. **Path**: `path:` takes the whole path, the trailing slash included. `{id}` takes one segment that
//!    is not empty. `{rest...}` takes all that follows the slash before it, possibly nothing:
//!    `/a/{rest...}` matches `/a/` and `/a/b/c`, not `/a`. `prefix:` ends on a segment boundary:
//!    `/api` matches `/api`, `/api/` and `/api/x`, never `/apix`. `regex:` takes the whole path.
//! 3. **Headers** and **query parameters**, all of them. With an exact value, every occurrence has to
//!    have it: `?v=1&v=2` has neither `v: 1` nor `v: 2`, so no two servers can disagree about it. Query
//!    names and values are compared decoded; header values byte by byte.
//! 4. **Method**: one of its methods, or any if it names none. Who lists `GET` answers `HEAD` too.
//!
//! # Who wins
//! The order of the file never matters. Of the routes that match, the first difference decides:
//!
//! 1. host: exact, then the longest wildcard, then any;
//! 2. path, segment by segment: literal, then `{param}`, then `{rest...}`, then what is merely below a
//!    prefix. So the longer prefix wins, and a whole path beats a prefix that matches the same;
//! 3. any segments before a `regex:`;
//! 4. some methods before all methods;
//! 5. more headers;
//! 6. more query parameters;
//! 7. the higher `priority`; not said counts as 0.
//!
//! A less specific host is still asked when nothing under the more specific one matches as a whole.
//! What the seven rules leave open for some request is refused at compile time, as [`Ambiguity`].
//!
//! If no route matches: 405 when at least one matches in all but its method, with the methods of all
//! those in `Allow`; else 404.
//!
//! # Algorithm
//! A host has a trie of segments: a map of literals, at most one `{param}` child, and for each way to end
//! (whole, rest, prefix) the routes that end there. Walking it literal first and endings last meets
//! routes in the order of rule 2, so the first that matches as a whole has won. The trie only proposes:
//! [`explain`](Table::explain) and [`find`](Table::find) let the same predicates decide.
//!
//! # Cost and bounds
//! * `find` visits each node of a trie at most once, and per segment at most twice as many as before it:
//!   a request without parameter siblings costs one map lookup per segment.
//! * Nothing is allocated on a hit, except by a `regex:` with captures. Captures stand inline: at most
//!   [`MAX_CAPTURES`] in a route. Paths of routes have at most [`MAX_SEGMENTS`] segments, which bounds
//!   the recursion. Both are refused at compile time.
//! * Only wildcards of the configuration's lengths are looked up, whatever a client sends as a host.
//! * Regular expressions are asked one after the other, after all segments, in linear time each.
//! * Compiling is linear in the routes, but for those that differ in nothing but methods, headers and
//!   query: they are compared with one another.
//!
//! # Example
//! ```
//! # use naka_gateway::config::checked::{Match, PathPattern, Segment};
//! # use naka_gateway::route::{Found, Query, Table, normalize};
//! # use http::{HeaderMap, Method};
//! let ride = Match {
//!     hosts: vec![],
//!     path: PathPattern::Whole(vec![Segment::Literal("rides".into()), Segment::Param("id".into())].into()),
//!     methods: vec![Method::GET],
//!     headers: vec![],
//!     query: vec![],
//! };
//! let table = Table::compile([("ride".into(), &ride, None)]).unwrap();
//!
//! let path = normalize("/rides/%34%32").unwrap();
//! let (method, headers) = (Method::GET, HeaderMap::new());
//! let query = Query { method: &method, host: "api.corp", path: &path, query: None, headers: &headers };
//! let Found::Route { index: 0, captures } = table.find(&query, &mut ()) else { panic!() };
//! assert_eq!(captures.get(&path, "id"), Some("42"));
//! ```

mod ambiguity;
mod captures;
mod entry;
mod error;
mod normalize;
mod rank;
mod regex_prefix;
mod table;
mod trie;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use captures::{Captures, MAX_CAPTURES, render};
pub use entry::{Lost, Query, decoded_piece, query_value};
pub use error::{Ambiguity, MAX_SEGMENTS, RouteError};
pub use normalize::{BadPath, normalize};
pub use rank::{Rule, Step};
pub(crate) use regex_prefix::literal_prefix;
pub use table::{Found, Outcome, Table, Trace};
