//! What wrappers pass on as it is: the writes of a stream that changes only how it
//! is read, and the length of a body whose bytes stay the same.

/// The methods of `AsyncWrite`, passed on to a field.
macro_rules! writes_through {
    ($field:ident) => {
        fn poll_write(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
            from: &[u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            std::pin::Pin::new(&mut self.$field).poll_write(context, from)
        }

        fn poll_write_vectored(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
            from: &[std::io::IoSlice<'_>],
        ) -> std::task::Poll<std::io::Result<usize>> {
            std::pin::Pin::new(&mut self.$field).poll_write_vectored(context, from)
        }

        fn is_write_vectored(&self) -> bool {
            self.$field.is_write_vectored()
        }

        fn poll_flush(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::pin::Pin::new(&mut self.$field).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::pin::Pin::new(&mut self.$field).poll_shutdown(context)
        }
    };
}

/// The methods of `Body` about its length, passed on to a field.
macro_rules! length_of {
    ($field:ident) => {
        fn is_end_stream(&self) -> bool {
            self.$field.is_end_stream()
        }

        fn size_hint(&self) -> hyper::body::SizeHint {
            self.$field.size_hint()
        }
    };
}

pub(super) use length_of;
pub(super) use writes_through;
