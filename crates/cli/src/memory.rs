//! How much memory there is for this process: the machine's, or what its cgroup leaves of it.
//!
//! In a container the machine's memory says nothing: whoever plans with it is killed by the kernel, in the middle of
//! everything, without a word. Both generations of cgroups are asked, at every level from the process's own up, since
//! any of them may be the narrow one.

use std::{fs, path::Path};

use crate::{config::size::Size, limits};

/// What peers may make this process hold unless somebody says otherwise: a quarter of the memory there is.
pub(crate) fn usual_budget() -> Size {
    budget(Path::new("/"))
}

fn budget(root: &Path) -> Size {
    let quarter = available(root).map(|bytes| usize::try_from(bytes / 4).unwrap_or(usize::MAX));
    Size(quarter.map_or(limits::MEMORY_BUDGET_UNKNOWN, |quarter| quarter.max(limits::MEMORY_BUDGET_MIN)))
}

/// In bytes; `None` where the system does not say.
fn available(root: &Path) -> Option<u64> {
    let read = |path: &str| fs::read_to_string(root.join(path)).ok();
    let machine = read("proc/meminfo").as_deref().and_then(total);
    let groups = read("proc/self/cgroup").unwrap_or_default();
    let limits = groups.lines().filter_map(limit_file).filter_map(|(mount, group, file)| {
        let mut levels: Vec<&str> = group.split('/').filter(|level| !level.is_empty()).collect();
        let mut least: Option<u64> = None;
        loop {
            let path = [&[mount], levels.as_slice(), &[file]].concat().join("/");
            let limit = read(&path).and_then(|limit| limit.trim().parse().ok());
            least = least.into_iter().chain(limit).min();
            if levels.pop().is_none() {
                return least;
            }
        }
    });
    limits.chain(machine).min()
}

/// The first line of `/proc/meminfo`, in kB.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Where a line of `/proc/self/cgroup` says that limits of memory are: mount, path of the group, name of the file.
fn limit_file(line: &str) -> Option<(&str, &str, &'static str)> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
    match controllers {
        "" => Some(("sys/fs/cgroup", group, "memory.max")),
        _ if controllers.split(',').any(|name| name == "memory") => {
            Some(("sys/fs/cgroup/memory", group, "memory.limit_in_bytes"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const MEMINFO: &str = "MemTotal:        8388608 kB\nMemFree:          123456 kB\n";

    fn with(files: &[(&str, &str)]) -> (Option<u64>, Size) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        (available(root.path()), budget(root.path()))
    }

    #[test]
    fn without_a_group_it_is_the_machines() {
        assert_eq!(with(&[("proc/meminfo", MEMINFO)]), (Some(8 * GIB), Size(2 << 30)));
        let unlimited = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/user.slice\n"),
            ("sys/fs/cgroup/user.slice/memory.max", "max\n"),
        ];
        assert_eq!(with(&unlimited).0, Some(8 * GIB));
    }

    #[test]
    fn a_group_of_the_second_kind_limits_it_at_any_level() {
        let files = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/system.slice/reachback.service\n"),
            ("sys/fs/cgroup/system.slice/reachback.service/memory.max", "max\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "536870912\n"),
        ];
        assert_eq!(with(&files), (Some(GIB / 2), Size(128 << 20)));
    }

    #[test]
    fn a_group_of_the_first_kind_limits_it_seen_from_inside_or_outside() {
        let groups = "12:cpu,cpuacct:/a\n7:rdma,memory:/docker/abc\n0::/\n";
        let outside = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", groups),
            ("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "268435456\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(with(&outside).0, Some(GIB / 4));
        let inside = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", groups),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n"),
        ];
        assert_eq!(with(&inside).0, Some(GIB / 4));
    }

    #[test]
    fn a_tiny_machine_still_has_enough_to_work_and_an_unknown_one_a_fixed_sum() {
        assert_eq!(with(&[("proc/meminfo", "MemTotal: 16384 kB\n")]).1, Size(limits::MEMORY_BUDGET_MIN));
        assert_eq!(with(&[]), (None, Size(limits::MEMORY_BUDGET_UNKNOWN)));
    }

    #[test]
    fn this_machine_says_something() {
        assert!(available(Path::new("/")).is_none_or(|bytes| bytes > 16 << 20));
    }
}
