//! An operator who brings certificates of an authority of their own, made with openssl as its manual says, and what
//! happens when those files change, are wrong, or name somebody else.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

mod cli_support;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
};

use cli_support::{Home, SOON, refused, services};
use reachback_testkit::{
    eventually,
    process::{Process, Signal},
    tools::{self, Tools},
};

/// A directory of certificates.
struct Authority<'a> {
    tools: &'a Tools,
    home: &'a Home,
}

impl<'a> Authority<'a> {
    fn new(tools: &'a Tools, home: &'a Home) -> Self {
        let authority = Self { tools, home };
        fs::write(home.path("index"), "").unwrap();
        fs::write(home.path("serial"), "1000\n").unwrap();
        authority.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=our authority",
            "-addext",
            "keyUsage=critical,keyCertSign",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ]);
        authority
    }

    fn openssl(&self, arguments: &[&str]) -> String {
        let mut command = self.tools.command("openssl");
        let output =
            command.args(arguments).current_dir(self.home.path("")).stdin(Stdio::null()).output().unwrap();
        assert!(
            output.status.success(),
            "openssl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// A certificate and its key: FILE.pem and FILE.key.
    fn issue(&self, file: &str, common_name: &str, dns: &str) {
        self.issue_between(file, common_name, dns, vec!["-days", "30"]);
    }

    /// The same, over since long ago.
    fn issue_expired(&self, file: &str, name: &str) {
        let long_ago = ["-startdate", "20240101000000Z", "-enddate", "20240201000000Z"];
        self.issue_between(file, name, name, long_ago.to_vec());
    }

    fn issue_between(&self, file: &str, common_name: &str, dns: &str, when: Vec<&str>) {
        let (key, request, certificate) =
            (format!("{file}.key"), format!("{file}.csr"), format!("{file}.pem"));
        let subject = format!("/CN={common_name}");
        self.openssl(&[
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            &subject,
            "-keyout",
            &key,
            "-out",
            &request,
        ]);
        let config = format!(
            "[ca]\ndefault_ca=ours\n[ours]\ndatabase=index\nnew_certs_dir=.\nserial=serial\ndefault_md=sha256\n\
             policy=any\nunique_subject=no\nx509_extensions=names\n[any]\ncommonName=supplied\n\
             [names]\nsubjectAltName=DNS:{dns}\n"
        );
        fs::write(self.home.path("ca.cnf"), config).unwrap();
        let signed =
            ["ca", "-batch", "-notext", "-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key"];
        self.openssl(&[&signed[..], &["-in", &request, "-out", &certificate], &when].concat());
    }

    /// The explorer's file with these lines before its tables.
    fn explorer(&self, verification: &str) -> (Process, String) {
        let at = |name: &str| self.home.path(name).display().to_string();
        let file = format!(
            "mode = \"strict\"\n[tls]\ncert_path = \"{}\"\nkey_path = \"{}\"\nca_cert_path = \"{}\"\n\
             require_client_auth = true\nnode_id_verification = \"{verification}\"\n\
             [[caller]]\nname = \"edge-7\"\nallow = [\"edge-8/echo\"]\n\
             [[caller]]\nname = \"ann\"\nallow = [\"edge-*/echo\"]\n",
            at("hub.pem"),
            at("hub.key"),
            at("ca.pem")
        );
        fs::write(self.home.path("explorer.toml"), file).unwrap();
        self.home.explorer(&["--config", "explorer.toml"])
    }

    /// A node that shows FILE.pem, not waited for.
    fn node(&self, explorer: &str, id: &str, file: &str, more: &[&str]) -> Process {
        let at = |name: &str| self.home.path(name).display().to_string();
        let tables = format!(
            "id = \"{id}\"\nexplorers = [\"{explorer}\"]\ncontrol_socket = \"off\"\n[tls]\ncert_path = \"{}\"\n\
             key_path = \"{}\"\nca_cert_path = \"{}\"\n",
            at(&format!("{file}.pem")),
            at(&format!("{file}.key")),
            at("ca.pem")
        );
        let config = format!("{id}-{file}.toml");
        fs::write(self.home.path(&config), tables).unwrap();
        self.home.start(&[&["node", "--config", &config], more].concat())
    }
}

#[test]
fn certificates_of_somebody_elses_authority() {
    let Some(tools) = tools::need(&["openssl"]) else { return };
    let home = Home::new();
    let authority = Authority::new(&tools, &home);
    authority.issue("hub", "hub", "explorer.reachback");
    authority.issue("seven", "edge-7", "edge-7");
    authority.issue("eight", "edge-8", "edge-8");
    authority.issue("nine", "edge-9", "edge-9");
    authority.issue("two-names", "edge-5", "edge-6");
    let (_explorer, address) = authority.explorer("SubjectAltName");

    let echo = format!("echo={}", services::echo());
    let eight = authority.node(&address, "edge-8", "eight", &["--service", &echo]);
    eight.wait_for_line("edge-8 online at hub-1", SOON).unwrap();

    // A node calls what [[caller]] allows it, and nobody else is allowed anything.
    let port = |node: &Process| {
        let line = node.wait_for_line("-> edge-8/echo", SOON).unwrap();
        line.split_whitespace().find_map(|word| word.strip_prefix("127.0.0.1:")?.parse::<u16>().ok()).unwrap()
    };
    let echoed = |port: u16| {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"hello")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut back = String::new();
        stream.read_to_string(&mut back).map(|_| back)
    };
    let seven = authority.node(&address, "edge-7", "seven", &["--forward", "0=edge-8/echo"]);
    seven.wait_for_line("edge-7 online at hub-1", SOON).unwrap();
    let port = port(&seven);
    let back = eventually(SOON, "an echo", || match echoed(port) {
        Ok(back) if !back.is_empty() => Ok(back),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(back, "hello");
    let nine = authority.node(&address, "edge-9", "nine", &["--forward", "0=edge-8/echo"]);
    nine.wait_for_line("edge-9 online at hub-1", SOON).unwrap();
    // What one may not reach one doesn't hear of either.
    nine.wait_for_line("is closed: edge-8/echo is offline", SOON).unwrap();

    // So do people, with certificates of their own.
    authority.issue("ann", "ann", "ann");
    authority.issue("ben", "ben", "ben");
    let connect = |who: &str| {
        let (certificate, key) = (format!("{who}.pem"), format!("{who}.key"));
        let shown = ["--cert-file", &certificate, "--key-file", &key, "--ca-file", "ca.pem"];
        home.run_with_input(
            &[&["connect", "edge-8/echo", "--explorer", &address][..], &shown].concat(),
            b"hello",
        )
    };
    let visited = connect("ann");
    assert_eq!(visited.stdout, "hello\n", "{}", visited.stderr);
    let nobody = connect("ben");
    assert!(
        refused(&nobody, 77).contains("this certificate is for ben, and no [[caller]]"),
        "{}",
        nobody.stderr
    );

    // A certificate names its node; which of its names counts is configured.
    let squatter = authority.node(&address, "edge-4", "seven", &[]);
    let told = squatter.wait_for_line("edge-4 offline", SOON).unwrap();
    assert!(told.contains("node_id_mismatch: ") && told.contains("edge-7"), "{told}");
    let by_subject = authority.node(&address, "edge-5", "two-names", &[]);
    let told = by_subject.wait_for_line("edge-5 offline", SOON).unwrap();
    assert!(told.contains("node_id_mismatch: "), "{told}");
    let by_dns = authority.node(&address, "edge-6", "two-names", &[]);
    by_dns.wait_for_line("edge-6 online at hub-1", SOON).unwrap();
    drop((_explorer, by_dns, by_subject));

    let (_explorer, address) = authority.explorer("CommonName");
    let by_subject = authority.node(&address, "edge-5", "two-names", &[]);
    by_subject.wait_for_line("edge-5 online at hub-1", SOON).unwrap();
    let by_dns = authority.node(&address, "edge-6", "two-names", &[]);
    let told = by_dns.wait_for_line("edge-6 offline", SOON).unwrap();
    assert!(told.contains("node_id_mismatch: "), "{told}");
}

#[test]
fn strangers_and_the_expired_are_refused_on_both_ends() {
    let Some(tools) = tools::need(&["openssl"]) else { return };
    let home = Home::new();
    let authority = Authority::new(&tools, &home);
    authority.issue("hub", "hub", "explorer.reachback");
    authority.issue_expired("old", "edge-7");
    let (explorer, address) = authority.explorer("SubjectAltName");

    let expired = authority.node(&address, "edge-7", "old", &[]);
    let told = expired.wait_for_line("edge-7 offline", SOON).unwrap();
    assert!(told.contains("expired: "), "{told}");
    explorer.wait_for_line("expired", SOON).unwrap();

    // Another authority's node does not believe the explorer; one that does is not believed by it.
    let elsewhere = Home::new();
    let other = Authority::new(&tools, &elsewhere);
    other.issue("seven", "edge-7", "edge-7");
    let foreign = other.node(&address, "edge-7", "seven", &[]);
    let told = foreign.wait_for_line("edge-7 offline", SOON).unwrap();
    assert!(told.contains("another authority"), "{told}");
    fs::copy(home.path("ca.pem"), elsewhere.path("ca.pem")).unwrap();
    let foreign = other.node(&address, "edge-7", "seven", &[]);
    let told = foreign.wait_for_line("edge-7 offline", SOON).unwrap();
    assert!(told.contains("unauthenticated: "), "{told}");
}

#[test]
fn at_sighup_new_certificates_are_shown_and_wrong_ones_are_not() {
    let Some(tools) = tools::need(&["openssl"]) else { return };
    let home = Home::new();
    let authority = Authority::new(&tools, &home);
    authority.issue("hub", "hub", "explorer.reachback");
    let (mut explorer, address) = authority.explorer("SubjectAltName");
    let shown = || {
        let mut command: Command = tools.command("openssl");
        command.args(["s_client", "-connect", &address, "-alpn", "reachback/1", "-showcerts"]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let begin = text.find("-----BEGIN").unwrap_or_else(|| panic!("no certificate: {text}"));
        text[begin..].split("-----END").next().unwrap().split_whitespace().collect::<String>()
    };
    let in_file = || {
        let text = fs::read_to_string(home.path("hub.pem")).unwrap();
        text.split("-----END").next().unwrap().split_whitespace().collect::<String>()
    };
    let first = in_file();
    assert_eq!(shown(), first);

    // Wrong, and said so; what worked goes on.
    fs::write(home.path("hub.pem"), "not a certificate").unwrap();
    let mark = explorer.mark();
    explorer.signal(Signal::HangUp).unwrap();
    let said = explorer.wait_for_line_after(mark, "SIGHUP: ", SOON).unwrap();
    assert!(said.contains("hub.pem") && said.contains("the certificates from before stay in use"), "{said}");
    assert_eq!(shown(), first);

    authority.issue("hub", "hub", "explorer.reachback");
    let mark = explorer.mark();
    explorer.signal(Signal::HangUp).unwrap();
    explorer.wait_for_line_after(mark, "SIGHUP: certificates are read again", SOON).unwrap();
    let second = in_file();
    assert_ne!(second, first);
    eventually(SOON, "the new certificate is shown", || {
        if shown() == second { Ok(()) } else { Err("the old one") }
    });
}

/// What can't be used is refused before anything listens, and by `check` in the same words.
#[test]
fn files_that_make_no_certificate_are_refused() {
    let Some(tools) = tools::need(&["openssl"]) else { return };
    let home = Home::new();
    let authority = Authority::new(&tools, &home);
    authority.issue("hub", "hub", "explorer.reachback");
    authority.issue("other", "hub", "explorer.reachback");
    drop(authority.explorer("SubjectAltName"));
    let start =
        || home.run(&["explorer", "--id", "hub-1", "--listen", "127.0.0.1:0", "--config", "explorer.toml"]);
    for (file, content, part) in [
        ("hub.key", fs::read(home.path("other.key")).unwrap(), "for another key"),
        ("hub.key", b"no key".to_vec(), "hub.key"),
        ("ca.pem", Vec::new(), "ca.pem"),
    ] {
        let before = fs::read(home.path(file)).unwrap();
        fs::write(home.path(file), content).unwrap();
        let finished = start();
        assert!(refused(&finished, 78).contains(part), "{file}: {}", finished.stderr);
        let checked =
            home.run(&["check", "explorer", "--listen", "127.0.0.1:0", "--config", "explorer.toml"]);
        assert_eq!(refused(&checked, 78), finished.stderr, "check says what a start says");
        fs::write(home.path(file), before).unwrap();
    }
    let mut fine =
        home.start(&["explorer", "--id", "hub-1", "--listen", "127.0.0.1:0", "--config", "explorer.toml"]);
    fine.wait_for_line("listening", SOON).unwrap();
    fine.signal(Signal::Terminate).unwrap();
    assert!(cli_support::finished(&mut fine).status.success());
}
