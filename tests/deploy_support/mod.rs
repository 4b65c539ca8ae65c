//! Containers without a container engine: the image that scripts/image assembles, run as the Dockerfile (or a pod) says.
//!
//! Each container gets a copy of the image's root file system, mounted read-only in a mount namespace of its own, with
//! its volumes over it; a process namespace in which the program is process 1; and a user that is not root, without
//! capabilities and without a way to new ones. The network is a side of the lab.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    io::Write as _,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use reachback_testkit::{
    eventually,
    lab::Side,
    process::{Finished, Process, Signal, Stream, run},
    tools::{self, Tools},
};
use tempfile::TempDir;

/// Longer than anything here takes on a machine that also builds.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The first build of everything for another target, on two busy cores, behind other builds.
const BUILD: Duration = Duration::from_secs(1_200);

/// What a container is made with.
const PROGRAMS: [&str; 4] = ["unshare", "nsenter", "setpriv", "musl-gcc"];

/// The image, and what its Dockerfile says of how it runs.
pub(crate) struct Image {
    tools: Tools,
    root: PathBuf,
    pub(crate) dockerfile: Dockerfile,
}

/// A container that has not been started.
pub(crate) struct Container<'a> {
    image: &'a Image,
    name: String,
    user: String,
    variables: BTreeMap<String, String>,
    mounts: Vec<(String, Mount)>,
    arguments: Vec<String>,
}

/// What lies over the read-only root.
pub(crate) enum Mount {
    /// An empty volume as Docker makes it, with the owner of the image's directory.
    Fresh,
    /// A volume that outlives the container: a directory of the test that belongs to the container's user.
    Kept(PathBuf),
    /// An `emptyDir` of a pod whose group is the image's: everyone may write to it.
    EmptyDir,
    /// Files of a pod's secret: name and content.
    Secret(String, String),
}

/// A container that runs. Dropping it kills everything in it.
pub(crate) struct Running<'a> {
    pub(crate) process: Process,
    image: &'a Image,
    user: String,
    variables: BTreeMap<String, String>,
    _root: TempDir,
}

impl Image {
    /// Builds it, once for all tests of this program; `None` where the lab or a tool is missing.
    pub(crate) fn build() -> Option<&'static Self> {
        static IMAGE: OnceLock<Option<Image>> = OnceLock::new();
        IMAGE.get_or_init(Self::made).as_ref()
    }

    fn made() -> Option<Self> {
        let tools = tools::need_lab(&PROGRAMS)?;
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image");
        if root.exists() {
            fs::remove_dir_all(&root).unwrap();
        }
        let mut script = Command::new(workspace().join("scripts/image"));
        let built = run("scripts/image", script.arg("--dev").arg(&root), BUILD).unwrap();
        assert!(built.status.success(), "{}{}", built.stdout, built.stderr);
        let dockerfile = Dockerfile::read();
        Some(Self { tools, root, dockerfile })
    }

    /// Its root file system.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A container that runs `reachback ARGUMENTS`.
    pub(crate) fn container(&self, name: &str, arguments: &[&str]) -> Container<'_> {
        let Dockerfile { user, variables, volumes, .. } = &self.dockerfile;
        Container {
            image: self,
            name: name.to_owned(),
            user: user.clone(),
            variables: variables.clone(),
            mounts: volumes.iter().map(|volume| (volume.clone(), Mount::Fresh)).collect(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        }
    }
}

impl<'a> Container<'a> {
    /// Sets a variable.
    pub(crate) fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Mounts something, instead of what was there.
    pub(crate) fn with_mount(mut self, at: &str, mount: Mount) -> Self {
        self.mounts.retain(|(there, _)| there != at);
        self.mounts.push((at.to_owned(), mount));
        self
    }

    /// Takes away the image's own volumes: a pod says what is mounted where.
    pub(crate) fn without_volumes(mut self) -> Self {
        self.mounts.clear();
        self
    }

    /// Runs as this `UID:GID`.
    pub(crate) fn with_user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// Starts it on one side of a lab.
    pub(crate) fn start(self, side: &Side) -> Running<'a> {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        let copied = Command::new("cp").arg("-a").args([&self.image.root, &root]).status().unwrap();
        assert!(copied.success(), "the image could not be copied");
        let (uid, gid) = self.user.split_once(':').unwrap();
        let at = root.display();
        let mut script = format!("mount --make-rprivate /\nmount --bind {at} {at}\n");
        for (number, (place, mount)) in self.mounts.iter().enumerate() {
            let place = root.join(place.trim_start_matches('/'));
            fs::create_dir_all(&place).unwrap();
            let place = place.display();
            let _infallible = match mount {
                Mount::Fresh => {
                    writeln!(script, "mount -t tmpfs -o mode=0700,uid={uid},gid={gid} tmpfs {place}")
                }
                Mount::EmptyDir => writeln!(script, "mount -t tmpfs -o mode=2777,gid={gid} tmpfs {place}"),
                Mount::Kept(volume) => {
                    let gid = gid.parse().unwrap();
                    chown(volume, Some(uid.parse().unwrap()), Some(gid)).unwrap();
                    writeln!(script, "mount --bind {} {place}", volume.display())
                }
                Mount::Secret(name, content) => {
                    let secret = directory.path().join(format!("secret-{number}"));
                    fs::create_dir(&secret).unwrap();
                    let file = secret.join(name);
                    fs::write(&file, content).unwrap();
                    fs::set_permissions(&file, fs::Permissions::from_mode(0o440)).unwrap();
                    chown(&file, Some(0), Some(gid.parse().unwrap())).unwrap();
                    writeln!(script, "mount --bind -o ro {} {place}", secret.display())
                }
            };
        }
        let setpriv = self.image.tools.path("setpriv").display();
        let chroot = tools::find("chroot").unwrap();
        let _infallible = write!(
            script,
            "mount -t proc proc {at}/proc\n\
             mount -o remount,bind,ro {at}\n\
             export {variables}\n\
             exec {setpriv} --no-new-privs --inh-caps=-all --bounding-set=-all,+sys_chroot,+setuid,+setgid \
             {chroot} --userspec={user} --groups={gid} {at} \"$@\"\n",
            variables = exports(&self.variables),
            chroot = chroot.display(),
            user = self.user,
        );
        let mut command = self.image.tools.command_on(side, "unshare");
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.args(["--mount", "--pid", "--ipc", "--fork", "--kill-child", "sh", "-euc", &script, "sh"]);
        command.args(&self.image.dockerfile.entrypoint).args(&self.arguments);
        Running {
            process: Process::spawn(&self.name, &mut command).unwrap(),
            image: self.image,
            user: self.user,
            variables: self.variables,
            _root: directory,
        }
    }
}

