//! gzip (RFC 1952) and deflate (RFC 9110, section 8.4.1.2) as a machine that
//! is fed with what there is and gives what that makes, in bounded steps.

use std::fmt;

use flate2::{Crc, Decompress, FlushDecompress, Status};
use hyper::body::{Buf, Bytes};

/// The most that one step gives, in bytes.
const STEP: usize = 16 * 1024;

/// Why a body cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// It is no gzip or deflate data, or was damaged.
    Damaged,
    /// It ends in the middle.
    Truncated,
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Damaged => "the compressed body is damaged",
            Self::Truncated => "the compressed body ends too early",
        })
    }
}

impl std::error::Error for Broken {}

pub(super) struct Inflater {
    stage: Stage,
    inflate: Decompress,
    crc: Crc,
    /// The last step filled its buffer: there may be more without more input.
    more: bool,
}

enum Stage {
    /// Before the first byte of the body.
    Start,
    GzipHead(Head),
    GzipData,
    GzipFoot {
        bytes: [u8; 8],
        have: usize,
    },
    /// After a member: another one, or something to ignore.
    Between,
    /// Of a deflate body, the first byte, which says with the second whether
    /// the zlib wrapping is there: some servers leave it out.
    Sniff(u8),
    Deflate,
    /// All was decoded; what follows is ignored, as browsers do.
    Ended,
}

/// Where the head of a gzip member is.
struct Head {
    field: Field,
    /// Bytes of the field to come.
    left: u16,
    /// The flags of the fields to come.
    flags: u8,
    /// Of the first member: what is no head is an error.
    first: bool,
}

#[derive(Clone, Copy)]
enum Field {
    Magic,
    Method,
    Flags,
    Fixed,
    ExtraLow,
    ExtraHigh,
    Extra,
    Name,
    Comment,
    Check,
}

/// The fields that a flag announces, in their order: flag, field, length.
const OPTIONAL: [(u8, Field, u16); 4] =
    [(4, Field::ExtraLow, 0), (8, Field::Name, 0), (16, Field::Comment, 0), (2, Field::Check, 2)];

enum HeadIs {
    Unfinished,
    Whole,
    /// No head at all.
    Other,
}

impl Inflater {
    pub(super) fn gzip() -> Self {
        let head = Head { field: Field::Magic, left: 2, flags: 0, first: true };
        Self { stage: Stage::GzipHead(head), inflate: Decompress::new(false), crc: Crc::new(), more: false }
    }

    pub(super) fn deflate() -> Self {
        Self { stage: Stage::Start, inflate: Decompress::new(true), crc: Crc::new(), more: false }
    }

