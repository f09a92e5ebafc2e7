//! Going through segments block by block and believing nothing: what verify reports, repair acts on and a rewrite must pass.
//!
//! A [`Survey`] fixes what of the log is looked at; its [`Examiner`] carries what must hold from one block and one segment to
//! the next (sequence, chain value, version). Out comes an [`Examined`] per segment: the sound blocks, the damage with its
//! extent in bytes and sequences, and what does not fit. Nothing is changed here.
//!
//! - [`survey`][]: which segments there are, and how far each is looked at.
//! - [`examiner`][]: the way through them.
//! - [`examined`][]: what comes out.
//! - [`block_checks`][]: what must hold within one block or footer.

mod block_checks;
mod examined;
mod examiner;
mod survey;

pub(crate) use block_checks::chain_behind;
pub use examined::StretchStart;
pub(crate) use examined::{Damage, Examined, Extent, Stretch};
pub(crate) use examiner::Examiner;
pub(crate) use survey::Survey;
