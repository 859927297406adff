//! Opens the socket to the server of a URL, with everything that lets the kernel find a dead peer.
//! It speaks no protocol and has no limit of its own: callers put one around it. Called by `dial` and `cancel`.

use std::io;
use std::net::SocketAddr;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio_postgres::config::Host;

use crate::config::{KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_RETRIES, TCP_USER_TIMEOUT};
use crate::url::ConnectionUrl;

/// An open socket of either kind.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Connects to the first address of the URL's host that answers.
pub(crate) async fn open(url: &ConnectionUrl) -> io::Result<Socket> {
    let folder = match (url.settings().get_hostaddrs().first(), url.host()) {
        (Some(address), _) => return tcp(SocketAddr::new(*address, url.port())).await.map(Socket::Tcp),
        (None, Host::Tcp(name)) => return first_of(name, url.port()).await.map(Socket::Tcp),
        (None, Host::Unix(folder)) => folder,
    };
    let path = folder.join(format!(".s.PGSQL.{}", url.port()));
    UnixStream::connect(path).await.map(Socket::Unix)
}

async fn first_of(name: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host's name has no address");
    for address in lookup_host((name, port)).await? {
        match tcp(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn opened(url: &str) -> io::Result<Socket> {
        open(&url.parse().expect("a valid URL")).await
    }

    #[tokio::test]
    async fn dead_peers_are_found_by_the_kernel() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        for url in [
            format!("postgres://pay@127.0.0.1:{port}/x"),
            format!("host=db.invalid hostaddr=127.0.0.1 port={port} user=pay"),
        ] {
            let Socket::Tcp(stream) = opened(&url).await.expect("connect") else { panic!("TCP") };
            assert!(stream.nodelay().expect("asked"));
            let socket = SockRef::from(&stream);
            assert!(socket.keepalive().expect("asked"));
            assert_eq!(socket.tcp_keepalive_time().expect("asked"), KEEPALIVE_IDLE);
            assert_eq!(socket.tcp_keepalive_interval().expect("asked"), KEEPALIVE_INTERVAL);
            assert_eq!(socket.tcp_keepalive_retries().expect("asked"), KEEPALIVE_RETRIES);
            assert_eq!(socket.tcp_user_timeout().expect("asked"), Some(TCP_USER_TIMEOUT));
        }
    }

    #[tokio::test]
    async fn a_folder_leads_to_its_unix_socket() {
        let folder = std::env::temp_dir().join(format!("paystrata-socket-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("make a folder");
        let listener = tokio::net::UnixListener::bind(folder.join(".s.PGSQL.6000")).expect("listen");
        let url = format!("host={} port=6000 user=pay", folder.display());
        assert!(matches!(opened(&url).await, Ok(Socket::Unix(_))));
        drop(listener);
        std::fs::remove_dir_all(&folder).expect("remove the folder");
        let error = opened(&url).await.expect_err("nobody listens");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
