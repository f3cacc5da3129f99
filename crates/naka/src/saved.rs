//! State that outlives its process: what a layer knows, as plain numbers.
//!
//! `save` of a layer takes out what another process needs to decide as this one would have, and `restore` of a layer
//! that has decided nothing yet puts it in, under whatever configuration that has: as
//! `reconfigured` would have carried it. How it gets there, and whether it still means the same there, is
//! the caller's business: numbers of keys mean something only under the [secret](crate::key::KeySecret) they were
//! made with.
//!
//! Time is what an account was old when it was saved; whoever restores says how long ago that was. Less than it was makes
//! everything last longer, and nothing shorter.
//!
//! # What is lost
//! Of requests under way nothing is known any more: probes that were at work are not waited for, and what comes of
//! requests that the other process let in counts nothing here. Counts that only share out what is enforced in part
//! (`Enforce::Percent`) begin anew, and so do the turns of a recovery and of a balancer.

use std::fmt;

/// Why saved state was not taken. Nothing of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unfit {
    /// Whoever should go on with it has state of its own already, or is off.
    NotNew,
    /// It says what no layer could have said.
    Broken(&'static str),
    /// It is of another kind of configuration, under which it means nothing.
    Other,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNew => f.write_str("there is state already"),
            Self::Broken(what) => write!(f, "it is broken: {what}"),
            Self::Other => f.write_str("it means nothing under this configuration"),
        }
    }
}

impl std::error::Error for Unfit {}
