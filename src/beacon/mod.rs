//! What is the Ethereum beacon API's own: the event streams of consensus clients, and how their users ask for them.
//!
//! - [`topics`][]: the topics, and what of an event makes it this event.
//! - [`dialect`][]: what the engine must know of them; `identity` finds it in a payload.
//! - [`source`][]: the readers of `/eth/v1/events`.
//! - [`events`][]: the server of the same path.

pub mod dialect;
pub mod events;
mod identity;
pub mod source;
pub mod topics;
