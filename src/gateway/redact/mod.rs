//! Redaction: a secret that was injected does not come back.
//!
//! The values of a run's secrets are turned into [`Needles`], the byte strings
//! that the value looks like when it is sent back: as it is, or in the forms
//! that common encoders give it (`forms`). Wherever one is found in a
//! response, it is overwritten with as many `*`, so that lengths stay right
//! and nothing has to be buffered. A [`Redactor`] does that for one stream,
//! across the borders of its chunks; [`RedactedBody`] for an HTTP body;
//! [`copy_redacted`] for the bytes of a WebSocket; [`mask_head`] for the head
//! of a response. A compressed body is decoded first ([`Decoded`]).
//!
//! What is not found: forms that nobody is known to make by accident, such as
//! a value that is reversed, compressed, encrypted or encoded twice in
//! another way than `forms` lists, and a value that the far side cuts by bytes
//! of its own, such as WebSocket frame heads or the line breaks of MIME.

mod body;
mod bytes;
mod decode;
mod forms;
mod head;
mod inflate;
mod needles;
mod stream;

pub use body::RedactedBody;
pub use bytes::copy_redacted;
pub use decode::{Coding, Decoded};
pub use head::{mask_head, mask_headers};
pub use needles::{Needles, SHORTEST};
pub use stream::Redactor;
