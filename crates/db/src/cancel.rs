//! Sends one cancel request and waits until it was dealt with.
//! The driver's own way closes the socket at once; a pooler takes that for a caller who no longer wants it, and passes
//! nothing on. A server that is spoken to over TLS is asked over TLS too. Called by `sweep` and when a `Db` closes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_postgres::{CancelToken, NoTls};

use crate::socket::{self, Socket};
use crate::tls::Tls;
use crate::url::ConnectionUrl;

/// Asks the server of `url` to stop what the token's connection is running. Returns when the server, or the
/// pooler in between, has closed the request's socket: then the signal was sent.
pub(crate) async fn cancel(token: &CancelToken, url: &ConnectionUrl) -> io::Result<()> {
    match socket::open(url).await? {
        Socket::Tcp(stream) => request(token, url.tls(), stream).await,
        Socket::Unix(stream) => request(token, url.tls(), stream).await,
    }
}

async fn request<Stream>(token: &CancelToken, tls: Option<&Tls>, mut stream: Stream) -> io::Result<()>
where
    Stream: AsyncRead + AsyncWrite + Unpin + Send,
{
    let kept = KeptOpen { stream: &mut stream };
    let sent = match tls {
        // Its session is kept open too: over a last word a server resets the socket, and a pooler takes it for the caller's leave.
        Some(tls) => Box::pin(token.cancel_query_raw(kept, tls.kept_open())).await,
        None => token.cancel_query_raw(kept, NoTls).await,
    };
    sent.map_err(io::Error::other)?;
    // The protocol gives no answer, only the end.
    let mut unasked = [0; 64];
    loop {
        match stream.read(&mut unasked).await? {
            0 => return Ok(()),
            // It offers a session for the next time, or says that the end comes.
            _ if tls.is_some() => {}
            _ => return Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
    }
}

/// A stream that the driver cannot close.
pub(crate) struct KeptOpen<Stream> {
    pub(crate) stream: Stream,
}

impl<Stream: AsyncRead + Unpin> AsyncRead for KeptOpen<Stream> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<Stream: AsyncWrite + Unpin> AsyncWrite for KeptOpen<Stream> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
