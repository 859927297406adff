//! One HTTP/1.1 GET over a plain socket: enough to ask the service on the loopback whether it is ready.
//! Follows nothing, keeps nothing, speaks no TLS.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

const IO_LIMIT: Duration = Duration::from_secs(2);
/// A status line is short; what is longer is no HTTP server.
const STATUS_LINE_BYTES_MAX: u64 = 1024;

/// The status code of `GET path` on a loopback port.
pub(crate) fn get_status(port: u16, path: &str) -> io::Result<u16> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, IO_LIMIT)?;
    stream.set_read_timeout(Some(IO_LIMIT))?;
    stream.set_write_timeout(Some(IO_LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(stream.take(STATUS_LINE_BYTES_MAX)).read_line(&mut line)?;
    parse_status(&line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer"))
}

fn parse_status(line: &str) -> Option<u16> {
    let mut parts = line.split_ascii_whitespace();
    parts.next().filter(|version| version.starts_with("HTTP/1."))?;
    parts.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parse_status;

    #[test]
    fn status_lines_are_read() {
        assert_eq!(parse_status("HTTP/1.1 200 OK\r\n"), Some(200));
        assert_eq!(parse_status("HTTP/1.0 503 \r\n"), Some(503));
        for line in ["", "HTTP/1.1", "SSH-2.0-OpenSSH", "HTTP/1.1 abc"] {
            assert_eq!(parse_status(line), None, "{line}");
        }
    }
}
