//! Dialing where a proxy is the only way out: a real one if this machine has it, and scripted ones that answer what a
//! real one rarely does.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test by panicking")]

use std::{fs, io, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use reachback_link::{Address, ListenAddress, Listener, Net, Proxied, Proxy, RealNet, Transport};
use reachback_testkit::tools;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A network whose firewall lets one address through.
struct Firewalled {
    open: Address,
}

impl Net for Firewalled {
    fn connect<'a>(&'a self, to: &'a Address) -> BoxFuture<'a, io::Result<Transport>> {
        if *to == self.open {
            return RealNet.connect(to);
        }
        Box::pin(async { Err(io::Error::new(io::ErrorKind::TimedOut, "dropped by the firewall")) })
    }

    fn listen<'a>(&'a self, on: &'a ListenAddress) -> BoxFuture<'a, io::Result<Listener>> {
        RealNet.listen(on)
    }
}

/// The network behind `proxy`, whose address is all that can be reached.
fn behind(proxy: &str, address: &str) -> Proxied {
    let proxy: Proxy = proxy.parse().unwrap();
    Proxied::new(Arc::new(Firewalled { open: address.parse().unwrap() }), proxy)
}

/// A listener and its address.
async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not come within {PATIENCE:?}"))
}

/// A proxy that reads a request of `expect.len()` bytes, answers, and hands over what it heard and the connection.
async fn scripted(script: Vec<(usize, Vec<u8>)>) -> (String, JoinSet<(Vec<u8>, TcpStream)>) {
    let (listener, address) = listener().await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut visitor = listener.accept().await.unwrap().0;
        let mut heard = Vec::new();
        for (read, answer) in script {
            let mut request = vec![0; read];
            visitor.read_exact(&mut request).await.unwrap();
            heard.extend_from_slice(&request);
            visitor.write_all(&answer).await.unwrap();
        }
        (heard, visitor)
    });
    (address, tasks)
}

async fn refusal(proxy: &str, address: &str) -> String {
    let net = behind(proxy, address);
    let to: Address = "hub.example.com:9002".parse().unwrap();
    let error = within("the refusal", net.connect(&to)).await.unwrap_err().to_string();
    assert!(
        error.contains(address) && !error.contains("s3cret"),
        "names the proxy, not the password: {error}"
    );
    error
}

const CONNECT: &str = "CONNECT hub.example.com:9002 HTTP/1.1\r\nHost: hub.example.com:9002\r\n\r\n";

#[tokio::test]
async fn an_http_proxy_gets_the_name_and_what_follows_its_head_is_the_stream() {
    let basic = "Proxy-Authorization: Basic YW5uOnMzY3JldA==\r\n";
    let request = CONNECT.replace("\r\n\r\n", &format!("\r\n{basic}\r\n"));
    let answer = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nfirst words".to_vec();
    let (address, mut proxy) = scripted(vec![(request.len(), answer)]).await;
    let net = behind(&format!("http://ann:s3cret@{address}"), &address);
    let to = "hub.example.com:9002".parse().unwrap();
    let mut transport = within("the connection", net.connect(&to)).await.unwrap();
    let (heard, mut far) = within("the proxy", proxy.join_next()).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(heard).unwrap(), request);
    let mut words = [0; 11];
    within("the bytes behind the head", transport.read_exact(&mut words)).await.unwrap();
    assert_eq!(&words, b"first words");
    transport.write_all(b"back").await.unwrap();
    let mut back = [0; 4];
    within("the other way", far.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"back");
}

