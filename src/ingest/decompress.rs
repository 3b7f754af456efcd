//! Content codings of request bodies: gzip (RFC 1952, several members) and zstd (RFC 8878, several frames).
//! Limits count what comes out, and nothing above the limit is ever allocated for it. zstd decodes in one step into
//! a buffer of that size, so the window that a frame asks for costs no memory.

use std::io::Read;

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use zstd::zstd_safe;

use super::decode::DecodeError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

const STEP_BYTES: usize = 16 * 1024;
/// `ZSTD_error_dstSize_tooSmall`; codes below 100 are stable (zstd_errors.h).
const OUTPUT_TOO_SMALL: usize = 70;

/// Undoes `encoding`; at most `max` bytes may come out.
pub fn decompress(encoding: Encoding, body: Bytes, max: usize) -> Result<Bytes, DecodeError> {
    match encoding {
        Encoding::Identity if body.len() > max => Err(DecodeError::TooLarge { bytes_max: max }),
        Encoding::Identity => Ok(body),
        // Both formats have a header: no bytes are no encoding of nothing.
        _ if body.is_empty() => Err(DecodeError::Compression),
        Encoding::Gzip => gunzip(&body, max),
        Encoding::Zstd => unzstd(&body, max),
    }
}

fn gunzip(body: &[u8], max: usize) -> Result<Bytes, DecodeError> {
    let mut decoder = MultiGzDecoder::new(body);
    let mut out = Vec::new();
    let mut step = [0; STEP_BYTES];
    loop {
        let read = decoder.read(&mut step).map_err(|_| DecodeError::Compression)?;
        if read == 0 {
            return Ok(out.into());
        }
        if out.len() + read > max {
            return Err(DecodeError::TooLarge { bytes_max: max });
        }
        if out.capacity() - out.len() < read {
            // Doubles like a Vec does, but not past the limit.
            let capacity = (2 * out.capacity()).clamp(out.len() + read, max);
            out.reserve_exact(capacity - out.len());
        }
        out.extend_from_slice(&step[..read]);
    }
}

fn unzstd(body: &[u8], max: usize) -> Result<Bytes, DecodeError> {
    let mut context = zstd_safe::DCtx::try_create().ok_or(DecodeError::Compression)?;
    let mut out = Vec::with_capacity(max);
    match context.decompress(&mut out, body) {
        Ok(_) => {
            // Most bodies are far below the limit.
            out.shrink_to_fit();
            Ok(out.into())
        }
        Err(code) if code == OUTPUT_TOO_SMALL.wrapping_neg() => Err(DecodeError::TooLarge { bytes_max: max }),
        Err(_) => Err(DecodeError::Compression),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const MAX: usize = 100_000;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::encode_all(text, 19).unwrap()
    }

    fn run(encoding: Encoding, body: Vec<u8>) -> Result<Bytes, DecodeError> {
        decompress(encoding, body.into(), MAX)
    }

    #[test]
    fn both_codings() {
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let pack = |text: &[u8]| if encoding == Encoding::Gzip { gzip(text) } else { zstd(text) };
            let text: Vec<u8> = (0..MAX).map(|i| u8::try_from(i * i % 251).unwrap()).collect();
            assert_eq!(run(encoding, pack(&text)).unwrap(), text, "{encoding:?}: exactly the limit");
            assert_eq!(run(encoding, pack(b"")).unwrap(), b""[..]);
            let two = [pack(b"one "), pack(b"two")].concat();
            assert_eq!(run(encoding, two.clone()).unwrap(), b"one two"[..]);

            let too_large = Err(DecodeError::TooLarge { bytes_max: MAX });
            assert_eq!(run(encoding, pack(&vec![0; MAX + 1])), too_large);
            assert_eq!(run(encoding, pack(&vec![0; 50_000_000])), too_large, "{encoding:?}: a bomb");
            assert_eq!(run(encoding, [pack(&vec![0; MAX]), pack(b"x")].concat()), too_large);

            let broken = Err(DecodeError::Compression);
            for cut in 1..two.len() {
                let whole_first = cut == pack(b"one ").len();
                assert_eq!(run(encoding, two[..cut].to_vec()).is_err(), !whole_first, "{encoding:?} cut at {cut}");
            }
            assert_eq!(run(encoding, [two.clone(), b"x".to_vec()].concat()), broken, "{encoding:?}: trailing");
            assert_eq!(run(encoding, [two.clone(), vec![0; 8]].concat()), broken, "{encoding:?}: trailing zeros");
            assert_eq!(run(encoding, Vec::new()), broken);
            assert_eq!(run(encoding, b"{}".to_vec()), broken);
        }
    }

    #[test]
    fn a_frame_may_ask_for_a_large_window() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(b"small").unwrap();
        assert_eq!(run(Encoding::Zstd, encoder.finish().unwrap()).unwrap(), b"small"[..]);
    }

    #[test]
    fn no_coding() {
        assert_eq!(run(Encoding::Identity, vec![1; MAX]).unwrap().len(), MAX);
        assert!(run(Encoding::Identity, vec![1; MAX + 1]).is_err());
    }
}
