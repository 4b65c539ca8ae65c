//! examples/deploy is what people copy first, and nobody notices when it goes stale: so the units are read by systemd, the
//! manifests are compared with the schemas of Kubernetes, and the image is assembled and run, read-only, without root
//! and without capabilities, as the Dockerfile and the pod say. There is no container engine in it: tests/deploy_support
//! makes containers of namespaces.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

mod deploy_support;
mod support;

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use reachback_testkit::{
    lab::{Lab, LabConfig},
    process::{Finished, Process, run},
    tools::{self, Tools},
};
use serde_json::Value;

use self::{
    deploy_support::{Dockerfile, Image, Mount, SOON, workspace},
    support::Service,
};

/// Of 10, as `systemd-analyze security` counts: what is left is the network and the local sockets, which are the purpose.
const EXPOSURE: &str = "15";

/// The oldest Kubernetes with sidecars, and the newest whose schema `scripts/tools` brings.
const KUBERNETES: [&str; 2] = ["1.29", "1.37"];

/// Two replicas, named as a Deployment names its pods.
const PODS: [&str; 2] = ["web-6d5f7c9b4-x2k8p", "web-6d5f7c9b4-q9z4m"];

#[test]
fn the_units_are_what_systemd_takes() {
    let Some(tools) = tools::need(&["systemd-analyze"]) else { return };
    let root = tempfile::tempdir().unwrap();
    let units = root.path().join("etc/systemd/system");
    for directory in ["etc/systemd/system", "usr/lib/systemd", "usr/local/bin", "bin"] {
        fs::create_dir_all(root.path().join(directory)).unwrap();
    }
    for program in ["usr/local/bin/reachback", "bin/kill"] {
        let program = root.path().join(program);
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    // The targets that ours are ordered after.
    let own = [Path::new("/lib/systemd/system"), &workspace().join("target/tools/lib/systemd/system")]
        .into_iter()
        .find(|units| units.join("network-online.target").exists())
        .unwrap()
        .to_owned();
    let copied =
        Command::new("cp").arg("-a").arg(own).arg(root.path().join("usr/lib/systemd/system")).status();
    assert!(copied.unwrap().success());
    let names = ["reachback-explorer.service", "reachback-node.service"];
    for name in names {
        fs::copy(workspace().join("examples/deploy/systemd").join(name), units.join(name)).unwrap();
    }
    let mut verify = tools.command("systemd-analyze");
    verify.arg("verify").arg(format!("--root={}", root.path().display())).args(names);
    let Finished { status, stdout, stderr } = run("systemd-analyze verify", &mut verify, SOON).unwrap();
    // An unknown key is a warning, and success.
    assert!(status.success() && stdout.is_empty() && stderr.is_empty(), "{status}: {stdout}{stderr}");

    for name in names {
        let mut security = tools.command("systemd-analyze");
        security
            .args(["security", "--offline=yes", "--no-pager", "--threshold", EXPOSURE])
            .arg(units.join(name));
        let Finished { status, stdout, stderr } =
            run("systemd-analyze security", &mut security, SOON).unwrap();
        assert!(status.success(), "{name}: {stdout}{stderr}");
    }
}

/// What a unit passes on must be what the program reads, and the files beside the units what it takes.
#[test]
fn the_units_and_the_program_mean_the_same() {
    let home = tempfile::tempdir().unwrap();
    for (role, file) in [("explorer", "explorer.toml"), ("node", "node.toml")] {
        let mut check = Command::new(support::REACHBACK);
        check.env_clear().env("HOME", home.path()).args(["check", role, "--config"]);
        check.arg(workspace().join("examples/deploy/systemd").join(file));
        // What the unit's settings become.
        check.env("STATE_DIRECTORY", home.path().join("state"));
        check.env("RUNTIME_DIRECTORY", home.path().join("run"));
        let Finished { status, stdout, stderr } = run(role, &mut check, SOON).unwrap();
        assert!(status.success() && !stderr.contains("warning"), "{file}: {status}\n{stdout}{stderr}");
        assert!(stdout.contains(&home.path().join("state").display().to_string()), "{stdout}");
    }
}

#[test]
fn the_manifests_follow_the_schemas() {
    let Some((tools, libraries)) = python() else { return };
    for version in KUBERNETES {
        let mut validate = tools.command("python3");
        validate.env("PYTHONPATH", &libraries).args(["-m", "kubernetes_validate", "--strict", "-k", version]);
        validate.arg(workspace().join("examples/deploy/kubernetes/sidecar.yaml"));
        let Finished { status, stdout, stderr } = run("kubernetes-validate", &mut validate, SOON).unwrap();
        assert!(status.success(), "{version}: {stdout}{stderr}");
        assert!(stdout.contains("deployment/web") && stdout.contains("networkpolicy/"), "{stdout}{stderr}");
    }
}

#[test]
fn the_dockerfile_copies_what_is_assembled_and_sends_what_is_built() {
    let ignored = fs::read_to_string(workspace().join("examples/deploy/Dockerfile.dockerignore")).unwrap();
    let sent: BTreeSet<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(ignored.lines().any(|line| line == "*"), "everything else stays here");
    let workspace_file = fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
    let members = workspace_file.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    let members = members.split('"').skip(1).step_by(2);
    for needed in members.chain(["Cargo.toml", "Cargo.lock", "scripts/image", "tests"]) {
        let reached = sent.iter().any(|sent| needed == *sent || needed.starts_with(&format!("{sent}/")));
        assert!(reached, "{needed} is not sent to the builder");
    }

    let Some(image) = Image::build() else { return };
    let Dockerfile { copied, user, volumes, .. } = &image.dockerfile;
    let copy_of = |place: &str| {
        copied.iter().find(|(from, to, _)| {
            assert_eq!(from, to, "places in the image are those of its root file system");
            place.starts_with(from.as_str())
        })
    };
    let mut seen = 0;
    look(image.root(), &mut |path| {
        let place = format!("/{}", path.strip_prefix(image.root()).unwrap().display());
        let about = fs::metadata(path).unwrap();
        let owner = format!("{}:{}", about.uid(), about.gid());
        match copy_of(&place) {
            Some((_, _, given)) => {
                let given = given.as_deref().unwrap_or("0:0");
                assert_eq!(owner, given, "{place} has another owner after the Dockerfile's COPY");
                seen += 1;
            }
            // Parents of what is copied, and what a runtime mounts.
            None => assert!(about.is_dir() && owner == "0:0", "the Dockerfile does not copy {place}"),
        }
        assert!(owner != *user || about.is_dir(), "{place}: the program could change it");
    });
    assert!(seen >= 5, "only {seen} files and directories are copied");
    for volume in volumes {
        let about = fs::metadata(image.root().join(volume.trim_start_matches('/'))).unwrap();
        assert_eq!(
            (about.mode() & 0o7777, format!("{}:{}", about.uid(), about.gid())),
            (0o700, user.clone())
        );
    }
}

/// The Dockerfile's two `docker run`s, on two machines of which one can't be dialled.
#[test]
fn the_image_runs_read_only_without_root_and_a_call_goes_through() {
    let Some(image) = Image::build() else { return };
    let lab = Lab::new(LabConfig::default()).unwrap();
    let address = format!("{}:9002", lab.hub().address());
    let mut explorer = image
        .container("explorer", &["explorer", "--id", "hub-1", "--listen", ":9002", "--advertise", &address])
        .start(lab.hub());
    explorer.process.wait_for_line("listening", SOON).unwrap();
    explorer.is_healthy(&image.dockerfile.health);
    for (field, value) in [
        ("Uid", "65532 65532 65532 65532"),
        ("Groups", "65532"),
        ("CapEff", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("NoNewPrivs", "1"),
    ] {
        assert_eq!(explorer.kernel_says(field), value, "{field}");
    }

    let service = pong(&lab);
    let offered = format!("rpc={},framing=raw", service.port());
    let home = tempfile::tempdir().unwrap();
    let node = || {
        image
            .container("node", &["node", "--id", "edge-7", "--service", &offered])
            .with_mount("/var/lib/reachback", Mount::Kept(home.path().to_owned()))
            .with_variable("REACHBACK_JOIN_FILE", "/run/secrets/join")
    };
    let join = join_string(&explorer, &["--role", "register", "--node", "edge-*"]);
    let mut first =
        node().with_mount("/run/secrets", Mount::Secret("join".to_owned(), join)).start(lab.edge());
    first.process.wait_for_line("edge-7 online at hub-1", SOON).unwrap();
    first.is_healthy(&["reachback", "status", "-q", "--node"].map(str::to_owned));
    assert_eq!(explorer.exec_until_fine(&["reachback", "call", "edge-7/rpc", "ping"]).trim(), "\"pong\"");
    assert_eq!(first.stop(), Some(0), "{}", first.process.tail());

    // The next container has the volume of the one before, and an empty file where the join string was.
    let again = node()
        .with_mount("/run/secrets", Mount::Secret("join".to_owned(), "\n".to_owned()))
        .start(lab.edge());
    again.process.wait_for_line("edge-7 online at hub-1", SOON).unwrap();
    assert_eq!(explorer.exec_until_fine(&["reachback", "call", "edge-7/rpc", "ping"]).trim(), "\"pong\"");
    assert_eq!(explorer.stop(), Some(0), "{}", explorer.process.tail());
}

/// Two replicas of the pod, each as the manifest says: user, variables, mounts, arguments, probe.
#[test]
fn the_sidecar_runs_as_its_manifest_says() {
    let Some(image) = Image::build() else { return };
    let (Some(manifests), Some(tools)) = (manifests(), tools::need(&["socat"])) else { return };
    let [deployment, policy] = manifests.as_slice() else { panic!("{manifests:?}") };
    let pod = &deployment["spec"]["template"]["spec"];
    let sidecar = &pod["initContainers"][0];
    assert_eq!((&sidecar["name"], &sidecar["restartPolicy"]), (&"reachback".into(), &"Always".into()));
    let security = &sidecar["securityContext"];
    assert_eq!(
        (&pod["securityContext"]["runAsNonRoot"], &security["readOnlyRootFilesystem"]),
        (&true.into(), &true.into())
    );
    assert_eq!(pod["securityContext"]["fsGroup"], security["runAsGroup"]);
    let user = format!("{}:{}", security["runAsUser"], security["runAsGroup"]);
    assert_eq!(user, image.dockerfile.user);
    // What the cluster's network lets through: nobody in, one address and port out.
    let egress = &policy["spec"]["egress"];
    assert_eq!(
        (egress.as_array().unwrap().len(), &egress[0]["ports"][0]["port"]),
        (1, &9002.into()),
        "{policy}"
    );
    assert_eq!(policy["spec"]["ingress"], serde_json::json!([]));
    assert_eq!(
        policy["spec"]["podSelector"]["matchLabels"],
        deployment["spec"]["template"]["metadata"]["labels"]
    );

    let lab = Lab::new(LabConfig::default()).unwrap();
    let address = format!("{}:9002", lab.hub().address());
    let explorer = image
        .container("explorer", &["explorer", "--id", "hub-1", "--listen", ":9002", "--advertise", &address])
        .start(lab.hub());
    explorer.process.wait_for_line("listening", SOON).unwrap();
    let asked =
        ["--role", "register", "--node", "web-*", "--ephemeral", "--uses", "unlimited", "--ttl", "90d"];
    let join = join_string(&explorer, &asked);
    // Pods have a network each and a lab has one edge: the replicas have the application in common.
    let mut application = tools.command_on(lab.edge(), "socat");
    application.args(["TCP-LISTEN:8080,bind=127.0.0.1,reuseaddr,fork", "EXEC:cat"]);
    let application = Process::spawn("application", &mut application).unwrap();
    let replicas = PODS.map(|name| {
        let mut container =
            image.container(name, &strings(&sidecar["args"])).without_volumes().with_user(&user);
        for variable in sidecar["env"].as_array().unwrap() {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("metadata.name") => name,
                _ => variable["value"].as_str().unwrap(),
            };
            container = container.with_variable(variable["name"].as_str().unwrap(), value);
        }
        for mount in sidecar["volumeMounts"].as_array().unwrap() {
            let volumes = pod["volumes"].as_array().unwrap();
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
            let content = match volume["emptyDir"].is_null() {
                false => Mount::EmptyDir,
                true => {
                    assert_eq!(
                        (&volume["secret"]["secretName"], &mount["readOnly"]),
                        (&"reachback-join".into(), &true.into())
                    );
                    Mount::Secret("join".to_owned(), join.clone())
                }
            };
            container = container.with_mount(mount["mountPath"].as_str().unwrap(), content);
        }
        container.start(lab.edge())
    });
    let probe = &sidecar["startupProbe"]["exec"]["command"];
    let probe: Vec<String> = strings(probe).into_iter().map(str::to_owned).collect();
    for replica in &replicas {
        replica.is_healthy(&probe);
        let log = replica.process.wait_for_line("online at hub-1", SOON).unwrap();
        assert!(serde_json::from_str::<Value>(&log).is_ok(), "REACHBACK_LOG=json: {log}");
    }
    for name in PODS {
        let target = format!("{name}/web");
        let echoed = explorer.exec_with_input(&["reachback", "connect", &target], "hello\n");
        assert_eq!(echoed.stdout, "hello", "{name}: {}", echoed.stderr);
    }
    drop(application);
}

/// The explorer's machine makes it, as its operator would.
fn join_string(explorer: &deploy_support::Running<'_>, asked: &[&str]) -> String {
    let created = explorer.exec_until_fine(&[&["reachback", "token", "create", "--json"], asked].concat());
    let created: Value = serde_json::from_str(&created).unwrap();
    created["join"].as_str().unwrap_or_else(|| panic!("{created}")).to_owned()
}

/// A JSON-RPC service on the edge's loopback, which answers each visitor once.
fn pong(lab: &Lab) -> Service {
    Service::start(lab.edge(), |mut visitor| {
        visitor.read_exact(&mut [0])?;
        visitor.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"pong\"}")
    })
}

/// The objects of the manifest.
fn manifests() -> Option<Vec<Value>> {
    let (tools, libraries) = python()?;
    let mut convert = tools.command("python3");
    convert.env("PYTHONPATH", &libraries).arg("-c");
    convert.arg("import json, sys, yaml; json.dump(list(yaml.safe_load_all(open(sys.argv[1]))), sys.stdout)");
    convert.arg(workspace().join("examples/deploy/kubernetes/sidecar.yaml"));
    let Finished { status, stdout, stderr } = run("yaml", &mut convert, SOON).unwrap();
    assert!(status.success(), "{stderr}");
    Some(serde_json::from_str(&stdout).unwrap())
}

/// Python, and the directory of libraries that scripts/tools brings.
fn python() -> Option<(Tools, PathBuf)> {
    let libraries = workspace().join("target/tools/python");
    if !libraries.join("kubernetes_validate").exists() {
        tools::skip("missing kubernetes-validate; run scripts/tools");
        return None;
    }
    Some((tools::need(&["python3"])?, libraries))
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn look(directory: &Path, see: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        see(&path);
        if path.is_dir() {
            look(&path, see);
        }
    }
}
