//! One TLS handshake under the driver, which asks the server for TLS itself, and the stream that comes of it. It neither decides whom
//! to trust nor has a limit of its own. Made by `tls`, polled by the driver.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, Error};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::SslNegotiation;
use tokio_postgres::tls::{self, ChannelBinding, MakeTlsConnect, TlsConnect};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{Connect, TlsConnector};

use super::PROTOCOL;
use super::binding::end_point;
use crate::cancel::KeptOpen;
use crate::tap::{Tap, Tapped};

/// What is laid between TLS and the driver, where the protocol is plain to see.
pub(crate) trait Layer<Stream> {
    type Laid: AsyncRead + AsyncWrite + Unpin;

    fn lay(self, secured: TlsStream<Stream>) -> Self::Laid;
}

/// Nothing.
#[derive(Clone, Copy)]
pub(crate) struct NoLayer;

impl<Stream: AsyncRead + AsyncWrite + Unpin> Layer<Stream> for NoLayer {
    type Laid = TlsStream<Stream>;

    fn lay(self, secured: TlsStream<Stream>) -> Self::Laid {
        secured
    }
}

impl<Stream: AsyncRead + AsyncWrite + Unpin> Layer<Stream> for Arc<Tap> {
    type Laid = Tapped<TlsStream<Stream>>;

    fn lay(self, secured: TlsStream<Stream>) -> Self::Laid {
        Tapped::new(secured, self)
    }
}

/// What keeps the driver from ending the TLS session.
#[derive(Clone, Copy)]
pub(crate) struct Lid;

impl<Stream: AsyncRead + AsyncWrite + Unpin> Layer<Stream> for Lid {
    type Laid = KeptOpen<TlsStream<Stream>>;

    fn lay(self, secured: TlsStream<Stream>) -> Self::Laid {
        KeptOpen { stream: secured }
    }
}

/// Agrees on keys with who is at the other end, if it is the server that it should be.
#[derive(Clone)]
pub(crate) struct Connector<Laying> {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
    pub(super) negotiation: SslNegotiation,
    pub(super) layer: Laying,
}

impl<Stream> MakeTlsConnect<Stream> for Connector<NoLayer>
where
    Stream: AsyncRead + AsyncWrite + Unpin,
{
    type Stream = Secured<TlsStream<Stream>>;
    type TlsConnect = Self;
    type Error = Infallible;

    fn make_tls_connect(&mut self, _domain: &str) -> Result<Self, Infallible> {
        Ok(self.clone())
    }
}

impl<Stream, Laying> TlsConnect<Stream> for Connector<Laying>
where
    Stream: AsyncRead + AsyncWrite + Unpin,
    Laying: Layer<Stream> + Unpin,
{
    type Stream = Secured<Laying::Laid>;
    type Error = io::Error;
    type Future = Handshake<Stream, Laying>;

    fn connect(self, stream: Stream) -> Self::Future {
        let connecting = TlsConnector::from(self.config).connect(self.name, stream);
        Handshake { connecting, negotiation: self.negotiation, layer: Some(self.layer) }
    }
}

/// One that is under way.
pub(crate) struct Handshake<Stream, Laying> {
    connecting: Connect<Stream>,
    negotiation: SslNegotiation,
    layer: Option<Laying>,
}

impl<Stream, Laying> Future for Handshake<Stream, Laying>
where
    Stream: AsyncRead + AsyncWrite + Unpin,
    Laying: Layer<Stream> + Unpin,
{
    type Output = io::Result<Secured<Laying::Laid>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let secured = ready!(Pin::new(&mut self.connecting).poll(context))?;
        let session = secured.get_ref().1;
        // The question, to which only PostgreSQL says yes, was not asked: another service with the same certificate could be spoken
        // to by mistake, or by the doing of whoever stands in between (ALPACA, USENIX Security 2021).
        if self.negotiation == SslNegotiation::Direct && session.alpn_protocol() != Some(PROTOCOL) {
            let refusal = io::Error::new(io::ErrorKind::InvalidData, Error::NoApplicationProtocol);
            return Poll::Ready(Err(refusal));
        }
        let certificates = session.peer_certificates();
        let end_point = certificates.and_then(|chain| end_point(chain.first()?));
        let layer = self.layer.take().expect("it is polled until it is ready and not again");
        Poll::Ready(Ok(Secured { stream: layer.lay(secured), end_point }))
    }
}

/// What the driver speaks over, and what its login is bound to.
pub(crate) struct Secured<Stream> {
    stream: Stream,
    end_point: Option<Vec<u8>>,
}

impl<Stream: AsyncRead + AsyncWrite + Unpin> tls::TlsStream for Secured<Stream> {
    fn channel_binding(&self) -> ChannelBinding {
        self.end_point.clone().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl<Stream: AsyncRead + Unpin> AsyncRead for Secured<Stream> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<Stream: AsyncWrite + Unpin> AsyncWrite for Secured<Stream> {
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

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
