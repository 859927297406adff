//! TCP ports of the loopback: finds free ones, and says who holds one that is taken. Changes nothing.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// A port that nobody listened on a moment ago. Another process may take it before it is used: callers
/// that start a server retry with another one.
pub(crate) fn free() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Whether a server could listen on this loopback port now.
pub(crate) fn is_free(port: u16) -> bool {
    try_bind(port).is_ok()
}

/// As a server does it.
///
/// # Errors
/// `AddrInUse`, or what else keeps this user from the port (`PermissionDenied`: it may be one of the first 1,024).
pub(crate) fn try_bind(port: u16) -> io::Result<()> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop)
}

/// The process that listens on the port, as `name (pid N)`, when `/proc` lets us see it.
pub(crate) fn holder(port: u16) -> Option<String> {
    let inodes: Vec<u64> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let sockets: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let processes = fs::read_dir("/proc").ok()?;
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = descriptors.flatten().any(|descriptor| {
            fs::read_link(descriptor.path())
                .is_ok_and(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str()))
        });
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

/// Inodes of the listening sockets on `port` in a `/proc/net/tcp` table.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
            let matches = u16::from_str_radix(local_port, 16) == Ok(port) && *fields.get(3)? == LISTEN;
            if matches { fields.get(9)?.parse().ok() } else { None }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{free, holder, is_free, listening_inodes};
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn taken_port_names_its_holder() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a loopback port");
        let port = listener.local_addr().expect("bound listener has an address").port();
        assert!(!is_free(port));
        let holder = holder(port).expect("this process shows in /proc");
        assert!(holder.contains(&format!("(pid {})", std::process::id())), "{holder}");
        drop(listener);
        assert!(is_free(port));
    }

    #[test]
    fn free_ports_can_be_bound() {
        let port = free().expect("some port is free");
        assert_ne!(port, 0);
        assert!(holder(port).is_none());
    }

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 111 1 0\n\
            1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000  0 0 222 1 0\n\
            2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 333 1 0\n";
        assert_eq!(listening_inodes(table, 8080), vec![111]);
        assert!(listening_inodes("", 8080).is_empty());
    }
}
