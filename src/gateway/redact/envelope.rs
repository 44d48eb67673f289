//! The messages of a gRPC or Connect stream: where one ends, nothing waits.
//! Each is a byte of flags, its length in four bytes, and its data (gRPC over
//! HTTP2, "Length-Prefixed-Message").

use hyper::header::{CONTENT_TYPE, HeaderMap};

/// Bytes before a message's data.
const HEAD: usize = 5;

/// Where in a stream of messages one is.
#[derive(Debug, Default)]
pub(super) struct Envelopes {
    head: Vec<u8>,
    /// Bytes of data that are still to come.
    left: u64,
}

impl Envelopes {
    /// For an answer of messages; `None` for any other.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let kind = headers.get(CONTENT_TYPE)?.to_str().ok()?.trim().to_ascii_lowercase();
        ["application/grpc", "application/connect+"].iter().any(|start| kind.starts_with(start)).then(Self::default)
    }

    /// Takes the next bytes; whether a message ends with them.
    pub fn end_with(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.left > 0 {
                let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= length as u64;
                bytes = &bytes[length..];
                continue;
            }
            let length = (HEAD - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..length]);
            bytes = &bytes[length..];
            if let [_, length @ ..] = self.head.as_slice()
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                self.left = u64::from(u32::from_be_bytes(length));
                self.head.clear();
            }
        }
        self.left == 0 && self.head.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_message_ends_where_its_length_says() {
        let two = [&[0, 0, 0, 0, 3][..], b"abc", &[1, 0, 0, 0, 0], &[0, 0, 0, 1, 0], &[b'x'; 256]].concat();
        let ends = [8, 13, 13 + 5 + 256];
        for size in [1, 2, 3, 7, 300] {
            let (mut envelopes, mut seen) = (Envelopes::default(), 0);
            for piece in two.chunks(size) {
                seen += piece.len();
                assert_eq!(envelopes.end_with(piece), ends.contains(&seen), "{seen} in pieces of {size}");
            }
        }
    }

    #[test]
    fn only_answers_of_messages_have_them() {
        let of = |kind: &'static str| Envelopes::of(&HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap())]));
        assert!(of("application/grpc+proto").is_some() && of("Application/gRPC").is_some());
        assert!(of("application/connect+json").is_some() && of("text/event-stream").is_none());
        assert!(Envelopes::of(&HeaderMap::new()).is_none());
    }
}
