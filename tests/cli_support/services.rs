//! Small services for a node to offer, in the test's own process.

#![allow(dead_code, reason = "each test target uses a part of it")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixListener,
    path::Path,
    thread,
};

/// Sends back what it gets, half-close included, on a free loopback port, until the test process ends.
pub(crate) fn echo() -> SocketAddr {
    serve(|mut stream| {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            if stream.write_all(&bytes[..count]).is_err() {
                return;
            }
        }
        // Nobody to tell if the visitor is gone.
        drop(stream.shutdown(Shutdown::Write));
    })
}

/// A port that nobody listens on: it was free a moment ago.
pub(crate) fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Runs `visit` on a thread for each visitor.
pub(crate) fn serve(visit: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let visit = visit.clone();
            thread::spawn(move || visit(stream));
        }
    });
    address
}

/// Closes a connection with a reset.
pub(crate) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
}

/// A service that takes a JSON-RPC request a line and answers with its parameters.
pub(crate) fn json_rpc(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let lines = BufReader::new(&stream).lines();
                for line in lines.map_while(Result::ok) {
                    let request: serde_json::Value = serde_json::from_str(&line).unwrap();
                    let answer = serde_json::json!({"jsonrpc": "2.0", "id": request["id"], "result": request["params"]});
                    if (&stream).write_all(format!("{answer}\n").as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
}
