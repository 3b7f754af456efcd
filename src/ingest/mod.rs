//! Readings
mod decode;
mod decompress;
mod item;
mod scan;
mod settings;
pub use decode::{BatchItem, DecodeError, Format, ReadingBatch, decode};
pub use decompress::{Encoding, decompress};
pub use settings::{IngestSettings, Limits};