impl Running<'_> {
    /// Runs a program inside, as `docker exec` does.
    pub(crate) fn exec(&self, arguments: &[&str]) -> Finished {
        self.exec_with_input(arguments, "")
    }

    /// The same with input.
    pub(crate) fn exec_with_input(&self, arguments: &[&str], input: &str) -> Finished {
        let (uid, gid) = self.user.split_once(':').unwrap();
        let mut command = Command::new(self.image.tools.path("nsenter"));
        command.arg(format!("--target={}", self.inside()));
        command.args(["--mount", "--pid", "--net", "--ipc", "--root", "--wd"]);
        command.arg(format!("--setuid={uid}")).arg(format!("--setgid={gid}"));
        command.env_clear().envs(&self.variables).args(arguments);
        let (mut process, mut stdin) = Process::spawn_with_stdin(&arguments.join(" "), &mut command).unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        let status = process.wait(SOON).unwrap();
        let text = |stream| process.lines(stream).join("\n");
        Finished { status, stdout: text(Stream::Out), stderr: text(Stream::Err) }
    }

    /// Waits until a program inside succeeds, and returns what it printed.
    #[track_caller]
    pub(crate) fn exec_until_fine(&self, arguments: &[&str]) -> String {
        eventually(SOON, &arguments.join(" "), || {
            let Finished { status, stdout, stderr } = self.exec(arguments);
            match status.success() {
                true => Ok(stdout),
                false => Err(format!("{status}: {stdout}{stderr}\n{}", self.process.tail())),
            }
        })
    }

    /// What the Dockerfile or the pod asks to see whether all is well.
    #[track_caller]
    pub(crate) fn is_healthy(&self, probe: &[String]) {
        self.exec_until_fine(&probe.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// SIGTERM to process 1, as every engine does; its exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        self.process.signal(Signal::Terminate).unwrap();
        self.process.wait(SOON).unwrap().code()
    }

    /// What the kernel says of the program: a field of `/proc/PID/status`.
    pub(crate) fn kernel_says(&self, field: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.inside())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {field} in {status}"))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Process 1 of the container, by its number outside.
    fn inside(&self) -> u32 {
        let parent = self.process.pid();
        eventually(SOON, "process 1 of the container", || {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
            let children = children.map_err(|error| format!("{error}\n{}", self.process.tail()))?;
            children.trim().parse().map_err(|_| format!("{children:?}\n{}", self.process.tail()))
        })
    }
}

/// What a Dockerfile says, of what this project's uses.
#[derive(Debug, Default)]
pub(crate) struct Dockerfile {
    pub(crate) entrypoint: Vec<String>,
    pub(crate) health: Vec<String>,
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) user: String,
    pub(crate) volumes: Vec<String>,
    /// From the image's root file system: place there, place in the image, owner.
    pub(crate) copied: Vec<(String, String, Option<String>)>,
}

impl Dockerfile {
    pub(crate) fn read() -> Self {
        let text = fs::read_to_string(workspace().join("examples/deploy/Dockerfile")).unwrap();
        let mut read = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((instruction, rest)) = line.split_once(' ') else { continue };
            let list = |text: &str| serde_json::from_str::<Vec<String>>(text).unwrap();
            match instruction {
                "ENTRYPOINT" => read.entrypoint = list(rest),
                "HEALTHCHECK" => read.health = list(rest.split_once("CMD ").unwrap().1),
                "VOLUME" => read.volumes = list(rest),
                "USER" => rest.clone_into(&mut read.user),
                "ENV" => {
                    let (name, value) = rest.split_once('=').unwrap();
                    read.variables.insert(name.to_owned(), value.to_owned());
                }
                "COPY" if rest.starts_with("--from=build ") => {
                    let (options, places): (Vec<&str>, Vec<&str>) =
                        rest.split_whitespace().partition(|word| word.starts_with("--"));
                    let owner = options.iter().find_map(|option| option.strip_prefix("--chown="));
                    let from = places[0].strip_prefix("/image").unwrap();
                    read.copied.push((from.to_owned(), places[1].to_owned(), owner.map(str::to_owned)));
                }
                _ => {}
            }
        }
        read
    }
}

pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn exports(variables: &BTreeMap<String, String>) -> String {
    variables.iter().map(|(name, value)| format!("{name}='{value}' ")).collect()
}
