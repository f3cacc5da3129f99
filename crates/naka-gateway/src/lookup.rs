//! Maps in which something is looked up for each request.
//!
//! Their keys are the configuration's and the registries', and so bounded: what a client sends is looked up in them and never put
//! there. So nobody can choose keys that collide, and a hash that is fast and not proof against that (foldhash) will do.

use std::collections::HashMap;

/// A map of what the configuration has.
pub type Lookup<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
