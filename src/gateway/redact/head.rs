//! The head of a response: header values, and the reason phrase of HTTP/1.

use hyper::ext::ReasonPhrase;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::response::Parts;

use super::Needles;

/// Masks the values of `headers`, or of trailers, in place; how many
/// occurrences there were.
pub fn mask_headers(headers: &mut HeaderMap, needles: &Needles) -> u64 {
    if needles.is_empty() {
        return 0;
    }
    headers.values_mut().map(|value| mask_value(value, needles)).sum()
}

/// Masks the header values of a response. A reason phrase of the far side's
/// own is masked too: it is text that the client may print.
pub fn mask_head(head: &mut Parts, needles: &Needles) -> u64 {
    let mut count = mask_headers(&mut head.headers, needles);
    if let Some(reason) = head.extensions.remove::<ReasonPhrase>() {
        let mut bytes = reason.as_bytes().to_vec();
        count += needles.mask_bytes(&mut bytes);
        // `*` may stand wherever another character stood.
        head.extensions.insert(ReasonPhrase::try_from(bytes).expect("it was a reason phrase before"));
    }
    count
}

fn mask_value(value: &mut HeaderValue, needles: &Needles) -> u64 {
    let mut bytes = value.as_bytes().to_vec();
    let count = needles.mask_bytes(&mut bytes);
    if count > 0 {
        let sensitive = value.is_sensitive();
        *value = HeaderValue::from_bytes(&bytes).expect("it was a header value before");
        value.set_sensitive(sensitive);
    }
    count
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hyper::Response;

    use super::*;

    #[test]
    fn values_and_the_reason_are_masked_and_the_rest_stays() {
        let needles = Needles::new([&b"hunter2-canary"[..]].into_iter());
        let response = Response::builder()
            .header("x-echo", "Bearer hunter2-canary")
            .header("x-echo", "68756e746572322d63616e617279")
            .header("x-binary", HeaderValue::from_bytes(b"\xffhunter2-canary\xff").unwrap())
            .header("x-other", "hunter2")
            .extension(ReasonPhrase::try_from(&b"No hunter2-canary"[..]).unwrap());
        let (mut head, ()) = response.body(()).unwrap().into_parts();
        assert_eq!(mask_head(&mut head, &needles), 4);
        let echoes: Vec<_> = head.headers.get_all("x-echo").iter().collect();
        assert_eq!(echoes, ["Bearer **************", "*".repeat(28).as_str()]);
        assert_eq!(head.headers["x-binary"].as_bytes(), b"\xff**************\xff");
        assert_eq!(head.headers["x-other"], "hunter2");
        assert_eq!(head.extensions.get::<ReasonPhrase>().unwrap().as_bytes(), b"No **************");
    }
}
