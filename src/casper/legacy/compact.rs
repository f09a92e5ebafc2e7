//! JSON without white space between its tokens, however its source wrote it.

/// The place in a JSON text, as far as strings and nesting go.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct JsonPlace {
    pub(super) is_in_string: bool,
    is_escaped: bool,
    /// Objects and arrays that are open.
    pub(super) depth: u32,
}

impl JsonPlace {
    /// How many of the next bytes are in the same string, so that nothing changes by them.
    pub(super) fn run_in_string(&self, bytes: &[u8]) -> usize {
        if !self.is_in_string || self.is_escaped {
            return 0;
        }
        memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len())
    }

    /// Passes a byte; reports whether it belongs to the compact form.
    pub(super) fn passes(&mut self, byte: u8) -> bool {
        if self.is_in_string {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.is_in_string = false,
                _ => {}
            }
            return true;
        }
        match byte {
            b'"' => self.is_in_string = true,
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b' ' | b'\n' | b'\r' | b'\t' => return false,
            _ => {}
        }
        true
    }
}

/// Takes the white space out of the JSON that begins at `start`.
pub(super) fn make_compact(json: &mut Vec<u8>, start: usize) {
    let written = json.get(start..).unwrap_or_default();
    // Most payloads have none at all, not even in a string.
    if memchr::memchr3(b' ', b'\n', b'\t', written).is_none() {
        return;
    }
    let mut place = JsonPlace::default();
    let mut index = 0;
    json.retain(|&byte| {
        index += 1;
        index <= start || place.passes(byte)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_goes_between_tokens_and_stays_in_strings() {
        let mut json = br#"kept as is { "a b" : [ 1 , "\" c\\" ] ,"d":"e  f"	}"#.to_vec();
        make_compact(&mut json, 11);
        assert_eq!(String::from_utf8(json).unwrap(), r#"kept as is {"a b":[1,"\" c\\"],"d":"e  f"}"#);
    }
}
