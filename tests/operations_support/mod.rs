//! The machines of an operator's handbook: each with a host name, an /etc, a /var/lib, a /run and a home of its own, and
//! with the tools the handbook uses, in one network that nobody else is in.
//!
//! A machine is a mount and a host name namespace; nothing it does touches the real machine. `systemctl` is a stand-in
//! that runs what the unit files of examples/deploy say, as systemd would; `scp` copies between machines.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use reachback_testkit::{
    eventually,
    process::{Finished, Process, run},
    tools::{self, Tools},
};
use tempfile::TempDir;

/// Longer than anything here takes on a machine that also builds.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// What the machines are made of, and what recipes use beyond a shell.
const PROGRAMS: [&str; 5] = ["unshare", "nsenter", "ip", "socat", "faketime"];

/// Name and address of every machine of the handbook.
pub(crate) const MACHINES: [(&str, &str); 5] = [
    ("hub", "192.0.2.10"),
    ("new-hub", "192.0.2.20"),
    ("edge", "192.0.2.30"),
    ("new-edge", "192.0.2.31"),
    ("laptop", "192.0.2.40"),
];

/// Machines, and the network between them. Dropping it ends every program on them.
pub(crate) struct World {
    tools: Tools,
    machines: BTreeMap<&'static str, Process>,
    /// Process 1 of all programs that `systemctl` starts.
    network: Process,
    shared: TempDir,
}

