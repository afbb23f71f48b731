//! Tries to reach the machine around it and answers with a line for each attempt, `<what> => ok` or
//! `<what> => error: <reason>`. The payload may name an address to connect to (127.0.0.1:4222).

use std::net::{TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::{fs, io};

use programs::BrokerMessage;

programs::program!(answer);

fn answer(message: BrokerMessage) -> Result<Vec<u8>, String> {
    let address = match programs::text(&message)? {
        "" => "127.0.0.1:4222",
        text => text,
    };
    let tried = [
        show("read /etc/passwd", fs::read("/etc/passwd")),
        show("read ../../etc/passwd", fs::read("../../etc/passwd")),
        show("write /tmp/lattice-was-here", fs::write("/tmp/lattice-was-here", "x")),
        show("list /", fs::read_dir("/")),
        show("list .", fs::read_dir(".")),
        show("connect", TcpStream::connect(address)),
        show("listen", TcpListener::bind("127.0.0.1:0")),
        show("send", UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(b"x", address))),
        show("look up", "localhost:80".to_socket_addrs()),
    ];
    Ok(tried.join("\n").into_bytes())
}

fn show<T>(what: &str, result: io::Result<T>) -> String {
    match result {
        Ok(_) => format!("{what} => ok"),
        Err(error) => format!("{what} => error: {error}"),
    }
}