#[tokio::test]
async fn an_http_proxy_that_says_no_is_quoted() {
    for (answer, parts) in [
        ("HTTP/1.1 403 Filtered \x1b[31mhere\r\n\r\n", &["403 Filtered \\u{1b}", "hub.example.com:9002"][..]),
        (
            "HTTP/1.0 407 Proxy Authentication Required\r\n\r\n",
            &["407", "it wants credentials", "USER:PASSWORD"],
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", &["not how an HTTP proxy answers"]),
        ("HTTP/1.1 abc\r\n\r\n", &["not how an HTTP proxy answers"]),
    ] {
        let (address, _proxy) = scripted(vec![(CONNECT.len(), answer.into())]).await;
        let error = refusal(&format!("http://{address}"), &address).await;
        for part in parts {
            assert!(error.contains(part), "{error}");
        }
    }
    // One that never ends its head, and one that closes.
    let (address, _proxy) = scripted(vec![(CONNECT.len(), vec![b'x'; 20_000])]).await;
    assert!(refusal(&format!("http://{address}"), &address).await.contains("goes on beyond"));
    let (address, mut proxy) = scripted(vec![(CONNECT.len(), b"HTTP/1.1 200".to_vec())]).await;
    let closes = async { drop(within("the proxy", proxy.join_next()).await) };
    let (error, ()) = tokio::join!(async { refusal(&format!("http://{address}"), &address).await }, closes);
    assert!(error.contains("broke before it had answered"), "{error}");
    // One that is not there.
    let (gone, address) = listener().await;
    drop(gone);
    let error = refusal(&format!("http://ann:s3cret@{address}"), &address).await;
    assert!(error.contains("can't connect to it"), "{error}");
}

#[tokio::test]
async fn a_socks_proxy_gets_the_name_and_its_answer_is_read_to_the_last_byte() {
    let mut request = vec![5, 1, 0, 3, 15];
    request.extend_from_slice(b"hub.example.com");
    request.extend_from_slice(&9002u16.to_be_bytes());
    let mut yes = vec![5, 0, 0, 3, 2];
    yes.extend_from_slice(b"hi\x00\x01first");
    let sign_in = [&[1u8, 3][..], b"ann", &[6], b"s3cret"].concat();
    let script = vec![(4, vec![5, 2]), (sign_in.len(), vec![1, 0]), (request.len(), yes)];
    let (address, mut proxy) = scripted(script).await;
    let net = behind(&format!("socks5://ann:s3cret@{address}"), &address);
    let to = "hub.example.com:9002".parse().unwrap();
    let mut transport = within("the connection", net.connect(&to)).await.unwrap();
    let (heard, _far) = within("the proxy", proxy.join_next()).await.unwrap().unwrap();
    assert_eq!(heard, [&[5u8, 2, 0, 2][..], &sign_in, &request].concat());
    let mut words = [0; 5];
    within("the stream", transport.read_exact(&mut words)).await.unwrap();
    assert_eq!(&words, b"first");
}

#[tokio::test]
async fn a_socks_proxy_that_says_no_is_quoted() {
    let asked = 5 + 15 + 2;
    for (script, part) in [
        (vec![(3, vec![5, 0xff])], "ways to sign in"),
        (vec![(3, vec![4, 0])], "not how a SOCKS 5 proxy answers"),
        (vec![(3, vec![5, 2])], "ways to sign in"),
        (vec![(3, vec![5, 0]), (asked, vec![5, 2, 0, 1])], "2 (not allowed by its rules)"),
        (vec![(3, vec![5, 0]), (asked, vec![5, 5, 0, 1])], "5 (connection refused)"),
        (vec![(3, vec![5, 0]), (asked, vec![5, 77, 0, 1])], "77 ("),
    ] {
        let (address, _proxy) = scripted(script).await;
        let error = refusal(&format!("socks5://{address}"), &address).await;
        assert!(error.contains(part), "{error}");
    }
    let (address, _proxy) = scripted(vec![(4, vec![5, 2]), (12, vec![1, 1])]).await;
    let error = refusal(&format!("socks5://ann:s3cret@{address}"), &address).await;
    assert!(error.contains("does not take these credentials"), "{error}");
}

#[tokio::test]
async fn exceptions_unix_sockets_and_listeners_do_not_use_it() {
    let (inside, address) = listener().await;
    let proxy: Proxy = "http://127.0.0.1:1".parse().unwrap();
    let direct =
        Proxied::new(Arc::new(RealNet), proxy.clone().with_exceptions("127.0.0.0/8".parse().unwrap()));
    within("the connection", direct.connect(&address.parse().unwrap())).await.unwrap();
    within("the visitor", inside.accept()).await.unwrap();

    let through = Proxied::new(Arc::new(RealNet), proxy);
    within("the refusal", through.connect(&address.parse().unwrap())).await.unwrap_err();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let _listener = tokio::net::UnixListener::bind(&path).unwrap();
    through.connect(&Address::Unix(path)).await.unwrap();
    through.listen(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
}

/// Kills the proxy however the test ends.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_real_proxy_as_the_only_way_out() {
    let Some(tools) = tools::need(&["tinyproxy"]) else { return };
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("tinyproxy.conf");
    let (hub, hub_address) = listener().await;
    let hub_port = hub.local_addr().unwrap().port();
    // It can't tell which port it got, so it is given one that was free a moment ago; another may be faster.
    let mut started = None;
    for _ in 0..5 {
        let port = listener().await.0.local_addr().unwrap().port();
        let lines = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 10\nLogLevel Critical\n\
             LogFile \"{}\"\nBasicAuth ann s3cret\nConnectPort {hub_port}\n",
            directory.path().join("log").display()
        );
        fs::write(&config, lines).unwrap();
        let mut proxy = Running(tools.command("tinyproxy").arg("-d").arg("-c").arg(&config).spawn().unwrap());
        let up = within("the proxy", async {
            loop {
                if proxy.0.try_wait().unwrap().is_some() {
                    return false;
                }
                if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        if up {
            started = Some((proxy, format!("127.0.0.1:{port}")));
            break;
        }
    }
    let (_proxy, proxy_address) = started.expect("the proxy starts");

    let to: Address = hub_address.parse().unwrap();
    let alone = Firewalled { open: proxy_address.parse().unwrap() };
    assert!(alone.connect(&to).await.is_err(), "there is no other way out");

    let net = behind(&format!("http://ann:s3cret@{proxy_address}"), &proxy_address);
    let mut near = within("the connection", net.connect(&to)).await.unwrap();
    let (mut far, _) = within("the hub's visitor", hub.accept()).await.unwrap();
    let sent: Vec<u8> = (0..300_000u32).map(|n| (n * 7) as u8).collect();
    let mut came = vec![0; sent.len()];
    let (wrote, read) =
        within("bytes", async { tokio::join!(near.write_all(&sent), far.read_exact(&mut came)) }).await;
    wrote.unwrap();
    read.unwrap();
    assert!(came == sent);
    far.write_all(b"hello").await.unwrap();
    let mut hello = [0; 5];
    within("the other way", near.read_exact(&mut hello)).await.unwrap();
    assert_eq!(&hello, b"hello");

    for (credentials, to, part) in [
        ("", hub_address.as_str(), "407 Proxy Authentication Required: it wants credentials"),
        ("ann:wrong@", hub_address.as_str(), "other credentials"),
        ("ann:s3cret@", "127.0.0.1:1", "403"),
    ] {
        let net = behind(&format!("http://{credentials}{proxy_address}"), &proxy_address);
        let error = within("a refusal", net.connect(&to.parse().unwrap())).await.unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains("s3cret"), "{error}");
    }
}
