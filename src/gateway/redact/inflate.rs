//! gzip (RFC 1952) and deflate (RFC 9110, section 8.4.1.2) as a machine that
//! is fed with what there is and gives what that makes, in bounded steps.

use std::fmt;

use flate2::{Crc, Decompress, FlushDecompress, Status};
use hyper::body::{Buf, Bytes};

/// The most that one step gives, in bytes.
const STEP: usize = 64 * 1024;

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
            Stage::GzipHead(head) => !head.first || matches!(head, Head { field: Field::Magic, left: 2, .. }),
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
        // Room for what text usually makes; a small chunk shall not cost 64 KiB.
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
