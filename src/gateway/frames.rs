//! What a WebSocket's server sends, masked frame by frame (RFC 6455, 5.2): a
//! secret that is cut over the frames of one message is found, and the end of a
//! message is never held back for the next one.

use std::collections::VecDeque;
use std::io;

use bytes::{Buf, Bytes, BytesMut};

use super::redact::{Needles, Redactor};

/// A frame's head is at most this long: two bytes, a length of eight, and a key
/// that only clients send.
const LONGEST_HEAD: usize = 14;
/// Opcodes from here on are of control frames, which come between the frames of
/// a message.
const CONTROL: u8 = 8;

/// Where in a frame the stream is.
enum At {
    Head(BytesMut),
    Data { left: u64, last: bool },
    Control { left: usize, frame: BytesMut, head: usize },
}

/// A stream of frames that is masked as it passes.
pub struct Frames {
    needles: Needles,
    redactor: Redactor,
    at: At,
    /// Heads and control frames, and after how many bytes of data they come.
    between: VecDeque<(u64, Bytes)>,
    /// Bytes of data that came, and that went on.
    came: u64,
    went: u64,
    masked: u64,
}

impl Frames {
    /// A stream before its first frame.
    pub fn new(needles: Needles) -> Self {
        Self {
            redactor: Redactor::new(needles.clone()),
            needles,
            at: At::Head(BytesMut::new()),
            between: VecDeque::new(),
            came: 0,
            went: 0,
            masked: 0,
        }
    }

    /// What may go on of the stream, now that these bytes have come.
    pub fn push(&mut self, mut bytes: Bytes) -> io::Result<Bytes> {
        let mut out = BytesMut::with_capacity(bytes.len() + LONGEST_HEAD);
        while !bytes.is_empty() {
            match &mut self.at {
                At::Head(head) => {
                    head.extend_from_slice(&bytes.split_to(1));
                    if let Some((first, length)) = understand(head)? {
                        let head = std::mem::take(head);
                        self.begin(first, length, head, &mut out);
                    }
                }
                At::Data { left, last } => {
                    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= length as u64;
                    let (ended, last) = (*left == 0, *last);
                    self.came += length as u64;
                    let data = self.redactor.push(bytes.split_to(length));
                    self.go_on(data, &mut out);
                    if ended {
                        self.end_frame(last, &mut out);
                    }
                }
                At::Control { left, frame, head } => {
                    let length = (*left).min(bytes.len());
                    *left -= length;
                    frame.extend_from_slice(&bytes.split_to(length));
                    if *left == 0 {
                        let (mut frame, head) = (std::mem::take(frame), *head);
                        self.masked += self.needles.mask_bytes(&mut frame[head..]);
                        self.put_between(frame.freeze(), &mut out);
                        self.at = At::Head(BytesMut::new());
                    }
                }
            }
        }
        Ok(out.freeze())
    }

    /// The rest, when the stream has ended.
    pub fn finish(&mut self) -> Bytes {
        let mut out = BytesMut::new();
        self.end_message(&mut out);
        if let At::Head(head) = &mut self.at {
            out.extend_from_slice(head);
        }
        out.freeze()
    }

    /// How often something was masked.
    pub fn count(&self) -> u64 {
        self.masked + self.redactor.count()
    }

    fn begin(&mut self, first: u8, length: u64, head: BytesMut, out: &mut BytesMut) {
        if first & 0x0f >= CONTROL {
            let (left, long) = (usize::try_from(length).unwrap_or(usize::MAX), head.len());
            if left == 0 {
                self.put_between(head.freeze(), out);
                self.at = At::Head(BytesMut::new());
            } else {
                self.at = At::Control { left, frame: head, head: long };
            }
            return;
        }
        self.put_between(head.freeze(), out);
        let last = first & 0x80 != 0;
        if length == 0 {
            self.end_frame(last, out);
        } else {
            self.at = At::Data { left: length, last };
        }
    }

    fn end_frame(&mut self, last: bool, out: &mut BytesMut) {
        if last {
            self.end_message(out);
        }
        self.at = At::Head(BytesMut::new());
    }

    fn end_message(&mut self, out: &mut BytesMut) {
        let data = self.redactor.finish();
        self.masked += self.redactor.count();
        self.redactor = Redactor::new(self.needles.clone());
        self.go_on(data, out);
    }

    /// Something that is no data, at its place in the order.
    fn put_between(&mut self, bytes: Bytes, out: &mut BytesMut) {
        self.between.push_back((self.came, bytes));
        self.go_on(Bytes::new(), out);
    }

