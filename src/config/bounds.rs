//! Numbers that bound the values of keys.

pub(super) const KIB: i64 = 1024;
pub(super) const MIB: i64 = 1024 * KIB;
pub(super) const GIB: i64 = 1024 * MIB;
pub(super) const TIB: i64 = 1024 * GIB;
pub(super) const PIB: i64 = 1024 * TIB;
pub(super) const COUNT_MAX: i64 = u32::MAX as i64;
pub(super) const PORT_MAX: i64 = u16::MAX as i64;
pub(super) const DAY_SECONDS: i64 = 24 * 60 * 60;
/// Longest time limit: longer than any wait, and too short to overflow a clock.
pub(super) const SECONDS_MAX: i64 = 366 * 100 * DAY_SECONDS;
pub(super) const MILLISECONDS_MAX: i64 = SECONDS_MAX * 1000;
