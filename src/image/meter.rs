//! A bound on what is read of a tar archive between two entries. The extension
//! headers of an entry (long names, pax records) are read into memory as a whole,
//! and their length is what the archive says.

use std::cell::Cell;
use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

/// Bytes of all headers of one entry: some names and extended attributes.
pub const HEADERS: u64 = 1 << 20;

/// How much may still be read.
#[derive(Debug, Clone)]
pub struct Meter(Rc<Cell<u64>>);

impl Meter {
    /// Allows the headers of one entry.
    pub fn new() -> Self {
        Self(Rc::new(Cell::new(HEADERS)))
    }

    /// Allows `bytes` from here on.
    pub fn allow(&self, bytes: u64) {
        self.0.set(bytes);
    }

    /// What is left of it.
    pub fn left(&self) -> u64 {
        self.0.get()
    }
}

/// Reads no more than its meter allows; beyond that reading fails.
#[derive(Debug)]
pub struct Metered<R> {
    inner: R,
    meter: Meter,
}

impl<R> Metered<R> {
    /// Around `inner`.
    pub fn new(inner: R, meter: &Meter) -> Self {
        Self { inner, meter: meter.clone() }
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.meter.left();
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::other("there is more of it than is allowed"));
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.inner.read(&mut buffer[..most])?;
        self.meter.allow(left - count as u64);
        Ok(count)
    }
}

impl<R: Seek> Seek for Metered<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_is_read_and_no_byte_more() {
        let meter = Meter::new();
        let mut reader = Metered::new(&b"0123456789"[..], &meter);
        meter.allow(4);
        let mut all = Vec::new();
        assert!(reader.read_to_end(&mut all).is_err());
        assert_eq!(all, b"0123");
        meter.allow(100);
        assert_eq!(reader.read_to_end(&mut all).ok(), Some(6));
        assert_eq!(meter.left(), 94);
    }
}
