//! A compressed body as plain text, so that the redactor sees it. Compressed
//! bodies are not asked for; some servers send them all the same.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{HeaderMap, HeaderValue};

use super::inflate::{Broken, Inflater};

/// A content coding (RFC 9110, section 8.4) that can be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// No coding.
    Identity,
    /// gzip, also as x-gzip.
    Gzip,
    /// deflate, with or without the zlib wrapping.
    Deflate,
}

impl Coding {
    /// What one value of Content-Encoding names; None for another coding, or
    /// for several in a row. (Two lines of Content-Encoding are two codings.)
    pub fn of(value: &HeaderValue) -> Option<Self> {
        match value.to_str().ok()?.trim().to_ascii_lowercase().as_str() {
            "identity" | "" => Some(Self::Identity),
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            _ => None,
        }
    }
}

/// The body `B` decoded. What has come is decoded and goes on at once, at most
/// 16 KiB at a time, however much it expands to. Trailers pass. The head must
/// lose Content-Encoding, Content-Length and what names the coded bytes (ETag,
/// Digest, Accept-Ranges).
pub struct Decoded<B> {
    inner: B,
    /// None: passed as it is.
    inflater: Option<Inflater>,
    input: Bytes,
    rest: Rest,
}

/// What comes after the input that is there.
enum Rest {
    Unknown,
    Trailers(HeaderMap),
    Nothing,
}

impl<B> Decoded<B> {
    /// Decodes `coding`.
    pub fn new(inner: B, coding: Coding) -> Self {
        let inflater = match coding {
            Coding::Identity => None,
            Coding::Gzip => Some(Inflater::gzip()),
            Coding::Deflate => Some(Inflater::deflate()),
        };
        Self { inner, inflater, input: Bytes::new(), rest: Rest::Unknown }
    }
}

impl<B> Body for Decoded<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let Some(inflater) = &mut this.inflater else {
            return Pin::new(&mut this.inner).poll_frame(cx).map_err(Into::into);
        };
        loop {
            if let Some(data) = inflater.step(&mut this.input)? {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            match std::mem::replace(&mut this.rest, Rest::Nothing) {
                Rest::Nothing => return Poll::Ready(None),
                Rest::Trailers(trailers) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Rest::Unknown => this.rest = Rest::Unknown,
            }
            let next = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(frame) => frame.map_err(Into::into)?.into_data().map_err(Frame::into_trailers),
                None => Err(Err(Frame::data(Bytes::new()))),
            };
            match next {
                Ok(data) => this.input = data,
                Err(_) if !inflater.may_end() => return Poll::Ready(Some(Err(Broken::Truncated.into()))),
                Err(Ok(trailers)) => this.rest = Rest::Trailers(trailers),
                Err(Err(_)) => this.rest = Rest::Nothing,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inflater {
            None => self.inner.is_end_stream(),
            Some(inflater) => {
                let ended = match self.rest {
                    Rest::Unknown => self.inner.is_end_stream(),
                    Rest::Trailers(_) => false,
                    Rest::Nothing => true,
                };
                ended && self.input.is_empty() && inflater.may_end()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inflater {
            None => self.inner.size_hint(),
            Some(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http_body_util::{BodyExt, Full};

    use super::super::{Needles, RedactedBody};
    use super::*;

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn codings_are_told_apart() {
        let named = |text| Coding::of(&HeaderValue::from_static(text));
        assert_eq!(named("GZip"), Some(Coding::Gzip));
        assert_eq!(named("x-gzip"), Some(Coding::Gzip));
        assert_eq!(named("deflate"), Some(Coding::Deflate));
        assert_eq!(named("identity"), Some(Coding::Identity));
        for other in ["br", "zstd", "gzip, br", "gzip, gzip", "gzip;q=1", "aws-chunked"] {
            assert_eq!(named(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn a_secret_in_a_compressed_body_is_masked() {
        let coded = gzip(&format!("{}hunter2-canary{}", "x".repeat(100_000), "y".repeat(100_000)));
        let needles = Needles::new([&b"hunter2-canary"[..]].into_iter());
        let decoded = Decoded::new(Full::<Bytes>::from(coded), Coding::Gzip);
        let body = RedactedBody::new(decoded, needles, Default::default());
        assert_eq!(body.size_hint().exact(), None);
        let plain = body.collect().await.unwrap().to_bytes();
        assert_eq!(plain.len(), 200_014);
        assert_eq!(&plain[99_999..100_015], b"x**************y");
    }

    #[tokio::test]
    async fn a_body_that_ends_early_is_an_error_and_an_empty_one_is_empty() {
        let coded = gzip("some text");
        let cut = Decoded::new(Full::<Bytes>::from(coded[..coded.len() - 3].to_vec()), Coding::Gzip);
        assert!(cut.collect().await.unwrap_err().to_string().contains("too early"));
        let empty = Decoded::new(Full::<Bytes>::default(), Coding::Gzip);
        assert!(empty.is_end_stream());
        assert_eq!(empty.collect().await.unwrap().to_bytes(), "");
        let plain = Decoded::new(Full::<Bytes>::from("plain"), Coding::Identity);
        assert_eq!(plain.size_hint().exact(), Some(5));
        assert_eq!(plain.collect().await.unwrap().to_bytes(), "plain");
    }
}
