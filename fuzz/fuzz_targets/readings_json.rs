#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    everbeat::fuzzing::readings_json(data);
});
