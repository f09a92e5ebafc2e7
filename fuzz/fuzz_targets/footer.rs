#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sidecar_log_format::fuzzing::footer(bytes));
