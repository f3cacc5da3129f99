//! What holds whoever asks: money, time, places, fares, and the life of a ride.

pub mod fare;
pub mod geo;
pub mod moment;
pub mod money;
pub mod nearby;
pub mod ride;
