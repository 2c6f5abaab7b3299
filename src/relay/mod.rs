//! The zero-copy core: two streams and an order.

mod order;

pub use order::{Order, OrderCell, StopReason};
