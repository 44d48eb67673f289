//! Redaction: a secret that was injected does not come back.
//!
//! The values of a run's secrets are turned into [`Needles`]: what the value
//! looks like when it is sent back. Byte strings are searched for as they are
//! (`forms`: raw, hexadecimal, base64, wide text); whatever is escaped, in any
//! mix of JSON, percent and HTML escapes and of escapes of escapes, and base64
//! that is cut into lines, is read and followed (`reading`, `walk`). Wherever
//! one is found in a response, it is overwritten with as many `*`, so that
//! lengths stay right and nothing has to be buffered but the last word (`hold`).
//! A [`Redactor`] does that for one stream, across the borders of its chunks;
//! [`RedactedBody`] for an HTTP body; [`mask_headers`] for a head and for
//! trailers. A compressed body is decoded first ([`Decoded`]).
//!
//! What is not found: forms that nobody is known to make by accident, such as
//! a value that is reversed, compressed, encrypted, escaped by three kinds of
//! encoders in a row, or in base64 twice, and a value that the far side cuts
//! by bytes of its own (the frames of a WebSocket are taken apart outside).

mod body;
mod decode;
mod envelope;
mod forms;
mod head;
mod hold;
mod inflate;
mod needles;
mod reading;
mod stream;
#[cfg(test)]
mod tests;
mod walk;

pub use body::RedactedBody;
pub use decode::{Coding, Decoded};
pub use head::mask_headers;
pub use needles::{Needles, SHORTEST};
pub use stream::Redactor;
