//! How a connection to the server is made, with or without TLS, in one form for all who need one.
//! Called by `session` and `listen`.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, future::BoxFuture, stream::poll_fn};
use tokio_postgres::{
    AsyncMessage, Client, Config, Error, Socket,
    tls::{MakeTlsConnect, TlsConnect},
};

/// What the server sends on its own account; ends with the connection. Nothing moves unless it is polled.
pub(super) type Messages = Pin<Box<dyn Stream<Item = Result<AsyncMessage, Error>> + Send>>;

/// A connection nobody drives yet.
pub(super) struct Dialed {
    pub(super) client: Client,
    pub(super) messages: Messages,
}

/// Makes connections, all of them alike.
#[derive(Clone)]
pub(super) struct Dial {
    dial: Arc<dyn Fn() -> BoxFuture<'static, Result<Dialed, Error>> + Send + Sync>,
}

impl Dial {
    pub(super) fn new<T>(config: Config, tls: T) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::TlsConnect: Send + Sync,
        T::Stream: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let dial = move || -> BoxFuture<'static, Result<Dialed, Error>> {
            let (config, tls) = (config.clone(), tls.clone());
            Box::pin(async move {
                let (client, mut connection) = config.connect(tls).await?;
                let messages = Box::pin(poll_fn(move |context| connection.poll_message(context)));
                Ok(Dialed { client, messages })
            })
        };
        Self { dial: Arc::new(dial) }
    }

    pub(super) async fn dial(&self) -> Result<Dialed, Error> {
        (self.dial)().await
    }
}
