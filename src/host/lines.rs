//! Lines of programs that say as much as they like: none is held longer than a limit.

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// What ended a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its line feed, which is not part of it.
    Line,
    /// The end of the stream; the last line may have no line feed.
    Stream,
}

/// Adds to `line` up to its end. What is beyond `longest` bytes, and one more by which
/// that is seen, is dropped. Nothing is lost when it is not waited for any more.
pub async fn read_line(stream: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>, longest: usize) -> End {
    loop {
        let Ok(available) = stream.fill_buf().await else { return End::Stream };
        if available.is_empty() {
            return End::Stream;
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let part = &available[..end.unwrap_or(available.len())];
        let room = (longest + 1).saturating_sub(line.len()).min(part.len());
        line.extend_from_slice(&part[..room]);
        let used = end.map_or(available.len(), |end| end + 1);
        stream.consume(used);
        if end.is_some() {
            return End::Line;
        }
    }
}
