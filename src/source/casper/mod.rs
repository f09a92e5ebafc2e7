//! The Casper source.

pub mod event;
