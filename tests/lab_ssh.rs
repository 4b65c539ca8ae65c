//! OpenSSH through the tunnel as people use it, and the tunnel through the proxies that networks have.

mod support;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use reachback_testkit::{
    eventually,
    lab::{Lab, LabConfig, Side},
    process::{self, Process},
    tools::{self, Tools},
};

use self::support::{NODE, Pattern, REACHBACK, SOON, Service, World, succeed};

/// For transfers on two busy cores.
const A_WHILE: Duration = Duration::from_secs(180);

#[test]
fn sshd_logs_in_and_scp_copies_100_mb() {
    let Some(tools) = tools::need_lab(&["sshd", "ssh", "scp", "ssh-keygen", "sha256sum"]) else { return };
    let lab = Lab::new(LabConfig::default()).unwrap();
    let home = tempfile::tempdir().unwrap();
    let _sshd = start_sshd(lab.edge(), Ipv4Addr::LOCALHOST, &tools, home.path());
    let world = World::start(lab, &[("ssh", SSHD_PORT)], None);
    let path = |name: &str| home.path().join(name).display().to_string();

    let proxy = format!("ProxyCommand={}", world.connect_line("%h/ssh"));
    let mut ssh = tools.command_on(world.lab.hub(), "ssh");
    ssh.args(ssh_options(home.path())).args([
        "-o",
        &proxy,
        &format!("root@{NODE}"),
        "echo logged in as $(id -un)",
    ]);
    let login = succeed("ssh through connect", &mut ssh, SOON).unwrap();
    assert_eq!(login.stdout, "logged in as root\n");

    let mut pattern = fs::File::create(path("sent")).unwrap();
    Pattern::new().write(&mut pattern, 100_000_000).unwrap();
    let [(_, published), (_, forwarded)] = world.ways("ssh");
    let copies = [
        (
            "up through the published port",
            published,
            path("sent"),
            format!("root@127.0.0.1:{}", path("there")),
        ),
        ("down through forward", forwarded, format!("root@127.0.0.1:{}", path("there")), path("back")),
    ];
    for (name, address, from, to) in copies {
        let mut scp = tools.command_on(world.lab.hub(), "scp");
        scp.arg("-S").arg(tools.path("ssh")).args(ssh_options(home.path()));
        scp.args(["-P", &address.port().to_string(), &from, &to]);
        succeed(&format!("scp {name}"), &mut scp, A_WHILE).unwrap();
    }
    let mut sums = tools.command("sha256sum");
    let sums = succeed("sha256sum", sums.args([path("sent"), path("there"), path("back")]), SOON).unwrap();
    let sums: Vec<_> = sums.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(sums.len() == 3 && sums[0] == sums[1] && sums[1] == sums[2], "{sums:?}");
}

