//! Where metrics are offered: a socket of this user, or this machine alone.
//!
//! The figures of a run are its owner's business. A socket in the file system has a mode; a port has
//! none, so it is never open to other machines, and whoever wants that puts a proxy in front.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// An address that `--metrics` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket named after the run, in a folder beside those of the doors.
    Beside,
    /// A socket at this path.
    Path(PathBuf),
    /// A port of the loopback interface; 0 is any.
    Loopback(SocketAddr),
}

/// `unix`, a path, a port, or one with a loopback address in front.
///
/// # Errors
/// What would have been right.
pub fn parse(text: &str) -> Result<Address, String> {
    if text == "unix" {
        return Ok(Address::Beside);
    }
    let path = text.strip_prefix("unix:");
    if path.is_some() || text.contains('/') {
        return match path.unwrap_or(text) {
            "" => Err("a path belongs behind unix:".to_owned()),
            path => Ok(Address::Path(PathBuf::from(path))),
        };
    }
    let port = text.strip_prefix("localhost:").or(Some(text)).and_then(|port| port.parse().ok());
    if let Some(port) = port {
        return Ok(Address::Loopback(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)));
    }
    match text.parse::<SocketAddr>() {
        Ok(at) if at.ip().is_loopback() => Ok(Address::Loopback(at)),
        Ok(at) => Err(format!(
            "{} can be reached from other machines; take 127.0.0.1:{} and put a proxy in front",
            at.ip(),
            at.port()
        )),
        Err(_) => Err("write a PORT, 127.0.0.1:PORT, [::1]:PORT, a path or `unix`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_loopback_ports() {
        let at = |text: &str| Ok(Address::Loopback(text.parse().unwrap()));
        assert_eq!(parse("9100"), at("127.0.0.1:9100"));
        assert_eq!(parse("localhost:0"), at("127.0.0.1:0"));
        assert_eq!(parse("127.1.2.3:80"), at("127.1.2.3:80"));
        assert_eq!(parse("[::1]:80"), at("[::1]:80"));
        assert_eq!(parse("unix"), Ok(Address::Beside));
        assert_eq!(parse("unix:x"), Ok(Address::Path("x".into())));
        assert_eq!(parse("./x"), Ok(Address::Path("./x".into())));
        for (text, hint) in [
            ("0.0.0.0:9100", "127.0.0.1:9100"),
            ("[::]:1", "proxy"),
            ("192.168.1.2:9100", "other machines"),
            ("example.org:80", "PORT"),
            ("65536", "PORT"),
            ("unix:", "path"),
            ("", "PORT"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