impl World {
    /// `None` where namespaces or a program are missing.
    pub(crate) fn start() -> Option<Self> {
        let tools = tools::need_lab(&PROGRAMS)?;
        let shared = tempfile::tempdir().unwrap();
        // A shell and not sleep itself: as process 1 it has to bury what others leave.
        let script = "ip link add name lan type bridge\nip link set lan up\necho up\nsleep infinity & wait\n";
        let mut command = tools.command("unshare");
        command.args(["--net", "--pid", "--fork", "--kill-child", "sh", "-euc", script]);
        let network = Process::spawn("network", &mut command).unwrap();
        network.wait_for_line("up", SOON).unwrap();
        let mut world = Self { tools, machines: BTreeMap::new(), network, shared };
        world.names_are(&[("hub.example.com", MACHINES[0].1)]);
        // It knows its library by the place where it is installed, and may have been fetched.
        let library = world.tools.path("faketime").ancestors().nth(2).unwrap().join("lib");
        let library = library.join(format!("{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH));
        let faketime = FAKETIME.replace("LIBRARY", &library.display().to_string());
        for (name, program) in [
            ("systemctl", SYSTEMCTL),
            ("scp", SCP),
            ("journalctl", JOURNALCTL),
            ("faketime", faketime.as_str()),
        ] {
            let file = world.shared.path().join("bin").join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/deploy/systemd");
            fs::write(&file, program.replace("UNITS", &units.display().to_string())).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        for (name, address) in MACHINES {
            world.boot(name, address);
        }
        Some(world)
    }

    /// What the names of the handbook lead to, from now on.
    pub(crate) fn names_are(&self, names: &[(&str, &str)]) {
        let mut hosts = "127.0.0.1 localhost\n".to_owned();
        for (name, address) in MACHINES.iter().chain(names) {
            let _infallible = writeln!(hosts, "{address} {name}");
        }
        // Written in place: machines have this very file mounted.
        fs::write(self.shared.path().join("hosts"), hosts).unwrap();
    }

    /// A command line on a machine, as root, with what it printed.
    pub(crate) fn run(&self, machine: &str, script: &str) -> Finished {
        let mut command = self.tools.command("nsenter");
        command.args(["--mount", "--uts", "--net", &format!("--target={}", self.machine(machine))]);
        // Programs that a script leaves behind are children of the network's process 1, and end with it.
        let mut inner = vec!["nsenter".to_owned(), format!("--target={}", self.inside()), "--pid".to_owned()];
        inner.extend(["sh".to_owned(), "-euc".to_owned(), format!("cd /root\n{script}")]);
        command.args(inner);
        command.env_clear().env("PATH", self.path()).env("HOME", "/root").current_dir("/");
        run(&format!("on {machine}: {script}"), &mut command, SOON).unwrap()
    }

    /// The file system of a machine, for looking into it from outside.
    pub(crate) fn root(&self, machine: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.machine(machine)))
    }

    fn boot(&mut self, name: &'static str, address: &str) {
        let own = self.shared.path().join(name);
        fs::create_dir_all(own.join("etc")).unwrap();
        fs::create_dir_all(own.join("work")).unwrap();
        let (own, shared) = (own.display(), self.shared.path().display());
        let script = format!(
            "mount --make-rprivate /\n\
             hostname {name}\n\
             mount -t overlay overlay -o lowerdir=/etc,upperdir={own}/etc,workdir={own}/work /etc\n\
             mount --bind {shared}/hosts /etc/hosts\n\
             for place in /var/lib /run /root; do mount -t tmpfs -o mode=0755 tmpfs $place; done\n\
             mkdir -p /etc/reachback\n\
             echo {shared} > /run/shared\n\
             ip link set lo up\n\
             socat TCP-LISTEN:7000,bind=127.0.0.1,reuseaddr,fork EXEC:cat &\n\
             echo up\n\
             exec sleep infinity\n",
        );
        let mut command = self.tools.command("unshare");
        command.args(["--mount", "--uts", "--net", "sh", "-euc", &script]);
        let machine = Process::spawn(name, &mut command).unwrap();
        machine.wait_for_line("up", SOON).unwrap();
        fs::write(self.shared.path().join(format!("{name}.pid")), machine.pid().to_string()).unwrap();
        let pid = machine.pid();
        self.machines.insert(name, machine);
        let plug = format!(
            "ip link add name {name} type veth peer name eth0 netns {pid} && ip link set {name} master lan up"
        );
        self.in_network_of(self.inside(), &plug);
        self.in_network_of(pid, &format!("ip address add {address}/24 dev eth0 && ip link set eth0 up"));
    }

    fn in_network_of(&self, process: u32, script: &str) {
        let mut command = self.tools.command("nsenter");
        command.args([&format!("--target={process}"), "--net", "sh", "-euc", script]);
        let Finished { status, stderr, .. } = run(script, &mut command, SOON).unwrap();
        assert!(status.success(), "{script}: {stderr}");
    }

    fn machine(&self, name: &str) -> u32 {
        self.machines.get(name).unwrap_or_else(|| panic!("there is no machine {name}")).pid()
    }

    fn path(&self) -> String {
        let own = self.shared.path().join("bin");
        let binary = Path::new(env!("CARGO_BIN_EXE_reachback")).parent().unwrap();
        format!("{}:{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", own.display(), binary.display())
    }

    /// Process 1 of the network, by its number outside.
    fn inside(&self) -> u32 {
        let parent = self.network.pid();
        eventually(SOON, "process 1 of the network", || {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
            children
                .map_err(|error| error.to_string())?
                .trim()
                .parse::<u32>()
                .map_err(|error| error.to_string())
        })
    }
}

/// Reads the unit's own file, so that what the handbook's machines run is what examples/deploy says.
const SYSTEMCTL: &str = r#"#!/bin/sh
set -eu
units=UNITS
action=$1
shift
start() {
    run=/run/$(sed -n 's/^RuntimeDirectory=//p' "$units/$unit.service")
    state=$(sed -n 's/^StateDirectory=//p' "$units/$unit.service")
    # As for every dynamic user: the directory is a link.
    mkdir -p "$run" "/var/lib/private/$state" "/var/lib/$(dirname "$state")" "/run/credentials/$unit"
    ln -sfn "/var/lib/private/$state" "/var/lib/$state"
    state=/var/lib/$state
    chmod 0700 "$run" "$state"
    cat /etc/reachback/join >"/run/credentials/$unit/join" 2>/dev/null || echo >"/run/credentials/$unit/join"
    command=$(sed -n 's/^ExecStart=//p' "$units/$unit.service")
    for variable in $(sed -n 's/^Environment=//p' "$units/$unit.service"); do
        export "$(echo "$variable" | sed "s|%d|/run/credentials/$unit|")"
    done
    STATE_DIRECTORY=$state RUNTIME_DIRECTORY=$run setsid ${command#/usr/local/bin/} >>"/run/$unit.log" 2>&1 </dev/null &
    echo $! >"/run/$unit.pid"
    # As far as systemd is concerned it has started; whoever reads the handbook takes longer to type the next line.
    tries=0
    until grep -q 'local  \|online at\|offline at' "/run/$unit.log"; do
        kill -0 $! || { cat "/run/$unit.log" >&2; exit 1; }
        tries=$((tries + 1)); [ $tries -lt 300 ] || { cat "/run/$unit.log" >&2; exit 1; }
        sleep 0.1
    done
}
stop() {
    [ -e "/run/$unit.pid" ] || return 0
    kill -TERM "$(cat "/run/$unit.pid")" 2>/dev/null || true
    while kill -0 "$(cat "/run/$unit.pid")" 2>/dev/null; do sleep 0.05; done
    rm -rf "/run/$unit.pid" "/run/$unit.log" "/run/$(sed -n 's/^RuntimeDirectory=//p' "$units/$unit.service")"
}
for unit; do
    unit=${unit%.service}
    case $action in
        start) start ;;
        enable) if [ "$unit" != --now ]; then start; fi ;;
        stop) stop ;;
        restart) stop; start ;;
        reload) kill -HUP "$(cat "/run/$unit.pid")" ;;
        *) echo "systemctl $action: the handbook's machines do not know it" >&2; exit 1 ;;
    esac
done
"#;

const SCP: &str = r#"#!/bin/sh
set -eu
from=$1 host=${2%%:*} to=${2#*:}
case $to in /*) ;; *) to=/root/$to ;; esac
cp -r "$from" "/proc/$(cat "$(cat /run/shared)/$host.pid")/root$to"
"#;

const JOURNALCTL: &str = r#"#!/bin/sh
set -eu
[ "$1" = -u ]
cat "/run/${2%.service}.log"
"#;

/// Only the time of day: nobody's stopwatch goes wrong with their calendar.
const FAKETIME: &str = r#"#!/bin/sh
set -eu
export FAKETIME="@$1" FAKETIME_DONT_FAKE_MONOTONIC=1 LD_PRELOAD=LIBRARY TZ=UTC
shift
exec "$@"
"#;
