//! A string of a payload, borrowed unless it has escapes.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// A string that is copied from one form to the other.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);
