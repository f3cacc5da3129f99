//! What holds whoever asks: money, time, places, fares, and the life of a ride; for the shop, tax, delivery,
//! payment, addresses, languages, kitchens, and the life of an order.

pub mod address;
pub mod category;
pub mod fare;
pub mod geo;
pub mod kitchen;
pub mod language;
pub mod moment;
pub mod money;
pub mod nearby;
pub mod order;
pub mod payment;
pub mod ride;
pub mod shipping;
pub mod tax;
