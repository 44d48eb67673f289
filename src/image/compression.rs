//! Layers as they lie in an image: plain, gzip or zstd. The bytes themselves say
//! which, whatever the media type says.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

/// A layer, decompressed while it is read.
pub enum Decompressed<R: Read> {
    /// As it is.
    Plain(BufReader<Joined<R>>),
    /// RFC 1952, one member or several.
    Gzip(Box<MultiGzDecoder<BufReader<Joined<R>>>>),
    /// RFC 8878.
    Zstd(Box<zstd::Decoder<'static, BufReader<Joined<R>>>>),
}

/// What was looked at, and the rest.
pub type Joined<R> = io::Chain<Cursor<Vec<u8>>, R>;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A frame without data, with which some tools begin; of the first byte four bits.
const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
const CHUNK: usize = 128 << 10;

impl<R: Read> Decompressed<R> {
    /// Looks at the first bytes.
    pub fn new(mut inner: R) -> io::Result<Self> {
        let mut start = Vec::with_capacity(ZSTD.len());
        inner.by_ref().take(ZSTD.len() as u64).read_to_end(&mut start)?;
        let skippable =
            start.len() == SKIPPABLE.len() && start[0] & 0xf0 == SKIPPABLE[0] && start[1..] == SKIPPABLE[1..];
        let (gzip, zstd) = (start.starts_with(&GZIP), start.starts_with(&ZSTD) || skippable);
        let joined = BufReader::with_capacity(CHUNK, Cursor::new(start).chain(inner));
        Ok(match (gzip, zstd) {
            (true, _) => Self::Gzip(Box::new(MultiGzDecoder::new(joined))),
            (_, true) => Self::Zstd(Box::new(zstd::Decoder::with_buffer(joined)?)),
            _ => Self::Plain(joined),
        })
    }

    /// The reader below, at its end: what follows the compressed data is read
    /// too, so that a digest over all of it can be compared.
    pub fn into_inner(self) -> io::Result<R> {
        let mut joined = match self {
            Self::Plain(joined) => joined,
            Self::Gzip(gzip) => gzip.into_inner(),
            Self::Zstd(zstd) => zstd.finish(),
        };
        loop {
            let count = joined.fill_buf()?.len();
            if count == 0 {
                return Ok(joined.into_inner().into_inner().1);
            }
            joined.consume(count);
        }
    }
}

impl<R: Read> Read for Decompressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(inner) => inner.read(buffer),
            Self::Gzip(inner) => inner.read(buffer),
            Self::Zstd(inner) => inner.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(bytes).expect("memory");
        out.finish().expect("memory")
    }

    #[test]
    fn the_bytes_say_what_they_are() {
        let text = b"some text, some text, some text".to_vec();
        let two = [gzip(&text[..10]), gzip(&text[10..])].concat();
        let zstd = zstd::encode_all(text.as_slice(), 1).expect("memory");
        for bytes in [text.clone(), gzip(&text), two, zstd] {
            let mut reader = Decompressed::new(bytes.as_slice()).expect("memory");
            let mut out = Vec::new();
            reader.read_to_end(&mut out).expect("it is well-formed");
            assert_eq!(out, text);
            assert!(reader.into_inner().expect("memory").is_empty());
        }
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let whole = gzip(&[7u8; 100_000]);
        let mut reader = Decompressed::new(&whole[..whole.len() - 9]).expect("memory");
        assert!(reader.read_to_end(&mut Vec::new()).is_err());
    }
}