/// What people type: our own command, their own ssh, its keys, its options, its exit code.
#[test]
fn reachback_ssh_logs_in_and_scp_follows_ssh_config() {
    let Some(tools) = tools::need_lab(&["sshd", "ssh", "scp", "ssh-keygen"]) else { return };
    let lab = Lab::new(LabConfig::default()).unwrap();
    let home = tempfile::tempdir().unwrap();
    let _sshd = start_sshd(lab.edge(), Ipv4Addr::LOCALHOST, &tools, home.path());
    let world = World::start(lab, &[("ssh", SSHD_PORT)], None);
    let path = |name: &str| home.path().join(name);
    let programs = tools.path("ssh").parent().unwrap().display().to_string();
    // ssh is found as people find theirs, and needs its libraries where it was fetched.
    let with_ssh = |mut command: std::process::Command| {
        let found = tools.command("ssh");
        command.envs(found.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("PATH", format!("{programs}:/usr/bin:/bin"));
        command
    };

    let ssh = |user: &str, remote: &str| {
        let mut command = with_ssh(world.client(&["ssh", &format!("{user}{NODE}")]));
        command.args(ssh_options(home.path())).arg(remote);
        process::run("reachback ssh", &mut command, SOON).unwrap()
    };
    let login = ssh("root@", "echo $(id -un) at $(echo $SSH_CONNECTION | cut -d' ' -f3)");
    assert_eq!(
        (login.stdout.as_str(), login.status.code()),
        ("root at 127.0.0.1\n", Some(0)),
        "{}",
        login.stderr
    );
    assert_eq!(ssh("root@", "exit 7").status.code(), Some(7), "the remote command's own");
    let refused = ssh("nobody-here@", "true");
    assert_eq!(refused.status.code(), Some(255), "ssh's own: {}", refused.stderr);
    assert!(refused.stderr.contains("Permission denied"), "{}", refused.stderr);

    // The host's key is kept under the node's name, so that another way to the node is no stranger.
    let known = fs::read_to_string(path("known_hosts")).unwrap();
    assert!(known.starts_with(&format!("{NODE} ssh-ed25519 ")), "{known}");

    let printed = succeed("ssh-config", &mut world.client(&["ssh-config"]), SOON).unwrap().stdout;
    fs::write(path("config"), &printed).unwrap();
    let mut sent = fs::File::create(path("sent")).unwrap();
    Pattern::new().write(&mut sent, 300_000).unwrap();
    let there = format!("root@{NODE}:{}", path("there").display());
    for (from, to) in
        [(path("sent").display().to_string(), there.clone()), (there, path("back").display().to_string())]
    {
        let mut scp = with_ssh(tools.command_on(world.lab.hub(), "scp"));
        scp.arg("-S").arg(tools.path("ssh")).arg("-F").arg(path("config"));
        // Without the `-F /dev/null` that the other tests begin with.
        scp.args(&ssh_options(home.path())[2..]).args([&from, &to]);
        succeed("scp", &mut scp, A_WHILE).unwrap();
    }
    assert!(fs::read(path("sent")).unwrap() == fs::read(path("back")).unwrap(), "scp changed bytes");
}

/// An address of the hub to which no route of the edge leads.
const BEHIND: &str = "198.51.100.1";

/// The proxies that networks have: the only way from the edge to the explorer leads through one, for the node as for
/// those who ask there.
#[test]
fn a_proxy_is_the_only_way_out() {
    let Some(tools) = tools::need_lab(&["tinyproxy", "sshd", "ssh", "ssh-keygen"]) else { return };
    let lab = Lab::new(LabConfig::default()).unwrap();
    let home = tempfile::tempdir().unwrap();
    let ip = |side: &Side, arguments: &[&str]| {
        succeed("ip", side.command("ip").args(arguments), SOON).unwrap();
    };
    ip(lab.hub(), &["address", "add", &format!("{BEHIND}/32"), "dev", "lo"]);
    ip(lab.edge(), &["route", "add", "unreachable", &format!("{BEHIND}/32")]);
    let explorer = format!("{BEHIND}:9002");
    let mut hub = lab.hub().command(REACHBACK);
    hub.args(["explorer", "--id", "hub", "--insecure-plaintext", "--listen", &explorer]);
    let hub = Process::spawn("explorer", hub.arg("--socket").arg(home.path().join("explorer.sock"))).unwrap();
    hub.wait_for_line("listening", SOON).unwrap();
    let echo = Service::echo(lab.edge());
    let _http = start_tinyproxy(&lab, &tools, home.path());
    let _socks = start_ssh_socks(&lab, &tools, home.path());

    let http = format!("http://ann:s3cret@{}:{TINYPROXY_PORT}", lab.hub().address());
    let wrong = format!("http://ann:wrong@{}:{TINYPROXY_PORT}", lab.hub().address());
    let socks = format!("socks5://127.0.0.1:{SOCKS_PORT}");
    let edge = |command: &[&str], variables: &[(&str, &str)]| {
        let mut edge = lab.edge().command(REACHBACK);
        edge.args(command).args(["--insecure-plaintext", "--explorer", &explorer]);
        for name in ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "REACHBACK_PROXY"] {
            edge.env_remove(name);
        }
        edge.envs(variables.iter().copied());
        edge
    };
    let usual = ("HTTPS_PROXY", http.as_str());
    for (name, flags, variables) in [
        ("--proxy http", &["--proxy", http.as_str()][..], &[][..]),
        ("--proxy socks5", &["--proxy", socks.as_str()], &[]),
        ("HTTPS_PROXY", &[], &[usual]),
        ("NO_PROXY for others", &[], &[usual, ("NO_PROXY", "198.51.100.2,other.example")]),
    ] {
        let service = format!("echo={}", echo.port());
        let node = ["node", "--id", NODE, "--service", &service, "--control-socket", "off"];
        let node = Process::spawn(name, &mut edge(&[&node[..], flags].concat(), variables)).unwrap();
        node.wait_for_line(&format!("{NODE} online at hub"), SOON).unwrap();
        // In at the hub, and from beside the node through the same proxy back to it.
        let mut inside = lab.hub().command(REACHBACK);
        inside.args(["connect", &format!("{NODE}/echo"), "--insecure-plaintext", "--explorer", &explorer]);
        let target = format!("{NODE}/echo");
        let outside = edge(&[&["connect", &target][..], flags].concat(), variables);
        for mut command in [inside, outside] {
            let (mut process, mut stdin) = Process::spawn_with_stdin(name, &mut command).unwrap();
            std::io::Write::write_all(&mut stdin, b"through a proxy\n").unwrap();
            drop(stdin);
            process.wait_for_line("through a proxy", SOON).unwrap();
            assert!(process.wait(SOON).unwrap().success(), "{name}: {}", process.tail());
        }
    }

    for (name, flags, variables, part) in [
        ("no proxy", &[][..], &[][..], "peer_unreachable: "),
        ("--proxy off", &["--proxy", "off"], &[usual], "peer_unreachable: "),
        ("NO_PROXY for it", &[], &[usual, ("NO_PROXY", "198.51.100.0/24")], "peer_unreachable: "),
        ("a wrong password", &["--proxy", &wrong], &[], "http://USER:PASSWORD@HOST:PORT\n"),
    ] {
        let asked =
            process::run(name, &mut edge(&[&["nodes"][..], flags].concat(), variables), SOON).unwrap();
        assert!(!asked.status.success() && asked.stderr.contains(part), "{name}: {}", asked.stderr);
        assert!(
            !asked.stderr.contains("wrong@") && !asked.stderr.contains("s3cret"),
            "{name}: {}",
            asked.stderr
        );
    }
}

