//! The Casper source.
