//! The head of a response, and trailers.

use hyper::header::{HeaderMap, HeaderValue};

use super::Needles;

/// Masks the values of `headers`, or of trailers, in place, and takes out those
/// that have a secret in their names; how many occurrences there were.
pub fn mask_headers(headers: &mut HeaderMap, needles: &Needles) -> u64 {
    if needles.is_empty() {
        return 0;
    }
    let named: Vec<_> = headers.keys().filter(|name| needles.are_in_name(name.as_str())).cloned().collect();
    for name in &named {
        headers.remove(name);
    }
    named.len() as u64 + headers.values_mut().map(|value| mask_value(value, needles)).sum::<u64>()
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
    use super::*;

    #[test]
    fn values_are_masked_and_the_rest_stays() {
        let needles = Needles::new([&b"hunter2-canary"[..]].into_iter());
        let mut headers = HeaderMap::new();
        headers.append("x-echo", HeaderValue::from_static("Bearer hunter2-canary"));
        headers.append("x-echo", HeaderValue::from_static("68756e746572322d63616e617279"));
        headers.append("x-binary", HeaderValue::from_bytes(b"\xffhunter2-canary\xff").unwrap());
        headers.append("x-other", HeaderValue::from_static("hunter2"));
        assert_eq!(mask_headers(&mut headers, &needles), 3);
        let echoes: Vec<_> = headers.get_all("x-echo").iter().collect();
        assert_eq!(echoes, ["Bearer **************", "*".repeat(28).as_str()]);
        assert_eq!(headers["x-binary"].as_bytes(), b"\xff**************\xff");
        assert_eq!(headers["x-other"], "hunter2");
        for name in ["x-hunter2-canary", "hunter2-canary-x", "a-68756e746572322d63616e617279"] {
            headers.append(hyper::header::HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        let upper = Needles::new([&b"HUNTER2-Canary"[..]].into_iter());
        assert_eq!(mask_headers(&mut headers.clone(), &upper), 2, "names have no case");
        assert_eq!(mask_headers(&mut headers, &needles), 3);
        assert_eq!(headers.keys_len(), 3, "{headers:?}");
    }
}