const TINYPROXY_PORT: u16 = 8888;
const SOCKS_PORT: u16 = 1080;

/// An HTTP proxy on the hub that asks for a password.
fn start_tinyproxy(lab: &Lab, tools: &Tools, home: &Path) -> Process {
    let config = home.join("tinyproxy.conf");
    let lines = format!(
        "Port {TINYPROXY_PORT}\nListen {}\nTimeout 60\nMaxClients 10\nLogLevel Critical\nLogFile \"{}\"\n\
         BasicAuth ann s3cret\nConnectPort 9002\n",
        lab.hub().address(),
        home.join("tinyproxy.log").display()
    );
    fs::write(&config, lines).expect("a configuration");
    let mut proxy = tools.command_on(lab.hub(), "tinyproxy");
    let proxy =
        Process::spawn("tinyproxy", proxy.arg("-d").arg("-c").arg(&config)).expect("tinyproxy starts");
    wait_for_port(lab.hub(), (lab.hub().address(), TINYPROXY_PORT).into());
    proxy
}

/// OpenSSH's SOCKS proxy on the edge; what it is asked for is dialled by the hub.
fn start_ssh_socks(lab: &Lab, tools: &Tools, home: &Path) -> [Process; 2] {
    let hub = lab.hub().address();
    let sshd = start_sshd(lab.hub(), hub, tools, home);
    let mut ssh = tools.command_on(lab.edge(), "ssh");
    ssh.args(ssh_options(home)).args(["-N", "-D", &format!("127.0.0.1:{SOCKS_PORT}")]);
    ssh.args(["-p", &SSHD_PORT.to_string(), &format!("root@{hub}")]);
    let ssh = Process::spawn("ssh -D", &mut ssh).expect("ssh starts");
    wait_for_port(lab.edge(), (Ipv4Addr::LOCALHOST, SOCKS_PORT).into());
    [ssh, sshd]
}

/// Something that prints nothing is up when its port is.
#[track_caller]
fn wait_for_port(side: &Side, address: SocketAddr) {
    eventually(SOON, &format!("{address} is open"), || {
        side.within(|| TcpStream::connect(address)).expect("on this side").map(drop)
    });
}

const SSHD_PORT: u16 = 2222;

/// An sshd of its own: own keys, own users, no PAM.
fn start_sshd(side: &Side, address: Ipv4Addr, tools: &Tools, home: &Path) -> Process {
    for name in ["host_key", "user_key"] {
        let mut keygen = tools.command("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(home.join(name));
        succeed("ssh-keygen", &mut keygen, SOON).expect("keys");
    }
    fs::copy(home.join("user_key.pub"), home.join("authorized_keys")).expect("the user's key");
    // The machine may have no user sshd, and a locked root.
    let users = "root:x:0:0:root:/root:/bin/sh\nsshd:x:109:65534::/run/sshd:/usr/sbin/nologin\n";
    side.replace_etc("passwd", users).expect("users");
    side.replace_etc("shadow", "root:*:19000:0:99999:7:::\n").expect("passwords");
    let home = home.display();
    let config = format!(
        "Port {SSHD_PORT}\nListenAddress {address}\nHostKey {home}/host_key\nAuthorizedKeysFile {home}/authorized_keys\n\
         PermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n\
         StrictModes no\nPidFile none\nSubsystem sftp internal-sftp\n"
    );
    let config_file = format!("{home}/sshd_config");
    fs::write(&config_file, config).expect("a configuration");
    // sshd wants this directory, and a package makes it only at boot.
    fs::create_dir_all("/run/sshd").expect("/run/sshd");
    let mut sshd = tools.command_on(side, "sshd");
    let sshd = Process::spawn("sshd", sshd.args(["-D", "-e", "-f", &config_file])).expect("sshd starts");
    sshd.wait_for_line("Server listening", SOON).expect("sshd listens");
    sshd
}

fn ssh_options(home: &Path) -> Vec<String> {
    let home = home.display();
    let options = [
        format!("IdentityFile={home}/user_key"),
        format!("UserKnownHostsFile={home}/known_hosts"),
        "IdentitiesOnly=yes".into(),
        "StrictHostKeyChecking=accept-new".into(),
        "BatchMode=yes".into(),
        "ConnectTimeout=20".into(),
    ];
    let options = options.into_iter().flat_map(|option| ["-o".into(), option]);
    ["-F".into(), "/dev/null".into()].into_iter().chain(options).collect()
}