    fn go_on(&mut self, mut data: Bytes, out: &mut BytesMut) {
        loop {
            while let Some((after, _)) = self.between.front()
                && *after == self.went
            {
                out.extend(self.between.pop_front().map(|(_, bytes)| bytes).unwrap_or_default());
            }
            if data.is_empty() {
                return;
            }
            let until = self.between.front().map_or(u64::MAX, |(after, _)| after - self.went);
            let length = usize::try_from(until).unwrap_or(usize::MAX).min(data.len());
            out.extend_from_slice(&data[..length]);
            data.advance(length);
            self.went += length as u64;
        }
    }
}

/// The first byte and the payload's length of a whole head.
fn understand(head: &[u8]) -> io::Result<Option<(u8, u64)>> {
    let &[first, second, ref rest @ ..] = head else {
        return Ok(None);
    };
    if second & 0x80 != 0 {
        return Err(io::Error::other("the origin scrambles its frames, as only clients may"));
    }
    let length = match (second & 0x7f, rest) {
        (126, &[high, low]) => u64::from(u16::from_be_bytes([high, low])),
        (126, _) => return Ok(None),
        (127, rest) => match <[u8; 8]>::try_from(rest) {
            Ok(bytes) => u64::from_be_bytes(bytes),
            Err(_) => return Ok(None),
        },
        (length, _) => u64::from(length),
    };
    // Bits and opcodes that only an extension has, and none was agreed on: what
    // it made of the data could not be read (RFC 6455, 5.2).
    if first & 0x70 != 0 || !matches!(first & 0x0f, 0..=2 | 8..=10) || length > i64::MAX as u64 {
        return Err(io::Error::other("the origin sends a frame of an extension that was not agreed on"));
    }
    if first & 0x0f >= CONTROL && (length > 125 || first & 0x80 == 0) {
        return Err(io::Error::other("the origin sends a control frame that is none"));
    }
    Ok(Some((first, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "sk-secret-value-1";

    fn frame(first: u8, data: &[u8]) -> Vec<u8> {
        let mut all = vec![first];
        match data.len() {
            length @ 0..=125 => all.push(length as u8),
            length @ 126..=65535 => {
                all.push(126);
                all.extend((length as u16).to_be_bytes());
            }
            length => {
                all.push(127);
                all.extend((length as u64).to_be_bytes());
            }
        }
        all.extend(data);
        all
    }

    fn frames() -> Frames {
        Frames::new(Needles::new([SECRET.as_bytes()].into_iter()))
    }

    #[test]
    fn the_end_of_a_message_goes_on_at_once() {
        let mut stream = frames();
        for message in ["yes", "sk-secret-valu", ""] {
            let sent = frame(0x81, message.as_bytes());
            assert_eq!(stream.push(sent.clone().into()).expect("frames"), sent, "{message}");
        }
        assert_eq!(stream.count(), 0);
    }

    #[test]
    fn a_secret_over_frames_is_masked_and_control_frames_keep_their_place() {
        let long = vec![b'x'; 70_000];
        let mut sent = frame(0x01, &SECRET.as_bytes()[..3]);
        sent.extend(frame(0x89, b"ping sk-"));
        sent.extend(frame(0x00, &SECRET.as_bytes()[3..9]));
        sent.extend(frame(0x80, &SECRET.as_bytes()[9..]));
        sent.extend(frame(0x82, &long));
        sent.extend(frame(0x88, format!("ok{SECRET}").as_bytes()));
        let expected: Vec<u8> = [
            frame(0x01, b"***"),
            frame(0x89, b"ping sk-"),
            frame(0x00, b"******"),
            frame(0x80, b"********"),
            frame(0x82, &long),
            frame(0x88, b"ok*****************"),
        ]
        .concat();
        for size in [1, 2, 3, 7, 64, 100_000] {
            let mut stream = frames();
            let mut out = Vec::new();
            for chunk in sent.chunks(size) {
                out.extend(stream.push(Bytes::copy_from_slice(chunk)).expect("frames"));
            }
            out.extend(stream.finish());
            assert!(out == expected, "in pieces of {size}");
            assert_eq!(stream.count(), 2);
        }
    }

    #[test]
    fn what_no_server_may_send_ends_the_stream() {
        assert!(frames().push(Bytes::from_static(&[0x81, 0x85, 0, 0, 0, 0])).is_err());
        assert!(frames().push(Bytes::from_static(&[0x09, 0x01])).is_err());
        for head in [[0xc1, 0x01], [0xa1, 0x01], [0x91, 0x01], [0x83, 0x01], [0x8b, 0x01], *b"sk"] {
            assert!(frames().push(Bytes::copy_from_slice(&head)).is_err(), "{head:02x?}");
        }
        let endless = [&[0x82, 127][..], &[0xff; 8]].concat();
        assert!(frames().push(endless.into()).is_err());
    }
}