    /// What `input` makes, at most [`STEP`] bytes; call again until it makes
    /// nothing. Takes from `input` what was used.
    pub(super) fn step(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, Broken> {
        loop {
            let out = match &mut self.stage {
                Stage::GzipData | Stage::Deflate if self.more || !input.is_empty() => self.data(input)?,
                _ if input.is_empty() => return Ok(None),
                Stage::Ended => {
                    input.clear();
                    None
                }
                _ => {
                    let byte = input.get_u8();
                    self.frame(byte, input)?;
                    None
                }
            };
            if out.is_some() {
                return Ok(out);
            }
        }
    }

    /// Whether a body may end here. An empty one may: HEAD, 304.
    pub(super) fn may_end(&self) -> bool {
        match &self.stage {
            Stage::Start | Stage::Between | Stage::Ended => true,
            Stage::GzipHead(head) => matches!(head.field, Field::Magic) && (!head.first || head.left == 2),
            _ => false,
        }
    }

    /// One byte of what is around the data.
    fn frame(&mut self, byte: u8, input: &mut Bytes) -> Result<(), Broken> {
        match &mut self.stage {
            Stage::GzipHead(head) => match head.take(byte)? {
                HeadIs::Unfinished => {}
                HeadIs::Whole => self.stage = Stage::GzipData,
                HeadIs::Other => self.stage = Stage::Ended,
            },
            Stage::GzipFoot { bytes, have } => {
                bytes[*have] = byte;
                *have += 1;
                if *have == bytes.len() {
                    let [a, b, c, d, rest @ ..] = *bytes;
                    if (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(rest))
                        != (self.crc.sum(), self.crc.amount())
                    {
                        return Err(Broken::Damaged);
                    }
                    self.stage = Stage::Between;
                }
            }
            Stage::Between => {
                let mut head = Head { field: Field::Magic, left: 2, flags: 0, first: false };
                self.stage = match head.take(byte)? {
                    HeadIs::Other => Stage::Ended,
                    _ => Stage::GzipHead(head),
                };
                self.inflate.reset(false);
                self.crc.reset();
            }
            Stage::Start => self.stage = Stage::Sniff(byte),
            Stage::Sniff(first) => {
                let wrapped = *first & 0x8f == 8 && (u16::from(*first) << 8 | u16::from(byte)) % 31 == 0;
                self.inflate.reset(wrapped);
                *input = [&[*first, byte], &input[..]].concat().into();
                self.stage = Stage::Deflate;
            }
            Stage::GzipData | Stage::Deflate | Stage::Ended => {}
        }
        Ok(())
    }

    fn data(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, Broken> {
        // Room for what text usually makes; a small chunk shall not cost all of it.
        let mut out = Vec::with_capacity(input.len().saturating_mul(8).clamp(1024, STEP));
        let before = self.inflate.total_in();
        let status = self.inflate.decompress_vec(input, &mut out, FlushDecompress::None);
        let status = status.map_err(|_| Broken::Damaged)?;
        let used = (self.inflate.total_in() - before) as usize;
        input.advance(used);
        self.more = out.len() == out.capacity();
        if matches!(self.stage, Stage::GzipData) {
            self.crc.update(&out);
        }
        if status == Status::StreamEnd {
            self.more = false;
            self.stage = match self.stage {
                Stage::GzipData => Stage::GzipFoot { bytes: [0; 8], have: 0 },
                _ => Stage::Ended,
            };
        } else if used == 0 && out.is_empty() && !input.is_empty() {
            return Err(Broken::Damaged); // neither takes nor gives
        }
        Ok((!out.is_empty()).then(|| out.into()))
    }
}

impl Head {
    fn take(&mut self, byte: u8) -> Result<HeadIs, Broken> {
        let ended = match self.field {
            Field::Magic if byte == [0x8b, 0x1f][usize::from(self.left - 1)] => self.counted(),
            Field::Magic if self.first => return Err(Broken::Damaged),
            Field::Magic => return Ok(HeadIs::Other),
            Field::Method if byte == 8 => true,
            Field::Method => return Err(Broken::Damaged),
            Field::Flags => {
                self.flags = byte;
                true
            }
            Field::ExtraLow => {
                self.left = u16::from(byte);
                true
            }
            Field::ExtraHigh => {
                self.left |= u16::from(byte) << 8;
                true
            }
            Field::Fixed | Field::Extra | Field::Check => self.counted(),
            Field::Name | Field::Comment => byte == 0,
        };
        Ok(if ended { self.next() } else { HeadIs::Unfinished })
    }

    fn counted(&mut self) -> bool {
        self.left -= 1;
        self.left == 0
    }

    /// Goes to the field after this one.
    fn next(&mut self) -> HeadIs {
        (self.field, self.left) = match self.field {
            Field::Magic => (Field::Method, 0),
            Field::Method => (Field::Flags, 0),
            Field::Flags => (Field::Fixed, 6), // time, extra flags, system
            Field::ExtraLow => (Field::ExtraHigh, self.left),
            Field::ExtraHigh if self.left > 0 => (Field::Extra, self.left),
            _ => match OPTIONAL.iter().find(|(flag, ..)| self.flags & flag != 0) {
                Some((flag, field, left)) => {
                    self.flags &= !flag;
                    (*field, *left)
                }
                None => return HeadIs::Whole,
            },
        };
        HeadIs::Unfinished
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    fn text() -> Vec<u8> {
        (0..20_000u32)
            .flat_map(|line| format!("line {line} of {}\n", line.wrapping_mul(2_654_435_761)).into_bytes())
            .collect()
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// Feeds `coded` in chunks of `size` bytes.
    fn decoded(mut inflater: Inflater, coded: &[u8], size: usize) -> Result<Vec<u8>, Broken> {
        let mut out = Vec::new();
        for chunk in coded.chunks(size) {
            let mut input = Bytes::copy_from_slice(chunk);
            while let Some(data) = inflater.step(&mut input)? {
                assert!(!data.is_empty() && data.len() <= STEP);
                out.extend_from_slice(&data);
            }
            assert!(input.is_empty(), "what is left would be lost");
        }
        inflater.may_end().then_some(out).ok_or(Broken::Truncated)
    }

    #[test]
    fn all_codings_decode_whatever_the_chunks() {
        let text = text();
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::best());
        zlib.write_all(&text).unwrap();
        raw.write_all(&text).unwrap();
        let (zlib, raw, gzip) = (zlib.finish().unwrap(), raw.finish().unwrap(), gzip(&text));
        for size in [1, 2, 3, 7, 1000, usize::MAX] {
            assert!(decoded(Inflater::gzip(), &gzip, size).unwrap() == text);
            assert!(decoded(Inflater::deflate(), &zlib, size).unwrap() == text);
            assert!(decoded(Inflater::deflate(), &raw, size).unwrap() == text);
        }
    }

    #[test]
    fn members_follow_each_other_and_garbage_is_ignored() {
        let mut two = gzip(b"first, ");
        two.extend(gzip(b"second"));
        for garbage in [&b""[..], b"\0\0\0", b"\x1f", b"\x1fx", b"garbage"] {
            let coded = [&two, garbage].concat();
            for size in [1, 5, usize::MAX] {
                assert_eq!(decoded(Inflater::gzip(), &coded, size).unwrap(), b"first, second", "{garbage:?}");
            }
        }
    }

    #[test]
    fn every_field_of_a_gzip_head_is_passed_over() {
        let plain = gzip(b"text");
        for flags in 0..32u8 {
            let mut coded = plain[..10].to_vec();
            coded[3] = flags;
            for (flag, field) in [(4, &b"\x05\0extra"[..]), (8, b"name\0"), (16, b"comment\0"), (2, b"hc")] {
                if flags & flag != 0 {
                    coded.extend_from_slice(field);
                }
            }
            coded.extend_from_slice(&plain[10..]);
            assert_eq!(decoded(Inflater::gzip(), &coded, 1).unwrap(), b"text", "{flags}");
        }
        let mut empty_extra = plain[..10].to_vec();
        empty_extra[3] = 4;
        empty_extra.extend([0, 0]);
        empty_extra.extend_from_slice(&plain[10..]);
        assert_eq!(decoded(Inflater::gzip(), &empty_extra, 1).unwrap(), b"text");
    }

    #[test]
    fn a_body_that_ends_early_or_is_damaged_is_an_error() {
        let coded = gzip(&text());
        for end in [1, 2, 3, 9, 10, 11, coded.len() / 2, coded.len() - 8, coded.len() - 1] {
            assert_eq!(decoded(Inflater::gzip(), &coded[..end], 100).unwrap_err(), Broken::Truncated, "{end}");
        }
        assert_eq!(decoded(Inflater::gzip(), b"", 1).unwrap(), b"");
        for at in [0, 1, 2, coded.len() - 1, coded.len() - 5] {
            let mut bad = coded.clone();
            bad[at] ^= 1;
            assert_eq!(decoded(Inflater::gzip(), &bad, 100).unwrap_err(), Broken::Damaged, "{at}");
        }
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::best());
        raw.write_all(&text()).unwrap();
        let raw = raw.finish().unwrap();
        assert_eq!(decoded(Inflater::deflate(), &raw[..raw.len() - 1], 9).unwrap_err(), Broken::Truncated);
        assert!(decoded(Inflater::deflate(), b"\xff\xffnothing of the kind", 9).is_err());
    }

    #[test]
    fn what_was_flushed_is_decoded_at_once() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let mut inflater = Inflater::gzip();
        for event in 0..50 {
            let event = format!("data: {event}\n\n").into_bytes();
            encoder.write_all(&event).unwrap();
            encoder.flush().unwrap();
            let mut input = Bytes::from(std::mem::take(encoder.get_mut()));
            let mut out = Vec::new();
            while let Some(data) = inflater.step(&mut input).unwrap() {
                out.extend_from_slice(&data);
            }
            assert_eq!(out, event);
        }
    }

    #[test]
    fn a_bomb_comes_out_in_bounded_steps() {
        let bomb = gzip(&vec![0; 50 << 20]);
        assert!(bomb.len() < 60_000);
        let mut inflater = Inflater::gzip();
        let mut input = Bytes::from(bomb);
        let (mut steps, mut size) = (0, 0);
        while let Some(data) = inflater.step(&mut input).unwrap() {
            assert!(data.len() <= STEP);
            (steps, size) = (steps + 1, size + data.len());
        }
        assert_eq!(size, 50 << 20);
        assert!(steps >= 800 && inflater.may_end());
    }
}
