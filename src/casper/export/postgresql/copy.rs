//! Rows in PostgreSQL's binary form for `COPY … FROM STDIN (FORMAT binary)`.
//!
//! The driver's own writer sends a message for every few rows; here a batch of rows is one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// PostgreSQL counts from the year 2000.
const EPOCH_SECONDS: u64 = 946_684_800;
/// Digits of `numeric` are of base 10,000.
const NUMERIC_BASE: u64 = 10_000;

/// The rows of one table.
pub(super) struct CopyRows {
    bytes: BytesMut,
    columns: i16,
    rows: u64,
}

impl CopyRows {
    /// No rows yet, for a list of so many columns.
    pub(super) fn new(columns: usize) -> Self {
        let mut bytes = BytesMut::new();
        bytes.put_slice(SIGNATURE);
        // Neither flags nor an extension of the header.
        bytes.put_i32(0);
        bytes.put_i32(0);
        CopyRows { bytes, columns: i16::try_from(columns).unwrap_or(i16::MAX), rows: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Begins a row; as many values as there are columns follow.
    pub(super) fn row(&mut self) -> &mut Self {
        self.bytes.put_i16(self.columns);
        self.rows += 1;
        self
    }

    pub(super) fn smallint(&mut self, value: i16) -> &mut Self {
        self.bytes.put_i32(2);
        self.bytes.put_i16(value);
        self
    }

    pub(super) fn bigint(&mut self, value: i64) -> &mut Self {
        self.bytes.put_i32(8);
        self.bytes.put_i64(value);
        self
    }

    /// A `text` or `varchar`; at most 1 GiB, which no event of the log reaches.
    pub(super) fn text(&mut self, value: &str) -> &mut Self {
        self.bytes.put_i32(i32::try_from(value.len()).unwrap_or(i32::MAX));
        self.bytes.put_slice(value.as_bytes());
        self
    }

    /// A `numeric` without digits after the point.
    pub(super) fn numeric(&mut self, value: u64) -> &mut Self {
        let mut digits = [0; 5];
        let (mut rest, mut count) = (value, 0_i16);
        for digit in digits.iter_mut().rev() {
            if rest > 0 {
                count += 1;
            }
            *digit = (rest % NUMERIC_BASE) as i16;
            rest /= NUMERIC_BASE;
        }
        self.bytes.put_i32(8 + 2 * i32::from(count));
        self.bytes.put_i16(count);
        // The weight of the first digit, the sign (positive) and the digits after the point.
        self.bytes.put_i16((count - 1).max(0));
        self.bytes.put_i16(0);
        self.bytes.put_i16(0);
        for digit in digits.iter().skip(digits.len() - count as usize) {
            self.bytes.put_i16(*digit);
        }
        self
    }

    /// A `timestamp` in UTC.
    pub(super) fn timestamp(&mut self, time: SystemTime) -> &mut Self {
        let epoch = UNIX_EPOCH + Duration::from_secs(EPOCH_SECONDS);
        let microseconds = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        let value = match time.duration_since(epoch) {
            Ok(after) => microseconds(after),
            Err(before) => -microseconds(before.duration()),
        };
        self.bigint(value)
    }

    /// What is sent: all rows and the end mark.
    pub(super) fn finish(mut self) -> Bytes {
        self.bytes.put_i16(-1);
        self.bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(put: impl for<'a> FnOnce(&'a mut CopyRows) -> &'a mut CopyRows) -> Vec<u8> {
        let mut rows = CopyRows::new(1);
        put(rows.row());
        // Between the header and the count of columns in front, and the end mark behind.
        let bytes = rows.finish();
        bytes[SIGNATURE.len() + 8 + 2..bytes.len() - 2].to_vec()
    }

    fn words(words: &[i16]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn a_numeric_has_no_leading_zeros() {
        assert_eq!(value(|rows| rows.numeric(0)), words(&[0, 8, 0, 0, 0, 0]));
        assert_eq!(value(|rows| rows.numeric(9_999)), words(&[0, 10, 1, 0, 0, 0, 9_999]));
        assert_eq!(value(|rows| rows.numeric(10_000)), words(&[0, 12, 2, 1, 0, 0, 1, 0]));
        let greatest = words(&[0, 18, 5, 4, 0, 0, 1_844, 6_744, 737, 955, 1_615]);
        assert_eq!(value(|rows| rows.numeric(u64::MAX)), greatest);
    }

    #[test]
    fn a_timestamp_counts_from_the_year_2000() {
        let new_year = UNIX_EPOCH + Duration::from_secs(EPOCH_SECONDS);
        assert_eq!(value(|rows| rows.timestamp(new_year)), [[0, 0, 0, 8].as_slice(), &[0; 8]].concat());
        let before = value(|rows| rows.timestamp(UNIX_EPOCH));
        assert_eq!(before[4..], (-946_684_800_000_000_i64).to_be_bytes());
    }

    #[test]
    fn a_text_is_preceded_by_its_length() {
        assert_eq!(value(|rows| rows.text("€")), [0, 0, 0, 3, 0xe2, 0x82, 0xac]);
    }
}
