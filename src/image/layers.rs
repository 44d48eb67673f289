//! The layers of one image, each checked against its digests while it is read.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{CWD, Mode, OFlags};

use super::compression::Decompressed;
use super::manifest::Image;
use super::unpack::{UnpackLimits, Unpacked, Unpacker};
use super::{Blobs, Progress, Verified};
use crate::error::{Context, Error, Result};

/// Bytes after the end of a layer's archive: tools fill their last block.
const MOST_TRAILING: u64 = 64 << 20;

/// Unpacks all layers into `root`, an empty directory.
pub fn unpack(
    image: &Image,
    blobs: &Blobs,
    root: &Path,
    limits: UnpackLimits,
    progress: &Progress,
) -> Result<Unpacked> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, root, flags, Mode::empty()).step(|| format!("open {}", root.display()))?;
    let mut unpacker = Unpacker::new(directory, limits);
    for (number, layer) in image.layers.iter().enumerate() {
        let what = format!("layer {} of {}", number + 1, image.layers.len());
        progress.count(&format!("unpacking {what}"));
        let read = || format!("read {what}");
        let bytes = Rc::new(Cell::new(0));
        let packed = Verified::new(Counted { inner: blobs.open(&layer.part)?, bytes: Rc::clone(&bytes), progress });
        let mut plain = Verified::new(Decompressed::new(packed).refuse(read)?);
        unpacker.layer(&mut plain, || bytes.get()).map_err(|error| error.because(&what))?;
        let trailing = io::copy(&mut (&mut plain).take(MOST_TRAILING + 1), &mut io::sink()).refuse(read)?;
        if trailing > MOST_TRAILING {
            return Err(Error::refused(format!("{what} goes on for more than {MOST_TRAILING} bytes after its end"))
                .hint("build the image again; belljar unpacks no part of one that it refuses"));
        }
        let packed = plain.finish(&what, &layer.diff_id)?.into_inner().refuse(read)?;
        let Some((digest, size)) = &layer.packed else { continue };
        if packed.passed() != *size {
            return Err(Error::refused(format!("{what} has {} bytes, its manifest says {size}", packed.passed())));
        }
        packed.finish(&what, digest)?;
    }
    unpacker.finish()
}

/// Counts what is read, for the limits and for the person who waits.
struct Counted<'a> {
    inner: Box<dyn Read + Send>,
    bytes: Rc<Cell<u64>>,
    progress: &'a Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes.set(self.bytes.get() + count as u64);
        self.progress.add(count as u64);
        Ok(count)
    }
}
